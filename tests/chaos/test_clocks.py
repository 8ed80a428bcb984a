"""Clocks that jump: dates come of them, and nothing else. What lasts is measured by the monotonic clock."""

from __future__ import annotations

import ast
import inspect
import time
from pathlib import Path

import pytest
import torch

import syft as sy
from syft import node as package

from ..helpers import until
from .conftest import SHORT_GRACE, Node
from .proxy import Proxy

pytestmark = pytest.mark.in_process

#: Python runs this before anything else: its wall clock is a day early, then a day late, then a day early ...
_JUMPING = """
import itertools, sys, time
real, days = time.time, itertools.cycle((-86400, 86400))
time.time = lambda: real() + next(days)
print("the clock jumps", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def jumping(authority, tmp_path_factory):
    """A node whose clock jumps at each look."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(_JUMPING)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        node = Node(authority, "jumping", SHORT_GRACE)
    assert "the clock jumps" in node.log.read_text()
    yield node
    node.stop()


@pytest.fixture
def jumping_here(monkeypatch):
    """The clock of this process jumps as well."""
    monkeypatch.setattr(time, "time", time.time)  # put back in the end
    exec(_JUMPING, {})
    assert abs(time.time() - time.time()) > 86400


def test_grace_periods_do_not_jump(jumping, jumping_here, authority, report):
    proxy = Proxy(jumping.address)
    me = sy.connect(proxy.address, certs=authority / "me")
    counter = sy.send(torch.zeros((), dtype=torch.int64), me)
    for step in range(1, 101):
        counter.add_(1)
        if step % 20 == 0:
            proxy.cut()
    report.ran("additions while clocks jump", counter.clone().get().item(), 100)
    proxy.refuses = True
    proxy.cut()
    took = until(lambda: not jumping.rooms())
    assert SHORT_GRACE - 0.5 < took < SHORT_GRACE + 3
    proxy.close()


def test_nothing_is_measured_by_a_clock_that_jumps():
    for path in Path(inspect.getfile(package)).parent.glob("*.py"):
        calls = {ast.unparse(call.func) for call in ast.walk(ast.parse(path.read_text())) if isinstance(call, ast.Call)}
        assert not calls & {"time.time", "time.time_ns", "datetime.utcnow", "datetime.today"}, path
