"""A client who would have a node knock at doors of its owner's network: it dials its owner's peers, nobody else."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator

import pytest
import torch

from syft.errors import Misuse, NotPermitted, SyftError
from syft.messages import Get, Give, Introduce, Put
from syft.node.audit import AuditLog, Wanted
from syft.node.local import LocalNode
from syft.wire import Meta, Reference

from .conftest import Attacker

pytestmark = pytest.mark.in_process

Ask = Callable[[Attacker, str, str], None]

ADDRESSES = [
    "localhost",
    "nowhere:0",
    "unix:/run/docker.sock",
    "dns:///a:1",
    "[::1",
    "a" * 250,
    "127.0.0.1:7101\n",
    " ",
]
NAMES = ["../etc", "Upper", "a b", "", "x" * 250, "bob.syft.invalid", "*"]


@pytest.fixture
def door() -> Iterator[socket.socket]:
    """A door of the owner's network at which nobody is to knock."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        yield door


def place(door: socket.socket) -> str:
    return f"127.0.0.1:{door.getsockname()[1]}"


def introduce(attacker: Attacker, worker: str, address: str) -> None:
    attacker.ask(Introduce(worker, address, secrets.token_hex(16)))


def give(attacker: Attacker, worker: str, address: str) -> None:
    attacker.ask(Give(1, worker, 5, None, "", address, "x"))


ASK = pytest.mark.parametrize("ask", [introduce, give])


@ASK
def test_who_is_no_peer_is_not_dialled(mallory: Attacker, fort: LocalNode, door: socket.socket, ask: Ask) -> None:
    mallory.ask(Put(1, torch.ones(2)))
    with pytest.raises(NotPermitted, match=r"the owner of fort lists no peer 'elsewhere'(.|\n)*\[\[peers\]\] name"):
        ask(mallory, "elsewhere", place(door))
    with pytest.raises(BlockingIOError):
        door.accept()
    log = AuditLog(fort.config.parent / "fort-state" / "audit.jsonl")
    assert len(list(log.read(Wanted(client="mallory", what="dial", to="elsewhere", allowed=False)))) >= 1


def test_a_peer_is_dialled_where_the_owner_says(mallory: Attacker, door: socket.socket) -> None:
    introduce(mallory, "ally", place(door))
    mallory.ask(Put(1, Reference("ally", 5, Meta("float32", (2,), (1,)))))
    with pytest.raises(SyftError, match=r"127\.0\.0\.1:1 "):
        mallory.ask(Get(1))
    with pytest.raises(BlockingIOError):
        door.accept()


@ASK
@pytest.mark.parametrize("address", ADDRESSES)
def test_what_is_no_address_is_refused(mallory: Attacker, address: str, ask: Ask) -> None:
    mallory.ask(Put(1, torch.ones(2)))
    with pytest.raises(Misuse, match="is not HOST:PORT"):
        ask(mallory, "roaming", address)


@ASK
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_name_is_refused(mallory: Attacker, name: str, ask: Ask) -> None:
    mallory.ask(Put(1, torch.ones(2)))
    with pytest.raises(NotPermitted, match="lists no peer"):
        ask(mallory, name, "127.0.0.1:7101")
