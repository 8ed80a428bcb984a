"""Pointers do what tensors do, by torch's own operator database.

At nodes a third of it runs, and all with ``OPERATORS=all``.
"""

from __future__ import annotations

import os
import random

import pytest
import torch

import syft as sy
from syft.operators import BY_NAME, allowed

from .judge import ENTRIES, check

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of its own deprecated operators

#: Entries on which pointers differ from local tensors, and why.
EXCEPTIONS = {
    "sparse.sampled_addmm": "torch aborts the process on a wrapper of the compressed sparse layouts",
    "sparse.mm.reduce": "torch aborts the process on a wrapper of the compressed sparse layouts",
    "nn.functional.linear_cross_entropy.chunked": "torch's Python writes into buffers that it makes at the caller",
    "nn.functional.linear_cross_entropy.chunked_none": "torch's Python writes into buffers that it makes at the caller",
    "as_strided.partial_views": "a sent tensor has no memory beyond its own elements",
    "tensor_split": "torch reads split points given as a tensor from memory, at the caller; a list of them works",
    "svd_lowrank": "torch's Python draws a random matrix at the caller",
    "pca_lowrank": "torch's Python draws a random matrix at the caller",
    "masked.mean": "torch's Python counts with a tensor of ones that it makes at the caller",
    "masked.var": "torch's Python counts with a tensor of ones that it makes at the caller",
    "masked.std": "torch's Python counts with a tensor of ones that it makes at the caller",
}


def _bring(value: torch.Tensor) -> torch.Tensor:
    while isinstance(value, sy.PointerTensor):
        value = value.get()
    return value


@pytest.mark.parametrize("name", ENTRIES)
def test_one_link(name, bob):
    if name in EXCEPTIONS:
        with pytest.raises((RuntimeError, ValueError)):
            check(ENTRIES[name], lambda t: sy.send(t, bob), _bring, bob.manual_seed)
    else:
        assert check(ENTRIES[name], lambda t: sy.send(t, bob), _bring, bob.manual_seed) > 0


CHAINED = random.Random(0).sample(sorted(set(ENTRIES) - set(EXCEPTIONS)), 100)


@pytest.mark.parametrize("name", CHAINED)
def test_two_links(name, bob, alice):
    assert check(ENTRIES[name], lambda t: sy.send(sy.send(t, bob), alice), _bring, bob.manual_seed) > 0


#: Of the same entries, those that are run at nodes.
SHARE = 1 if os.environ.get("OPERATORS") == "all" else 3


def _some(names):
    return random.Random(0).sample(sorted(names), len(names) // SHARE)


@pytest.mark.in_process
@pytest.mark.parametrize("name", _some(ENTRIES))
def test_one_link_to_a_node(name, at_node):
    test_one_link(name, at_node("bob"))


@pytest.mark.in_process
@pytest.mark.parametrize("name", _some(CHAINED))
def test_two_links_over_nodes(name, at_node):
    test_two_links(name, at_node("bob"), at_node("alice"))


@pytest.mark.in_process
def test_at_least_98_percent():
    assert len(EXCEPTIONS) <= 0.02 * len(ENTRIES)


@pytest.mark.in_process
def test_every_name_of_the_table_is_an_operator_of_torch():
    for name in allowed():
        assert BY_NAME[name].name == name
