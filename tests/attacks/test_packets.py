"""Bytes on a gRPC stream, from a caller with a valid certificate: garbage, half records, replays, floods."""

from __future__ import annotations

import queue
import secrets
import struct
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import torch

from syft import limits, wire
from syft.messages import Get, Put, Run
from syft.node.link import DELIVER, SESSION
from syft.node.records import Answered, Batch, Opening, PacketSource, Welcome, pack, read_record
from syft.wire import Ref

pytestmark = pytest.mark.in_process

SECONDS = 20


def _bytes(*messages: Any) -> list[bytes]:
    return [packet for message in messages for packet in pack(wire.encode(message))]


def _opening(session: str | None = None, received: int = 0, resumes: bool = False) -> Opening:
    return Opening(session or secrets.token_hex(16), received, resumes)


def _answers(channel: grpc.Channel, packets: list[bytes], method: str = SESSION, wanted: int = 1) -> list[Any]:
    """Send packets, and hang up after the answers ``wanted``; return what comes back, and how the stream ended."""
    sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    for packet in packets:
        sent.put(packet)
    if not wanted:
        sent.put(None)
    stream = channel.stream_stream(method)(iter(sent.get, None), timeout=SECONDS)
    source, records = PacketSource(stream), []
    try:
        while True:
            records.append(read_record(source))
            if len(records) == wanted:
                sent.put(None)
    except EOFError:
        return [*records, grpc.StatusCode.OK]
    except grpc.RpcError as error:
        return [*records, error.code()]
    finally:
        sent.put(None)


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
    "a negative count": [*pack([msgspec.msgpack.encode(("x", -1, False))])],
    "a long name": [*pack([msgspec.msgpack.encode(("x" * 1000, 0, False))])],
    "a session that is not known": _bytes(_opening(resumes=True)),
    "a packet of garbage after the opening": [*_good, secrets.token_bytes(1000)],
    "a gap in the numbers": _bytes(_opening(), _batch, Batch(9, True, 0, [Get(1)])),
}


@pytest.mark.parametrize("packets", BROKEN.values(), ids=BROKEN.keys())
def test_broken_bytes_end_their_session(dial: Any, mallory_certificate: Path, packets: list[bytes]) -> None:
    ended = _answers(dial(mallory_certificate), packets)[-1]
    assert ended in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.NOT_FOUND)


@pytest.mark.parametrize("cut", [1, 3, 5, 11, 13, 20])
def test_half_a_record_is_not_taken(dial: Any, mallory_certificate: Path, cut: int) -> None:
    opening, batch = _bytes(_opening())[0], _bytes(_batch)[0]
    assert _answers(dial(mallory_certificate), [opening[:cut]], wanted=0)[-1] is grpc.StatusCode.OK
    records = _answers(dial(mallory_certificate), [opening, batch[:cut]])
    assert len(records) == 2 and wire.decode(records[0], Welcome).accepted == 0


def test_what_is_recorded_and_played_again_runs_once(dial: Any, mallory_certificate: Path, authority: Path) -> None:
    session = _opening()
    put, add = Put(1, torch.zeros(1)), Run("aten::add_.Tensor", [Ref(1), torch.ones(1)], {}, ())
    recorded = _bytes(session, Batch(1, True, 0, [put]), Batch(2, True, 0, [add]))
    first, again = dial(mallory_certificate), dial(mallory_certificate)
    _answers(first, recorded, wanted=2)
    for _ in range(3):
        records = _answers(again, recorded, wanted=2)
        assert wire.decode(records[0], Welcome).accepted == 2
    records = _answers(again, _bytes(Opening(session.session, 2, True), Batch(3, True, 2, [Get(1)])), wanted=2)
    assert wire.decode(records[-2], Answered).answer.value.tolist() == [1.0]
    # The same bytes by another's certificate are a session of that one's own, in which nothing of this is.
    other = _answers(dial(authority / "me"), _bytes(session, Batch(1, True, 0, [Get(1)])), wanted=2)
    assert wire.decode(other[0], Welcome).accepted == 0
    assert wire.decode(other[1], Answered).answer.code == "object-gone"
    resumed = _answers(dial(authority / "me"), _bytes(_opening("0" * 32, 0, resumes=True)))
    assert resumed == [grpc.StatusCode.NOT_FOUND]


def test_more_sessions_than_the_owner_allows_are_refused_and_end(dial: Any, mallory_certificate: Path) -> None:
    channel = dial(mallory_certificate)
    streams = []
    for _ in range(40):
        sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for packet in _bytes(_opening()):
            sent.put(packet)
        streams.append((sent, channel.stream_stream(SESSION)(iter(sent.get, None), timeout=SECONDS)))
    refused = 0
    for sent, stream in streams:
        try:
            read_record(PacketSource(stream))
        except grpc.RpcError as error:
            refused += error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        sent.put(_bytes(Batch(0, True, 0, []))[0])  # goodbye
        sent.put(None)
    assert refused >= 28


def test_deliveries_that_nobody_expects(dial: Any, mallory_certificate: Path, fort: Any) -> None:
    delivery = [msgspec.msgpack.encode(("guessed", "once", None, (), "", ()))]
    records = _answers(dial(mallory_certificate), list(pack(delivery)), DELIVER, 0)
    assert wire.decode(records[0], Answered).answer.code == "not-permitted"
    log = (fort.config.parent / "fort-state" / "audit.jsonl").read_text()
    assert '"ticket"' in log and "no client expects this delivery" in log
    for broken in ([secrets.token_bytes(100)], [bytes(100)], list(pack([b"\xc0"])), list(pack([b"\x91" * 5000]))):
        assert _answers(dial(mallory_certificate), broken, DELIVER, 0)[-1] is not grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("method", ["/syft.Node/None", "/grpc.reflection.v1.ServerReflection/Info", "/", "/syft.Node/"])
def test_other_methods_are_not_there(dial: Any, mallory_certificate: Path, method: str) -> None:
    assert _answers(dial(mallory_certificate), [b"x"], method, 0)[-1] is grpc.StatusCode.UNIMPLEMENTED


def test_a_packet_beyond_the_bound(dial: Any, mallory_certificate: Path) -> None:
    ended = _answers(dial(mallory_certificate), [bytes(3 * limits.PACKET_BYTES)])[-1]
    assert ended is grpc.StatusCode.RESOURCE_EXHAUSTED
