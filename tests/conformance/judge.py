"""Torch's own operator database as the judge: the same call on pointers and locally, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo, SampleInput
from torch.utils._pytree import tree_flatten, tree_map

Place = Callable[[torch.Tensor], torch.Tensor]
Bring = Callable[[torch.Tensor], torch.Tensor]
Seed = Callable[[int], object]


def full_name(op: OpInfo) -> str:
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else op.name


#: All entries with float32 samples that torch itself can run here; jiterator is for GPUs only.
ENTRIES = {
    full_name(op): op
    for op in op_db
    if torch.float32 in op.supported_dtypes("cpu") and not op.name.startswith("jiterator")
}

#: What these give is not determined: only shapes and dtypes are compared.
UNDETERMINED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty", "new_empty_strided"}


def check(op: OpInfo, place: Place, bring: Bring, seed: Seed) -> int:
    """Compare ``op`` on all its float32 samples, on tensors placed by ``place``, with local torch.

    ``seed`` has random numbers start anew where the tensors are placed. Returns how many samples were
    compared. Raises whatever differs.
    """
    differentiable = op.supports_autograd and torch.float32 in op.supported_backward_dtypes("cpu")
    count = 0

    def seed_both(number: int) -> None:
        _seed_here(number)
        seed(number)

    for sample in op.sample_inputs("cpu", torch.float32, requires_grad=differentiable):
        expected, expected_grads = _run(op, _mapped(sample, _fresh), _seed_here)
        actual, actual_grads = _run(op, _mapped(sample, lambda t: place(_fresh(t))), seed_both)
        actual, actual_grads = tree_map(_bringing(bring), (actual, actual_grads))
        if op.name in UNDETERMINED:
            expected, actual = expected.new_zeros(expected.shape), actual.new_zeros(actual.shape)
        torch.testing.assert_close(actual, expected, equal_nan=True, check_stride=False)
        torch.testing.assert_close(actual_grads, expected_grads, equal_nan=True, check_stride=False)
        count += 1
    return count


#: Not torch.manual_seed, which notes its whole call stack for the GPUs: a millisecond.
_seed_here = torch.default_generator.manual_seed


def _fresh(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _mapped(sample: SampleInput, change: Place) -> SampleInput:
    def one(value: Any) -> Any:
        return change(value) if isinstance(value, torch.Tensor) else value

    input, args, kwargs = tree_map(one, (sample.input, sample.args, sample.kwargs))
    return SampleInput(input, args=tuple(args), kwargs=kwargs, output_process_fn_grad=sample.output_process_fn_grad)


def _bringing(bring: Bring) -> Callable[[Any], Any]:
    return lambda value: bring(value.detach()) if isinstance(value, torch.Tensor) else value


def _run(op: OpInfo, sample: SampleInput, seed: Seed) -> tuple[Any, list[torch.Tensor | None]]:
    seed(0)
    with patch.object(torch, "manual_seed", seed):  # which the database's own random entries call
        output = op(sample.input, *sample.args, **sample.kwargs)
    kept = tree_map(lambda t: t.detach().clone() if isinstance(t, torch.Tensor) else t, output)
    processed = sample.output_process_fn_grad(output) if sample.output_process_fn_grad else output
    ends = [t for t in tree_flatten(processed)[0] if isinstance(t, torch.Tensor) and t.requires_grad]
    leaves = [
        t
        for t in tree_flatten((sample.input, sample.args, sample.kwargs))[0]
        if isinstance(t, torch.Tensor) and t.requires_grad and t.is_leaf
    ]
    if not ends or not leaves:
        return kept, []
    loss = sum((t.abs() if t.is_complex() else t).sum() for t in ends)
    return kept, list(torch.autograd.grad(loss, leaves, allow_unused=True))
