"""The ways out of a room; what goes over them is in test_nodes.py and test_owner.py."""

from __future__ import annotations

import threading

import pytest

from syft.node.routes import Routes, _Route

from . import fakes

pytestmark = pytest.mark.in_process


class Goodbye:
    """A carrier whose worker says goodbye when all others do."""

    def __init__(self, together: threading.Barrier) -> None:
        self.close = together.wait


def test_all_workers_elsewhere_are_hung_up_on_at_the_same_time():
    routes = Routes(None, fakes.state(), None, None)
    together = threading.Barrier(3, timeout=20)
    for worker in ("alice", "charlie", "dave"):
        routes._routes[worker] = route = _Route(None, worker)
        route.carrier = Goodbye(together)
    routes.close()
