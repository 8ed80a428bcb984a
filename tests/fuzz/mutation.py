"""Changes to valid input that keep most of its structure, so that what reads it gets past its first checks.

An input is a record: a header of MessagePack and the memory of tensors. Either its bytes are changed, or
a place in the header, which may be within an extension, or the number and the length of its frames.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from syft import limits
from syft.errors import LimitExceeded
from syft.node.records import PacketSource, pack, read_record

Frames = list[bytes]

#: What stands at the ends of ranges, and words that mean something somewhere.
INTERESTING: list[Any] = [
    None, True, False, 0, 1, -1, 7, 64, 255, 2**31, 2**32, 2**40, 10**12, 2**53 + 1, 2**58, 2**61 - 1, 2**62,
    2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 0.0, -0.0, 1.5, 1e308, float("nan"), float("inf"), "", "a", "\0",
    "\n", "é\U0001f600", "x" * 31, "x" * 32, "x" * 257, "value", "failure", "ran", "placed", "found", "done", "run",
    "put", "get", "ask", "search", "float32", "bool", "int64", "complex64", "uint16", "float8_e4m3fn", "strided",
    "sparse_coo", "sparse_csr", "cpu", "bob", "aten::add.Tensor", "aten::mul.Tensor", "get_not_permitted", "*", b"",
    b"bytes", [], [[]], {}, {"a": 1}, {1: 2}, msgspec.msgpack.Ext(99, b""), msgspec.msgpack.Ext(-1, b"\0\0\0\0"),
]  # fmt: skip


def record(frames: Frames) -> bytes:
    """Write frames as they cross."""
    return b"".join(pack(frames))


def frames_of(data: bytes) -> Frames:
    """Read them again; anything else is one frame, the header."""
    try:
        return [bytes(frame) for frame in read_record(PacketSource(iter([data])))]
    except (EOFError, LimitExceeded):
        return [data]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change one to four things."""
    for _ in range(rng.randint(1, 4)):
        data = _bytes(data, rng) if rng.random() < 0.2 else _structure(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    changed, at = bytearray(data), rng.randrange(len(data) + 1)
    match rng.randrange(4):
        case 0 if at < len(data):
            changed[at] = rng.randrange(256)
        case 1:
            del changed[at : at + rng.randint(1, 16)]
        case 2:
            changed[at:at] = rng.randbytes(rng.randint(1, 16))
        case _:
            end = rng.randrange(len(data) + 1)
            changed[at:at] = data[min(at, end) : max(at, end)][: limits.PACKET_BYTES]
    return bytes(changed)


def _structure(data: bytes, rng: random.Random) -> bytes:
    frames = frames_of(data)
    choice = rng.random()
    if choice < 0.8:
        frames[0] = _header(frames[0], rng)
    elif choice < 0.9 and len(frames) > 1:
        at = rng.randrange(1, len(frames))
        frames[at] = _bytes(frames[at], rng)
    elif choice < 0.95:
        frames.insert(rng.randint(1, len(frames)), rng.randbytes(rng.choice((0, 1, 4, 8, 24, 64))))
    elif len(frames) > 1:
        del frames[rng.randrange(1, len(frames))]
    return record(frames)


def _header(header: bytes, rng: random.Random) -> bytes:
    try:
        value = msgspec.msgpack.decode(header)
        return msgspec.msgpack.encode(_value(value, rng))
    except (msgspec.DecodeError, RecursionError, ValueError, TypeError, OverflowError):
        return _bytes(header, rng)


def _value(value: Any, rng: random.Random) -> Any:
    """Change one place in a value."""
    if isinstance(value, list) and value and rng.random() < 0.85:
        return _list(value, rng)
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        return {**value, key: _value(value[key], rng)} if rng.random() < 0.8 else {**value, _leaf(key, rng): value[key]}
    if isinstance(value, msgspec.msgpack.Ext) and rng.random() < 0.85:
        code = rng.randint(0, 11) if rng.random() < 0.1 else value.code
        return msgspec.msgpack.Ext(code, _header(bytes(value.data), rng))
    return _leaf(value, rng)


def _list(value: list[Any], rng: random.Random) -> list[Any]:
    changed, at = list(value), rng.randrange(len(value))
    choice = rng.random()
    if choice < 0.7:
        changed[at] = _value(value[at], rng)
    elif choice < 0.78:
        del changed[at]
    elif choice < 0.86:
        changed.insert(at, rng.choice(INTERESTING))
    elif choice < 0.94:
        changed[at] = value[rng.randrange(len(value))]
    else:
        changed *= rng.randint(2, 9) if len(changed) < 100 else 1
    return changed


def _leaf(value: Any, rng: random.Random) -> Any:
    changes: list[Callable[[], Any]] = [lambda: rng.choice(INTERESTING)]
    if isinstance(value, int):
        changes += [lambda: value + rng.choice((-1, 1, 2**32)), lambda: value ^ (1 << rng.randrange(64))]
    elif isinstance(value, str):
        changes += [lambda: value[: rng.randint(0, len(value))], lambda: value + rng.choice(("", "x", "é", value))]
    elif isinstance(value, (bytes, bytearray)):
        changes += [lambda: _bytes(bytes(value), rng)]
    else:
        changes += [lambda: [value]]
    return rng.choice(changes)()
