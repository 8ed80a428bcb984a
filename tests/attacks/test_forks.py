"""A client that forks: what the child does is not taken for what its parent does."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import syft as sy
from syft.errors import WorkerShut

pytestmark = pytest.mark.in_process


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # that is what is tested
def test_a_child_that_asks_is_told_that_it_has_no_connection(nodes: Any, authority: Path) -> None:
    with sy.connect(nodes["bob"].address, certs=authority / "me") as bob:
        x = sy.send(torch.ones(3), bob)
        assert x.sum().item() == 3
        bob._channel._lock.acquire()  # as any thread may when another forks
        child = os.fork()
        if child == 0:
            try:
                x.get()
            except WorkerShut as told:
                os._exit(0 if "forked" in str(told) else 1)
            os._exit(2)
        bob._channel._lock.release()
        end = os.pidfd_open(child)
        if not select.select([end], [], [], 20)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(end)
        assert os.waitpid(child, 0)[1] == 0
        assert x.get().tolist() == [1, 1, 1]


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
