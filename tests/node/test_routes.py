"""The ways out of a room; what goes over them is in test_nodes.py and test_owner.py."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from syft import wire
from syft.messages import Introduce
from syft.node.records import Batch
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


def test_who_is_reached_only_after_the_client_has_left_is_hung_up_on():
    routes = Routes(SimpleNamespace(entered=frozenset()), fakes.state(), None, None)
    routes.introduce(Introduce("alice", "127.0.0.1:1", "token"))
    hung_up: list[str] = []

    def open_late(peer, route):
        routes.close()
        return SimpleNamespace(close=lambda: hung_up.append(peer.worker), send=lambda *_: None)

    routes._open = open_late
    routes.call("alice", wire.encode(Batch(1, False, 0, [])))
    assert hung_up == ["alice"]
