"""A client that forks: what the child does is not taken for what its parent does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import syft as sy

pytestmark = pytest.mark.in_process


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # that is what is tested
def test_a_child_that_ends_or_lets_go_takes_nothing_from_its_parent(nodes: Any, authority: Path) -> None:
    bob = sy.connect(nodes["bob"].address, certs=authority / "me")
    x = sy.send(torch.ones(3), bob)
    assert x.sum().item() == 3
    dialled = bob._channel._carrier._connection
    child = os.fork()
    if child == 0:
        bob._channel.close()  # as atexit does
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert x.sum().item() == 3 and x.get().tolist() == [1, 1, 1]
    assert bob._channel._carrier._connection is dialled
    bob.shut()
