"""What a gate keeps of its connections to other nodes, while it delivers."""

from __future__ import annotations

import pytest

from syft import wire
from syft.errors import WorkerNotFound
from syft.messages import Done
from syft.node.counts import Counts
from syft.node.deliveries import Deliveries
from syft.node.records import Answered, pack

pytestmark = pytest.mark.in_process

PLACE = "carol", "127.0.0.1:1"


class Line:
    """A connection whose other side says Done once ``meanwhile`` has happened, or nothing."""

    def __init__(self, says=True, meanwhile=lambda: None):
        self.says, self.meanwhile, self.closed = says, meanwhile, False

    def send_record(self, frames):
        self.meanwhile()

    def __iter__(self):
        return self

    def __next__(self):
        if not self.says:
            raise EOFError
        self.says = False
        return b"".join(pack(wire.encode(Answered(1, Done()))))

    def hang_up(self):
        self.closed = True

    close = hang_up


@pytest.fixture
def gate(monkeypatch):
    """Deliveries of a gate that tries twice, and the connections that it is going to make."""
    monkeypatch.setattr("syft.limits.RECONNECT_PAUSES", (0.0,))
    lines = []
    return Deliveries("bob", 1 << 20, lambda name, address: lines.pop(0), Counts(), None, print), lines


def test_a_connection_that_failed_is_not_kept(gate):
    deliveries, lines = gate
    cut, good = lines[:] = Line(says=False), Line()
    tenancy = object()
    deliveries._deliver(tenancy, PLACE, [b"a"])
    assert cut.closed and not good.closed and not deliveries._calls[tenancy]


def test_of_two_at_one_time_one_connection_is_kept(gate):
    deliveries, lines = gate
    inner = Line()
    outer = Line(meanwhile=lambda: deliveries._deliver(object(), PLACE, [b"b"]))
    lines[:] = outer, inner
    deliveries._deliver(object(), PLACE, [b"a"])
    assert outer.closed and not inner.closed


def test_whoever_leaves_while_a_node_is_dialled_delivers_nothing():
    tenancy, line = object(), Line()

    def dial(name, address):
        deliveries.forget(tenancy)
        return line

    deliveries = Deliveries("bob", 1 << 20, dial, Counts(), None, print)
    with pytest.raises(WorkerNotFound, match="has left"):
        deliveries._deliver(tenancy, PLACE, [b"a"])
    assert line.closed
