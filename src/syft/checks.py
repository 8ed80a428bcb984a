"""What torch is known not to check of an operator's arguments, and to fail on: tables of checks, by operator.

Each check is given the arguments by name. Those by shape run once for each kind of call, those by
value each time; what they read is small beside what the operator does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from . import limits
from .errors import LimitExceeded, OperatorFailed, OperatorIndexFailed
from .operators import BY_NAME, allowed
from .outline import infer

Call = dict[str, Any]
Check = Callable[[Call], None]
Bound = Callable[[Call], int]

_REFLECTION = 2  # of the padding modes of grid_sampler
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def _refuse(problem: str) -> OperatorFailed:
    return OperatorFailed(problem, mend="Torch itself does not check this, and would end the room.")


def _alike(*names: str) -> Check:
    """These have one shape."""

    def check(call: Call) -> None:
        if len({call[name].shape for name in names if call[name] is not None}) > 1:
            raise _refuse(f"{', '.join(names)} differ in shape")

    return check


def _as_given_by(forward: str, name: str = "grad_output", output: int = 0) -> Check:
    """``name`` has the shape that the operator ``forward`` gives for the arguments of the same names."""

    def check(call: Call) -> None:
        operator = BY_NAME[forward]
        args = [
            call.get(argument.name, None if "Optional" in str(argument.type) else 0.0)
            for argument in operator.schema.arguments
        ]
        given = (infer(operator, args, {}) or ())[output : output + 1]
        if [tensor is not None and tensor.shape for tensor in given] != [call[name].shape]:
            raise _refuse(f"{name} is not of the shape that {forward} gives")

    return check


def _beginning_alike(one: str, other: str, but: int) -> Check:
    """Two have one shape, but for the last ``but`` dimensions, which are not empty."""

    def check(call: Call) -> None:
        a, b = call[one].shape, call[other].shape
        if len(a) != len(b) or len(a) < but or a[:-but] != b[:-but] or 0 in (*a[-but:], *b[-but:]):
            raise _refuse(f"the shapes of {one} and {other} do not fit")

    return check


def _of_channels(of: str, *names: str) -> Check:
    """These have one number for each channel, the second dimension."""

    def check(call: Call) -> None:
        shape = call[of].shape
        for name in names:
            if call.get(name) is not None and (len(shape) < 2 or call[name].shape != shape[1:2]):
                raise _refuse(f"{name} does not have one number for each channel")

    return check


def _saved(training: str, *names: str) -> Check:
    """Statistics were saved in training, one for each channel; else there are none."""
    of_channels = _of_channels("input", *names)

    def check(call: Call) -> None:
        if call[training] or any(call[name] is not None and call[name].numel() for name in names):
            of_channels(call)

    return check


def _dimensions(least: int, *names: str) -> Check:
    """These have at least so many dimensions."""

    def check(call: Call) -> None:
        if any(call[name].dim() < least for name in names):
            raise _refuse(f"{', '.join(names)} have at least {least} dimensions")

    return check


def _names_dimensions(name: str, of: str = "self") -> Check:
    """A list names dimensions of a tensor, each once."""

    def check(call: Call) -> None:
        dims = set(call[name])
        if len(dims) < len(call[name]) or not dims.issubset(range(call[of].dim())):
            raise _refuse(f"{name} are not dimensions of {of}")

    return check


def _positive(name: str) -> Check:
    """All numbers of a list are positive."""

    def check(call: Call) -> None:
        if min(call[name], default=1) <= 0:
            raise _refuse(f"{name} has to be positive")

    return check


def _half_spectrum(call: Call) -> None:
    """What becomes real has half the frequencies, along the last of the dimensions."""
    if not call["dim"] or call["self"].shape[call["dim"][-1]] != call["last_dim_size"] // 2 + 1:
        raise _refuse("this is not half of a spectrum")


def _parts(size: str | None, dim: str = "dim") -> Check:
    """A tensor is not cut into more parts than a message can name results."""

    def check(call: Call) -> None:
        tensor, along = call["self"], call[dim] or 0
        length = tensor.shape[along] if -tensor.dim() <= along < tensor.dim() else 0
        if length > limits.MAX_RESULTS * max(call[size] if size else 1, 1):
            raise LimitExceeded(f"an operator gives {limits.MAX_RESULTS} results at most")

    return check


def _within(name: str, bound: Bound, *, but: str | None = None, low: int = 0) -> Check:
    """All numbers of a tensor are from ``low`` to below ``bound``, or the one number ``but``."""

    def check(call: Call) -> None:
        tensor = call[name]
        if tensor is None or not tensor.numel():
            return
        if tensor.layout is not torch.strided or tensor.is_complex():
            raise _refuse(f"{name} has to be dense and real")
        if but is not None:
            tensor = tensor.masked_fill(tensor == call[but], low)
        least, most = torch.aminmax(tensor)
        if not (least >= low and most < bound(call)):
            raise OperatorIndexFailed(f"{name} is out of range")

    return check


def _size(name: str, dim: int) -> Bound:
    def bound(call: Call) -> int:
        shape = call[name].shape
        return int(shape[dim]) if -len(shape) <= dim < len(shape) else 1

    return bound


def _last(name: str, count: int) -> Bound:
    """How many places the last ``count`` dimensions have."""
    return lambda call: math.prod(call[name].shape[-count:])


def _number(name: str) -> Bound:
    return lambda call: int(call[name])


def _quotient(call: Call) -> None:
    """No smallest integer is divided by -1: the processor has no result for it."""
    dividend, divisor = call["self"], call["other"]
    if not _is_whole(dividend) or not _is_whole(divisor) or not _holds(divisor, -1):
        return
    dtype = torch.result_type(dividend, divisor)
    if dtype.is_signed and _holds(dividend, torch.iinfo(dtype).min):
        raise _refuse("the smallest integer is divided by -1")


def _is_whole(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() and not value.is_complex() and value.dtype is not torch.bool
    return type(value) is int


def _holds(value: Any, number: int) -> bool:
    return bool((value == number).any()) if isinstance(value, torch.Tensor) else value == number


def _reflected(call: Call) -> None:
    """Where places are reflected at the edges, each is somewhere."""
    if call["padding_mode"] == _REFLECTION and not torch.isfinite(call["grid"]).all():
        raise _refuse("the grid has numbers that are not finite")


def _repeats(call: Call) -> None:
    """Nothing is repeated less than never, and all together as often as is said."""
    repeats, said = call["repeats"], call["output_size"]
    if repeats.numel() and repeats.min() < 0:
        raise _refuse("a number of repeats is negative")
    if said is not None and repeats.double().sum() != said:
        raise _refuse("the repeats do not add up to what is said")


def _output_size(count: int) -> Check:
    """A gradient has the size that a pooling was told to give."""

    def check(call: Call) -> None:
        if call["grad_output"].shape[-count:] != tuple(call["output_size"]):
            raise _refuse("the gradient is not of the size of the output")

    return check


def _scales(call: Call) -> None:
    """Scales are none, or large enough to divide by."""
    scales = (value for name, value in call.items() if name.startswith("scales"))
    if not all(scale is None or limits.MIN_SCALE <= scale <= 1 / limits.MIN_SCALE for scale in scales):
        raise _refuse("a scale is out of range")


def _offsets(call: Call) -> None:
    """Bags of an embedding begin one after another, within the indices."""
    offsets, indices = call["offsets"], call["indices"]
    if any(t.layout is not torch.strided or t.is_floating_point() or t.dim() > 2 for t in (offsets, indices)):
        raise _refuse("offsets and indices have to be dense whole numbers")
    flat = offsets.reshape(-1)
    if flat.numel() == 0 and (indices.numel() or call.get("include_last_offset")):
        raise _refuse("there are no offsets")
    if flat.numel() and (flat[0] != 0 or flat[-1] > indices.numel() or (flat.diff() < 0).any()):
        raise OperatorIndexFailed("offsets do not begin at 0 and grow to the number of indices")
    if call.get("include_last_offset") and indices.numel() and flat[-1] != indices.numel():
        raise OperatorIndexFailed("the last offset is not the number of indices")


def _bags(call: Call) -> None:
    """Each index of an embedding belongs to a bag, and each bag has a row of the gradient."""
    rows = call["grad"].shape[0] if call["grad"].dim() == 2 else 0
    if call["offset2bag"].numel() not in (0, call["indices"].numel()) or any(
        call[name] is not None and call[name].numel() not in (0, size)
        for name, size in (("bag_size", rows), ("per_sample_weights", call["indices"].numel()))
        if name in call
    ):
        raise _refuse("indices, bags and gradient do not fit")
    if not call["offset2bag"].numel() and call["indices"].numel() and not 0 <= call["offsets"].numel() - rows <= 1:
        raise _refuse("bags and gradient do not fit")


def _ctc(call: Call) -> None:
    """Targets are classes, and lengths those of the sequences."""
    log_probs, targets = call["log_probs"], call["targets"]
    inputs, lengths = (torch.as_tensor(call[name], dtype=torch.int64) for name in ("input_lengths", "target_lengths"))
    if log_probs.dim() != 3 or targets.dim() not in (1, 2) or targets.dtype not in (torch.int32, torch.int64):
        raise _refuse("these are not log-probabilities and targets")
    steps, batch, classes = log_probs.shape
    if inputs.shape != (batch,) or lengths.shape != (batch,) or not batch:
        raise _refuse("there is not one length for each sequence")
    most = targets.shape[1] if targets.dim() == 2 else targets.shape[0]
    if (
        (targets.dim() == 2 and targets.shape[0] != batch)
        or (targets.dim() == 1 and int(lengths.sum()) > targets.shape[0])
        or inputs.min() < 0
        or inputs.max() > steps
        or lengths.min() < 0
        or lengths.max() > most
        or not 0 <= call["blank"] < classes
    ):
        raise OperatorIndexFailed("lengths are out of range")
    if targets.numel() and not (targets.min() >= 0 and targets.max() < classes):
        raise OperatorIndexFailed("targets are out of range")
    if "log_alpha" in call:
        alpha, loss = call["log_alpha"], call["neg_log_likelihood"]
        if (
            loss.shape != (batch,) or call["grad"].shape != (batch,) or alpha.dim() != 3
            or alpha.shape[:2] != (batch, steps) or alpha.shape[2] < 2 * int(lengths.max()) + 1
        ):  # fmt: skip
            raise _refuse("these do not come from such a loss")


def _attention(call: Call) -> None:
    """Queries, keys and values fit, and heads of keys serve heads of queries."""
    query, key, value = (call[name].shape for name in ("query", "key", "value"))
    if (
        not len(query) == len(key) == len(value) == 4 or key[:3] != value[:3] or query[0] != key[0]
        or query[3] != key[3] or 0 in (*query, *key, *value) or query[1] % key[1]
    ):  # fmt: skip
        raise _refuse("queries, keys and values do not fit")
    if "out" in call:
        rows = {"grad_out": query[:3] + value[3:], "out": query[:3] + value[3:]}
        if any(call[name].shape != shape for name, shape in rows.items()) or sorted(call["logsumexp"].shape) != sorted(
            query[:3]
        ):
            raise _refuse("these do not come from such an attention")


def _one_for_each(call: Call) -> None:
    """A weight's norms are one for each slice."""
    v, g = (call[name] for name in (("v", "g") if "v" in call else ("saved_v", "saved_g")))
    dim = call["dim"]
    if (
        dim not in (0, v.dim() - 1)
        or not v.numel()
        or g.shape != tuple(n if i == dim else 1 for i, n in enumerate(v.shape))
    ):
        raise _refuse("there is not one norm for each slice")
    if "saved_norms" in call and (call["saved_norms"].shape != g.shape or call["grad_w"].shape != v.shape):
        raise _refuse("the gradient does not fit")


def _segments(call: Call) -> None:
    """Segments lie within the data."""
    data, axis = call["data"], call["axis"]
    cuts = call["lengths"] if call["lengths"] is not None else call["offsets"]
    if (
        cuts is None or not 0 <= axis < data.dim() or cuts.dim() != axis + 1 or cuts.shape[:-1] != data.shape[:axis]
        or cuts.is_floating_point() or cuts.layout is not torch.strided
    ):  # fmt: skip
        raise _refuse("segments do not fit the data")
    lengths = cuts if call["lengths"] is not None else cuts.diff()
    reach = lengths.sum(-1) if call["lengths"] is not None else cuts[..., -1:]
    if cuts.numel() and (
        cuts.min() < 0 or cuts.max() > data.shape[axis] or (lengths < 0).any() or (reach > data.shape[axis]).any()
    ):
        raise OperatorIndexFailed("segments reach beyond the data")
    if "grad" in call:
        shape = (*lengths.shape, *data.shape[axis + 1 :])
        if call["grad"].shape != shape or call["output"].shape != shape:
            raise _refuse("the gradient does not fit")


def _groups(call: Call) -> None:
    """Channels are in groups of one size."""
    n, channels, places, group = (call[name] for name in ("N", "C", "HxW", "group"))
    shapes = {"weight": (channels,), "bias": (channels,), "mean": (n, group), "rstd": (n, group)}
    if (
        group < 1 or min(n, channels, places) < 0 or channels % group or call["input"].numel() != n * channels * places
        or any(call.get(name) is not None and call[name].shape != shape for name, shape in shapes.items())
    ):  # fmt: skip
        raise _refuse("the groups do not fit")


def _distances(call: Call) -> None:
    """Distances are one for each pair of rows."""
    n = call["self"].shape[0] if call["self"].dim() == 2 else -1
    pairs = (n * (n - 1) // 2,)
    if n < ("grad" in call) or any(call[name].shape != pairs for name in ("grad", "pdist") if name in call):
        raise _refuse("there is not one distance for each pair of rows")


def _pivots(call: Call) -> None:
    """Pivots are one for each step of a factorization, and rows of it."""
    matrix, pivots = call["LU_data"].shape, call["LU_pivots"]
    if len(matrix) < 2 or pivots.shape != (*matrix[:-2], min(matrix[-2:])):
        raise _refuse("pivots do not fit the matrix")
    if pivots.numel() and (pivots.min() < 1 or pivots.max() > matrix[-2]):
        raise OperatorIndexFailed("pivots are out of range")


def _of_a_loss(call: Call) -> None:
    """The gradient of a loss is one number, or, where the loss is not reduced, one for each row."""
    rows = call["self"].shape[0] if call["self"].dim() == 2 else 1
    if call["grad_output"].numel() != (rows if call["reduction"] == 0 else 1):
        raise _refuse("the gradient does not fit the loss")


def _sparse_indices(call: Call) -> None:
    indices, size, n = call["indices"], call["size"], call["sparse_dim"]
    if indices.dim() != 2 or indices.shape[0] != n or indices.dtype is not torch.int64 or not 0 <= n <= len(size):
        raise _refuse("the indices of a sparse tensor do not fit")
    if indices.numel() and (indices.min() < 0 or (indices.amax(1) >= torch.tensor(size[:n])).any()):
        raise OperatorIndexFailed("the indices of a sparse tensor are out of range")


def _indices_of(call: Call) -> None:
    """Index tensors stay within the dimensions that they index."""
    tensor = call["self"]
    if len(call["indices"]) > tensor.dim():
        raise _refuse("there are more indices than dimensions")
    for size, index in zip(tensor.shape, call["indices"], strict=False):
        if index is None or not index.numel() or index.dtype in (torch.bool, torch.uint8):
            continue
        if index.min() < -size or index.max() >= size:
            raise OperatorIndexFailed("an index is out of range")


BY_SHAPE: dict[str, tuple[Check, ...]] = {
    "aten::_adaptive_avg_pool2d_backward": (_beginning_alike("grad_output", "self", 2),),
    "aten::_adaptive_avg_pool3d_backward": (_beginning_alike("grad_output", "self", 3),),
    "aten::_batch_norm_with_update": (_of_channels("input", *_STATISTICS),),
    "aten::_cdist_backward": (
        _dimensions(2, "x1", "x2"),
        _as_given_by("aten::_cdist_forward", "grad"),
        _as_given_by("aten::_cdist_forward", "cdist"),
    ),
    "aten::_embedding_bag_backward": (_bags,),
    "aten::_embedding_bag_dense_backward": (_bags,),
    "aten::_embedding_bag_per_sample_weights_backward": (_bags,),
    "aten::_fft_c2c": (_names_dimensions("dim"),),
    "aten::_fft_c2c.out": (_names_dimensions("dim"),),
    "aten::_fft_c2r": (_names_dimensions("dim"), _half_spectrum),
    "aten::_fft_c2r.out": (_names_dimensions("dim"), _half_spectrum),
    "aten::_fft_r2c": (_names_dimensions("dim"),),
    "aten::_fft_r2c.out": (_names_dimensions("dim"),),
    "aten::_log_softmax_backward_data": (_alike("grad_output", "output"),),
    "aten::_native_batch_norm_legit": (_of_channels("input", *_STATISTICS),),
    "aten::_native_batch_norm_legit.no_stats": (_of_channels("input", "weight", "bias"),),
    "aten::_pdist_backward": (_distances,),
    "aten::_pdist_forward": (_distances,),
    "aten::_scaled_dot_product_flash_attention_for_cpu": (_attention,),
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": (_attention,),
    "aten::_softmax_backward_data": (_alike("grad_output", "output"),),
    "aten::_weight_norm_interface": (_one_for_each,),
    "aten::_weight_norm_interface_backward": (_one_for_each,),
    "aten::adaptive_max_pool2d_backward": (_alike("grad_output", "indices"), _beginning_alike("indices", "self", 2)),
    "aten::adaptive_max_pool3d_backward": (_alike("grad_output", "indices"), _beginning_alike("indices", "self", 3)),
    "aten::avg_pool2d_backward": (_as_given_by("aten::avg_pool2d"),),
    "aten::avg_pool3d_backward": (_as_given_by("aten::avg_pool3d"),),
    "aten::batch_norm_backward": (
        _alike("grad_out", "input"),
        _of_channels("input", *_STATISTICS),
        _saved("update", "save_mean", "save_var"),
    ),
    "aten::fractional_max_pool2d": (_positive("kernel_size"),),
    "aten::fractional_max_pool3d": (_positive("kernel_size"),),
    "aten::fractional_max_pool2d_backward": (
        _output_size(2),
        _alike("grad_output", "indices"),
        _beginning_alike("indices", "self", 2),
    ),
    "aten::fractional_max_pool3d_backward": (
        _output_size(3),
        _alike("grad_output", "indices"),
        _beginning_alike("indices", "self", 3),
    ),
    "aten::grid_sampler_2d_backward": (_as_given_by("aten::grid_sampler_2d"),),
    "aten::grid_sampler_3d_backward": (_as_given_by("aten::grid_sampler_3d"),),
    "aten::max_pool2d_with_indices_backward": (
        _alike("grad_output", "indices"),
        _beginning_alike("indices", "self", 2),
    ),
    "aten::max_pool3d_with_indices_backward": (
        _alike("grad_output", "indices"),
        _beginning_alike("indices", "self", 3),
    ),
    "aten::multi_margin_loss_backward": (_of_a_loss,),
    "aten::multilabel_margin_loss_backward": (_of_a_loss, _alike("target", "is_target")),
    "aten::native_group_norm": (_groups,),
    "aten::native_group_norm_backward": (_groups, _alike("grad_out", "input")),
    "aten::native_layer_norm_backward": (
        _as_given_by("aten::native_layer_norm", "grad_out"),
        _as_given_by("aten::native_layer_norm", "mean", 1),
        _as_given_by("aten::native_layer_norm", "rstd", 2),
    ),
    "aten::native_batch_norm": (_of_channels("input", *_STATISTICS),),
    "aten::native_batch_norm_backward": (
        _alike("grad_out", "input"),
        _of_channels("input", *_STATISTICS),
        _saved("train", "save_mean", "save_invstd"),
    ),
}

BY_SHAPE |= {
    f"aten::{kind}_pad{n}d_backward": (_as_given_by(f"aten::{kind}_pad{n}d"),)
    for kind in ("reflection", "replication")
    for n in (1, 2, 3)
}

BY_VALUE: dict[str, tuple[Check, ...]] = {
    "aten::_ctc_loss": (_ctc,),
    "aten::_ctc_loss.Tensor": (_ctc,),
    "aten::_ctc_loss_backward": (_ctc,),
    "aten::_ctc_loss_backward.Tensor": (_ctc,),
    "aten::_embedding_bag": (_offsets, _within("indices", _size("weight", 0))),
    "aten::_embedding_bag_forward_only": (_offsets, _within("indices", _size("weight", 0))),
    "aten::_embedding_bag_backward": (
        _offsets, _within("indices", _number("num_weights")), _within("offset2bag", _size("grad", 0)),
        _within("maximum_indices", _number("num_weights"), low=-1),
    ),
    "aten::_embedding_bag_dense_backward": (
        _within("indices", _number("num_weights")), _within("offset2bag", _size("grad", 0)),
        _within("maximum_indices", _number("num_weights"), low=-1),
    ),
    "aten::_embedding_bag_per_sample_weights_backward": (
        _offsets, _within("indices", _size("weight", 0)), _within("offset2bag", _size("grad", 0)),
    ),
    "aten::_index_put_impl_": (_indices_of,),
    "aten::_segment_reduce_backward": (_segments,),
    "aten::segment_reduce": (_segments,),
    "aten::_sparse_coo_tensor_with_dims_and_tensors": (_sparse_indices,),
    "aten::adaptive_max_pool2d_backward": (_within("indices", _last("self", 2)),),
    "aten::adaptive_max_pool3d_backward": (_within("indices", _last("self", 3)),),
    "aten::div.Tensor_mode": (_quotient,),
    "aten::div.out_mode": (_quotient,),
    "aten::embedding_dense_backward": (_within("indices", _number("num_weights")),),
    "aten::fractional_max_pool2d_backward": (_within("indices", _last("self", 2)),),
    "aten::fractional_max_pool3d_backward": (_within("indices", _last("self", 3)),),
    "aten::grid_sampler_2d": (_reflected,),
    "aten::grid_sampler_2d_backward": (_reflected,),
    "aten::grid_sampler_3d": (_reflected,),
    "aten::grid_sampler_3d_backward": (_reflected,),
    "aten::lu_unpack": (_pivots,),
    "aten::lu_unpack.out": (_pivots,),
    "aten::max_pool2d_with_indices_backward": (_within("indices", _last("self", 2)),),
    "aten::max_pool3d_with_indices_backward": (_within("indices", _last("self", 3)),),
    "aten::max_unpool2d": (_within("indices", lambda call: math.prod(call["output_size"])),),
    "aten::max_unpool3d": (_within("indices", lambda call: math.prod(call["output_size"])),),
    "aten::multi_margin_loss_backward": (_within("target", _size("self", -1)),),
    "aten::multilabel_margin_loss_backward": (_within("target", _size("self", -1), low=-1),),
    "aten::nll_loss_backward": (_within("target", _size("self", -1), but="ignore_index"),),
    "aten::nll_loss2d_backward": (_within("target", _size("self", 1), but="ignore_index"),),
    "aten::repeat_interleave.Tensor": (_repeats,),
    "aten::split.Tensor": (_parts("split_size"),),
    "aten::unbind.int": (_parts(None),),
    "aten::unbind_copy.int": (_parts(None),),
    "aten::unsafe_split.Tensor": (_parts("split_size"),),
}  # fmt: skip


BY_VALUE |= {name: (_scales,) for name in allowed() if "upsample" in name}


def _broadcast(call: Call) -> int:
    shape = torch.broadcast_shapes(call["self"].shape, call["mask"].shape)
    return int(math.prod(shape) * call["self"].itemsize)


#: The most bytes that these give, whose size depends on values.
BOUNDS: dict[str, Bound] = {
    "aten::_to_dense": lambda call: call["self"].numel() * 16,
    "aten::bincount": lambda call: (
        8 * max(int(call["self"].max()) + 1 if call["self"].numel() else 0, call["minlength"] or 0)
    ),
    "aten::masked_select": _broadcast,
    "aten::nonzero": lambda call: 8 * call["self"].numel() * call["self"].dim(),
    "aten::repeat_interleave.Tensor": lambda call: 8 * int(call["repeats"].double().sum()),
}
