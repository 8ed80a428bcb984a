"""A node with an owner's private data, a client who does no harm, and one who does; both have valid certificates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import syft as sy
from syft.ids import new_id
from syft.messages import Release, Run
from syft.node import certs, connection
from syft.node.certs import Bundle
from syft.node.client import NodeWorker
from syft.node.config import parse_address
from syft.node.connection import Connection
from syft.node.local import LocalNode
from syft.node.tls import context

from ..helpers import config_with_data, data_set

ROOM_BYTES = 64 << 20

CONFIG = f"""
{data_set("heart", use=["mallory"])}

[[peers]]
name = "ally"
address = "127.0.0.1:1"

[[peers]]
name = "roaming"

[limits]
clients = 24
room_objects = 500
room_bytes = {ROOM_BYTES}
room_memory = {6 << 30}
room_cpu_seconds = 60
grace_seconds = 2
"""

#: An owner's numbers: nothing that a client sees may be one of them.
SECRETS = np.array([[4177.25, -2913.5], [8122.75, 6091.125]], dtype=np.float32)


@pytest.fixture(scope="session")
def fort(start: Callable[..., LocalNode], tmp_path_factory: pytest.TempPathFactory) -> LocalNode:
    """The node."""
    return start("fort", config_with_data(tmp_path_factory.mktemp("fort"), "fort", CONFIG, SECRETS))


class Attacker:
    """A client who sends what it likes, beneath the API; it comes back when its room has ended."""

    def __init__(self, node: LocalNode, certificate: Path) -> None:
        self._node, self._certificate = node, certificate
        self.worker: NodeWorker = sy.connect(node.address, certs=certificate)

    def come_back(self) -> None:
        self.worker.shut()
        self.worker = sy.connect(self._node.address, certs=self._certificate)

    def ask(self, message: Any) -> Any:
        """Send a message as it is, and return its answer or raise its error."""
        return self.worker._channel._ask(message)

    def run(self, operator: str, args: list[Any], kwargs: dict[str, Any] | None = None, results: int = 1) -> list[int]:
        """Run an operator, without asking on this side what it will give; return the names of its results."""
        ids = [new_id() for _ in range(results)]
        self.ask(Run(operator, args, kwargs or {}, tuple(ids)))
        return ids

    def let_go(self, ids: list[int]) -> None:
        self.ask(Release(tuple(ids)))


@pytest.fixture(scope="session")
def mallory_certificate(authority: Path) -> Path:
    return certs.issue(authority, "mallory")


@pytest.fixture
def mallory(fort: LocalNode, mallory_certificate: Path) -> Iterator[Attacker]:
    attacker = Attacker(fort, mallory_certificate)
    yield attacker
    attacker.worker.shut()


@pytest.fixture
def dial(fort: LocalNode) -> Iterator[Callable[[Path], Connection]]:
    """Connect with a certificate."""
    opened = []

    def dial(certificate: Path) -> Connection:
        tls = context(Bundle.load(certificate), server_side=False)
        opened.append(connection.dial(parse_address(fort.address), tls, fort.name))
        return opened[-1]

    yield dial
    for each in opened:
        each.close()


@pytest.fixture(autouse=True)
def bystander(fort: LocalNode, authority: Path) -> Iterator[None]:
    """After each test the node is alive, and what another client has there is as it was."""
    worker = sy.connect(fort.address, certs=authority / "me")
    held = sy.send(torch.arange(1000.0), worker)
    assert held.sum().item() == 499500
    yield
    assert fort.process.poll() is None
    assert torch.equal(held.get(), torch.arange(1000.0))
    worker.shut()
