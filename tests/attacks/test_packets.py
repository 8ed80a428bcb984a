"""Bytes from a caller with a valid certificate: garbage, half records, replays, floods."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import struct
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import syft as sy
from bench.processes import children
from syft import limits, wire
from syft.errors import WorkerShut
from syft.messages import Expect, Get, Put, Run
from syft.node.certs import Bundle
from syft.node.config import parse_address
from syft.node.connection import Connection
from syft.node.local import LocalNode
from syft.node.records import Answered, Batch, Delivery, Opening, PacketSource, Welcome, pack, read_record, tag_of
from syft.node.tls import PROTOCOL, context
from syft.wire import Ref

from ..helpers import until
from .conftest import ROOM_BYTES

pytestmark = pytest.mark.in_process

CUT = "cut"

Dial = Callable[[Path], Connection]


def _bytes(*messages: Any) -> list[bytes]:
    return [packet for message in messages for packet in pack(wire.encode(message))]


def _opening(session: str | None = None, received: int = 0, resumes: bool = False) -> Opening:
    return Opening(session or secrets.token_hex(16), received, resumes)


def _answers(connection: Connection, packets: list[bytes], wanted: int = 1) -> list[Any]:
    """Send packets, and say goodbye after the answers ``wanted``; return what comes back, and why it ended."""
    for packet in packets:
        connection.send(packet)
    return _heard(connection, wanted)


def _heard(connection: Connection, wanted: int = 1) -> list[Any]:
    source, records = PacketSource(connection), []
    try:
        while True:
            if len(records) == wanted:
                connection.duplex.finish()
            records.append(read_record(source))
    except EOFError:
        return [*records, CUT]
    except WorkerShut as ended:
        return [*records, str(ended)]


_head = struct.Struct("<IQ").pack
_batch = Batch(1, True, 0, [Put(1, torch.ones(2))])
_good = _bytes(_opening())

#: What is wrong with the bytes of a session, and whether it had begun.
BROKEN = {
    "garbage": [secrets.token_bytes(1000)],
    "zeros": [bytes(1000)],
    "no frames": [struct.pack("<I", 0)],
    "too many frames": [struct.pack("<I", limits.MAX_FRAMES + 1)],
    "four billion frames": [b"\xff" * 4],
    "a long header": [_head(1, limits.MAX_HEADER_BYTES + 1)],
    "an endless frame": [struct.pack("<IQQ", 2, 10, limits.MAX_FRAME_BYTES + 1)],
    "a length of 64 bits": [_head(1, (1 << 64) - 1)],
    "a file that did not come": [_head(1, 1 << 63)],
    "an opening of another kind": _bytes(_batch),
    "a negative count": [*pack([msgspec.msgpack.encode(("opening", "x", -1, False))])],
    "a long name": [*pack([msgspec.msgpack.encode(("opening", "x" * 1000, 0, False))])],
    "an opening with memory": [*pack([*wire.encode(_opening()), bytes(100)])],
    "a long opening": [_head(1, limits.PACKET_BYTES + 1)],
    "a session that is not known": _bytes(_opening(resumes=True)),
    "a packet of garbage after the opening": [*_good, secrets.token_bytes(1000)],
    "a gap in the numbers": _bytes(_opening(), _batch, Batch(9, True, 0, [Get(1)])),
}


@pytest.mark.parametrize("packets", BROKEN.values(), ids=BROKEN.keys())
def test_broken_bytes_end_their_session(dial: Dial, mallory_certificate: Path, packets: list[bytes]) -> None:
    assert _answers(dial(mallory_certificate), packets)[-1] != CUT


@pytest.mark.parametrize("cut", [1, 3, 5, 11, 13, 20])
def test_half_a_record_is_not_taken(dial: Dial, mallory_certificate: Path, cut: int) -> None:
    opening, batch = _bytes(_opening())[0], _bytes(_batch)[0]
    assert _answers(dial(mallory_certificate), [opening[:cut]], wanted=0) == [CUT]
    records = _answers(dial(mallory_certificate), [opening, batch[:cut]])
    assert len(records) == 2 and wire.decode(records[0], Welcome).accepted == 0


def test_what_is_recorded_and_played_again_runs_once(dial: Dial, mallory_certificate: Path, authority: Path) -> None:
    session = _opening()
    put, add = Put(1, torch.zeros(1)), Run("aten::add_.Tensor", [Ref(1), torch.ones(1)], {}, ())
    recorded = _bytes(session, Batch(1, True, 0, [put]), Batch(2, True, 0, [add]))
    _answers(dial(mallory_certificate), recorded, wanted=2)
    for _ in range(3):
        records = _answers(dial(mallory_certificate), recorded, wanted=2)
        assert wire.decode(records[0], Welcome).accepted == 2
    records = _answers(
        dial(mallory_certificate), _bytes(Opening(session.session, 2, True), Batch(3, True, 2, [Get(1)])), wanted=2
    )
    assert wire.decode(records[-2], Answered).answer.value.tolist() == [1.0]
    # The same bytes by another's certificate are a session of that one's own, in which nothing of this is.
    other = _answers(dial(authority / "me"), _bytes(session, Batch(1, True, 0, [Get(1)])), wanted=2)
    assert wire.decode(other[0], Welcome).accepted == 0
    assert wire.decode(other[1], Answered).answer.code == "object-gone"
    resumed = _answers(dial(authority / "me"), _bytes(_opening("0" * 32, 0, resumes=True)))
    assert len(resumed) == 1 and "your room here has ended" in resumed[0]


def test_more_sessions_than_the_owner_allows_are_refused_and_end(dial: Dial, mallory_certificate: Path) -> None:
    connections = [dial(mallory_certificate) for _ in range(40)]
    for connection in connections:
        connection.send(_bytes(_opening())[0])
    refused = 0
    for connection in connections:
        try:
            read_record(PacketSource(connection))
        except WorkerShut as error:
            refused += "already" in str(error)
        else:
            connection.send(_bytes(Batch(0, True, 0, []))[0])  # goodbye
    assert refused >= 40 - limits.ROOMS_OF_A_CLIENT


def test_deliveries_that_nobody_expects(dial: Dial, mallory_certificate: Path, fort: LocalNode) -> None:
    delivery = Delivery("guessed", "once", msgspec.Raw(b"\xc0"), (), "", ())
    connection = dial(mallory_certificate)
    answer, ended = _answers(connection, list(pack([msgspec.msgpack.encode(delivery), bytes(100)])), wanted=2)
    assert wire.decode(answer, Answered).answer.code == "not-permitted" and ended != CUT
    log = (fort.config.parent / "fort-state" / "audit.jsonl").read_text()
    assert '"ticket"' in log and "no client expects this delivery" in log
    for broken in (["delivery"], ["delivery", *[None] * 6], ["delivery", *["x"] * 6], ["delivery", "x" * 1000]):
        assert _answers(dial(mallory_certificate), list(pack([msgspec.msgpack.encode(broken)])))[-1] != CUT


def _expecting(dial: Dial, certificate: Path, sender: str, count: int) -> list[str]:
    """Open a session that expects deliveries; return their tickets."""
    session, tickets = dial(certificate), [f"{sender}-{secrets.token_hex(8)}" for _ in range(count)]
    expected = (Batch(n, True, 0, [Expect(ticket, sender, n)]) for n, ticket in enumerate(tickets, 1))
    for packet in _bytes(_opening(), *expected):
        session.send(packet)
    source = PacketSource(session)
    for _ in range(1 + count):
        read_record(source)
    return tickets


def _delivery(ticket: str) -> list[bytes]:
    put = wire.encode(Put(1, torch.ones(1000)))
    value = wire.unpack(put[0], tuple[str, int, msgspec.Raw, Any, Any, Any])[2]
    return [msgspec.msgpack.encode(Delivery(ticket, "once", value, (), "", ())), *put[1:]]


def test_deliveries_that_come_slowly_keep_out_nobody(
    dial: Dial, mallory_certificate: Path, authority: Path, fort: LocalNode
) -> None:
    for ticket in _expecting(dial, mallory_certificate, "mallory", limits.DELIVERIES_OF_A_ROOM):
        slow, (packet,) = dial(mallory_certificate), pack(_delivery(ticket))
        slow.send(packet[:-1])
    (ticket,) = _expecting(dial, authority / "me", "me", 1)
    records = _answers(dial(authority / "me"), [*pack(_delivery(ticket))])
    assert tag_of(records[0]) == b"placed"


def test_a_room_has_so_many_deliveries_on_their_way(
    dial: Dial, mallory_certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *tickets, last = _expecting(dial, mallory_certificate, "mallory", limits.DELIVERIES_OF_A_ROOM + 1)
    for ticket in tickets:
        slow, (packet,) = dial(mallory_certificate), pack(_delivery(ticket))
        slow.send(packet[:-1])
    refusal = _answers(dial(mallory_certificate), [*pack(_delivery(last))])[0]
    assert "32 deliveries are on their way into this room" in wire.decode(refusal, Answered).answer.what


def test_who_says_that_much_will_come_keeps_out_nobody(
    dial: Dial, mallory_certificate: Path, authority: Path, fort: LocalNode
) -> None:
    slow = [dial(mallory_certificate) for _ in range(2)]
    for connection in slow:
        connection.send(_bytes(_opening())[0])
        read_record(PacketSource(connection))
        connection.send(struct.pack("<IQQ", 2, 10, ROOM_BYTES - 1000))
    worker = sy.connect(fort.address, certs=authority / "me")
    value = torch.arange(ROOM_BYTES // 8, dtype=torch.int32)
    assert torch.equal(sy.send(value, worker).get(), value)
    worker.shut()
    for connection in slow:
        connection.hang_up()


#: What comes where the length of a packet should: after it the connection is over, or it was cut off.
RAW = {
    "a packet beyond the bound": struct.pack("<I", limits.PACKET_BYTES + 1) + bytes(100),
    "the longest packet": b"\xff\xff\xff\x7f",
    "the last packet, which is the gate's to say": struct.pack("<I", 1 << 31),
    "a last packet beyond the bound": b"\xff\xff\xff\xff",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("sent", RAW.values(), ids=RAW.keys())
def test_what_is_no_packet_ends_the_connection(
    dial: Dial, mallory_certificate: Path, sent: bytes, opened: bool
) -> None:
    connection = dial(mallory_certificate)
    if opened:
        connection.send(_good[0])
    connection.duplex.sendall(sent)
    assert _heard(connection, wanted=-1)[-1] != CUT


def test_half_a_packet_is_not_taken(dial: Dial, mallory_certificate: Path) -> None:
    for cut in range(1, 8):
        connection = dial(mallory_certificate)
        connection.duplex.sendall((struct.pack("<I", 100) + bytes(100))[:cut])
        assert _heard(connection, wanted=0) == [CUT]


def test_signs_of_life_alone_are_no_burden(dial: Dial, mallory_certificate: Path, fort: LocalNode) -> None:
    connection = dial(mallory_certificate)
    for _ in range(1000):
        connection.duplex.sendall(bytes(4096))
    assert len(_answers(connection, _good)) == 2


@pytest.mark.parametrize("protocols", [[], ["h2"], ["syft/0", "http/1.1"], [PROTOCOL + "0"]])
def test_other_protocols_are_not_spoken(fort: LocalNode, mallory_certificate: Path, protocols: list[str]) -> None:
    tls = context(Bundle.load(mallory_certificate), server_side=False)
    tls.set_alpn_protocols(protocols)
    with (
        socket.create_connection(parse_address(fort.address)) as plain,
        tls.wrap_socket(plain) as encrypted,
        contextlib.suppress(ConnectionResetError),
    ):
        assert encrypted.recv(1) == b""


def test_who_reads_nothing_and_stays_holds_nothing_when_the_room_has_ended(
    dial: Dial, mallory_certificate: Path, fort: LocalNode
) -> None:
    def threads() -> int:
        return len(list(Path(f"/proc/{fort.process.pid}/task").iterdir()))

    def rooms() -> set[int]:
        return {room for child in children(fort.process.pid) for room in children(child)}

    def unread() -> int:
        return struct.unpack("i", fcntl.ioctl(connection.duplex.fileno(), termios.FIONREAD, bytes(4)))[0]

    before, others = threads(), rooms()
    connection = dial(mallory_certificate)  # asks for more than a socket takes, and reads none of it
    asked = [Batch(1, True, 0, [Put(1, torch.zeros(1 << 20))]), *(Batch(n, True, 0, [Get(1)]) for n in range(2, 6))]
    for packet in _bytes(_opening(), *asked):
        connection.send(packet)
    until(lambda: len(rooms() - others) == 1 and unread() > limits.READ_AHEAD_BYTES)
    for room in rooms() - others:
        os.kill(room, signal.SIGKILL)
    until(lambda: threads() <= before)
