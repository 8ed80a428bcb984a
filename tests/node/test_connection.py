"""What two parties with certificates make of one connection, whatever the other side does."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from syft import limits
from syft.errors import WorkerShut
from syft.node.certs import Bundle
from syft.node.connection import Connection
from syft.node.tls import Duplex, context

from .new_keys import ask_for_new_keys

pytestmark = pytest.mark.in_process


@pytest.fixture
def ends(authority: Path) -> Iterator[tuple[Connection, Connection]]:
    """Both ends of a connection."""
    bundle = Bundle.load(authority / "me")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sockets = socket.create_connection(listener.getsockname()), listener.accept()[0]

    def end(is_server: bool) -> Connection:
        duplex = Duplex(sockets[is_server], context(bundle, server_side=is_server), server_side=is_server)
        duplex.shake_hands()
        return Connection(duplex)

    with ThreadPoolExecutor(1) as other:
        theirs = other.submit(end, True)
        ends = end(False), theirs.result()
    yield ends
    for each in ends:
        each.close()


@pytest.mark.parametrize("is_honest", [True, False])
def test_why_it_ends_is_said_in_so_many_words(ends: tuple[Connection, Connection], is_honest: bool) -> None:
    here, there = ends
    text = "x" * limits.PACKET_BYTES

    def end() -> None:
        if is_honest:
            here.end(text)
        else:
            here.duplex.sendall(struct.pack("<I", len(text) | 1 << 31), text.encode())

    with ThreadPoolExecutor(1) as other:
        other.submit(end)
        with pytest.raises(WorkerShut) as ended:
            next(there)
    assert ended.value.what == "x" * limits.ENDING_BYTES


def test_who_reads_slowly_is_given_up_on_when_all_is_over(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = ends
    monkeypatch.setattr(limits, "ENDING_SECONDS", 0)
    here.send(b"before")
    here.hurry()
    assert bytes(next(there)) == b"before"
    with pytest.raises(TimeoutError, match="too slowly"):  # though there is room for it at once
        here.send(b"after")


def test_a_sign_of_life_does_not_wait_for_who_asks_for_new_keys_and_reads_none(
    ends: tuple[Connection, Connection],
) -> None:
    here, there = ends
    there.duplex.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    here.duplex.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    ask_for_new_keys(here.duplex._tls, 20_000)
    here.send(b"after")
    assert bytes(next(there)) == b"after"
    with ThreadPoolExecutor(1) as pulse:
        beat = pulse.submit(there.beat)
        try:
            beat.result(10)
        finally:
            here.close()
