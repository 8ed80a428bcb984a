"""A disk that is full: what cannot be written down does not leave, and all else goes on."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch

import syft as sy
from bench.processes import proportional
from syft.errors import AuditFailed
from syft.node.audit import AuditLog, Entry

from ..helpers import data_set, until
from .conftest import SHORT_GRACE

pytestmark = pytest.mark.in_process

DATA = data_set("heart", "heart.npz", use=["me"], get=["me"])
IDLE_BYTES = 350 << 20


@pytest.fixture(scope="module")
def ward(start, authority):
    """A node with data of its own."""
    np.savez(authority / "heart.npz", x=np.arange(4, dtype=np.float32))
    return start("tight", SHORT_GRACE, DATA)


@pytest.fixture(autouse=True)
def space_again(ward):
    """Whatever a test finds, the next one has space."""
    yield
    leave_space(ward, None)


@pytest.fixture
def log(ward):
    return AuditLog(ward.config.parent / "tight-state/audit.jsonl")


def leave_space(node, size):
    """Let the node write files up to a size only, as a disk without space would; None for as much as it likes."""
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def test_an_idle_node_is_small(ward, report):
    until(lambda: not ward.rooms())
    gate, forkserver = proportional([ward.process.pid]), proportional([ward.forkserver()])
    report.found("memory of an idle node: gate, fork server", f"{gate / 2**20:.0f}, {forkserver / 2**20:.0f} MiB")
    assert gate + forkserver < IDLE_BYTES


@pytest.mark.parametrize("left", ["nothing", "half a line"])
def test_a_full_disk(ward, log, authority, left, report):
    mine, bare = (sy.connect(ward.address, certs=authority / "me") for _ in range(2))
    own = sy.send(torch.zeros((), dtype=torch.int64), bare)
    (heart,) = mine.search("#heart")
    y = heart + 1
    assert y.copy().get().tolist() == [1, 2, 3, 4]
    failures = ward.metrics()["syft_audit_failures_total"]
    lines = len(list(log.read()))
    size = (ward.config.parent / "tight-state/audit.jsonl").stat().st_size
    leave_space(ward, size + 20 if left == "half a line" else 0)

    releases = [y.get, y.sum().item, y.nonzero]
    if left == "nothing":  # what a disk has no space for is, here, what a single file has none for
        releases.append(lambda: y.request(reason="it is full"))
    for release in releases:
        with pytest.raises(AuditFailed, match="cannot write down"):
            release()
    for _ in range(1000):
        own.add_(1)
        y.mul_(1)
    assert own.clone().get().item() == 1000  # which is the client's own, and no line of the log
    late = sy.connect(ward.address, certs=authority / "me")  # who comes now is let in
    z = sy.send(torch.ones(3), late) * 2
    rooms = len(ward.rooms())
    bare_again = sy.connect(ward.address, certs=authority / "me")
    assert len(ward.rooms()) == rooms + 1
    bare_again.shut()
    until(lambda: len(ward.rooms()) == rooms)
    assert ward.metrics()["syft_audit_failures_total"] == failures + len(releases) - (
        left == "nothing"
    )  # a request is no line of it
    assert sum(isinstance(line, Entry) for line in log.read()) == lines

    leave_space(ward, None)
    assert z.get().tolist() == [2, 2, 2]
    assert y.get().tolist() == [1, 2, 3, 4]
    report.ran(f"additions while the disk is full: space for {left}", own.get().item(), 1000)
    assert [line.allowed for line in log.read() if isinstance(line, Entry)][lines:] == [True]
    for worker in (mine, bare, late):
        worker.shut()
    until(lambda: not ward.rooms())
    metrics = ward.metrics()
    assert metrics["syft_rooms"] == metrics["syft_sessions"] == metrics["syft_requests_open"] == 0


def test_rooms_are_freed_while_the_disk_is_full(ward, authority):
    me = sy.connect(ward.address, certs=authority / "me")
    (heart,) = me.search("#heart")
    asked = heart.sum().request(reason="to be taken back, in writing")
    leave_space(ward, 0)
    with pytest.raises(AuditFailed):
        asked.withdraw()
    me.shut()
    until(lambda: not ward.rooms())
    metrics = ward.metrics()
    assert metrics["syft_rooms"] == metrics["syft_sessions"] == 0
    leave_space(ward, None)
    again = sy.connect(ward.address, certs=authority / "me")
    assert sy.send(torch.ones(3), again).get().sum() == 3
    (asked,) = again.requests()
    assert asked.state == "open"
    asked.withdraw()
    assert ward.metrics()["syft_requests_open"] == 0
    again.shut()
