"""What a gate keeps of its connections to other nodes, while it delivers."""

from __future__ import annotations

import pytest

from syft import wire
from syft.errors import WorkerNotFound
from syft.messages import Done, Expect, Failure
from syft.node.counts import Counts
from syft.node.deliveries import Deliveries
from syft.node.records import Answered, pack, tag_of

pytestmark = pytest.mark.in_process

PLACE = "carol", "127.0.0.1:1"
DONE = Done()


class Line:
    """A connection whose other side says this once ``meanwhile`` has happened, or nothing."""

    def __init__(self, says=DONE, meanwhile=lambda: None):
        self.says, self.meanwhile, self.closed = says, meanwhile, False

    def send_record(self, frames):
        self.meanwhile()

    def __iter__(self):
        return self

    def __next__(self):
        if self.says is None:
            raise EOFError
        says, self.says = self.says, None
        return b"".join(pack(wire.encode(Answered(1, says))))

    def hang_up(self):
        self.closed = True

    close = hang_up


@pytest.fixture
def gate(monkeypatch):
    """Deliveries of a gate that tries twice, and the connections that it is going to make."""
    monkeypatch.setattr("syft.limits.RECONNECT_PAUSES", (0.0,))
    lines = []
    return Deliveries("bob", 1 << 20, lambda name, address: lines.pop(0), Counts(), print), lines


def admitted(deliveries):
    """A room that is here."""
    tenancy = object()
    deliveries.admit(tenancy)
    return tenancy


def test_after_a_refusal_the_connection_is_not_used_again(gate):
    deliveries, lines = gate
    refused, good = lines[:] = Line(Failure("not-permitted", "no", "carol", "")), Line()
    tenancy = admitted(deliveries)
    for tag in (b"failure", b"done"):
        assert tag_of(deliveries._deliver(tenancy, PLACE, [b"a"])) == tag
    assert refused.closed and not good.closed


def test_whoever_has_left_is_not_put_back(gate):
    deliveries, lines = gate
    lines[:] = Line(), Line()
    tenancy = admitted(deliveries)
    deliveries.forget(tenancy)
    deliveries.expect(tenancy, Expect("ticket", "carol", 1))
    with pytest.raises(WorkerNotFound, match="has left"):
        deliveries._deliver(tenancy, PLACE, [b"a"])
    assert not deliveries._tickets and not deliveries._calls


def test_a_connection_that_failed_is_not_kept(gate):
    deliveries, lines = gate
    cut, good = lines[:] = Line(says=None), Line()
    tenancy = admitted(deliveries)
    deliveries._deliver(tenancy, PLACE, [b"a"])
    assert cut.closed and not good.closed and not deliveries._calls[tenancy]


def test_of_two_at_one_time_one_connection_is_kept(gate):
    deliveries, lines = gate
    inner = Line()
    outer = Line(meanwhile=lambda: deliveries._deliver(admitted(deliveries), PLACE, [b"b"]))
    lines[:] = outer, inner
    deliveries._deliver(admitted(deliveries), PLACE, [b"a"])
    assert outer.closed and not inner.closed


def test_whoever_leaves_while_a_node_is_dialled_delivers_nothing():
    tenancy, line = object(), Line()

    def dial(name, address):
        deliveries.forget(tenancy)
        return line

    deliveries = Deliveries("bob", 1 << 20, dial, Counts(), print)
    deliveries.admit(tenancy)
    with pytest.raises(WorkerNotFound, match="has left"):
        deliveries._deliver(tenancy, PLACE, [b"a"])
    assert line.closed
