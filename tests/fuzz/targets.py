"""What of a node decodes what strangers send, and what has to be true of it whatever they send.

A target takes bytes and raises nothing: errors that are declared are part of its answer, all others are
finds. ``SEEDS`` has valid input for each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, cast

import msgspec
import torch

from syft import messages, wire
from syft.errors import BY_CODE, LimitExceeded, MalformedMessage, SyftError, WorkerNotFound
from syft.node import release, requests
from syft.node.audit import Entry
from syft.node.config import parse_address
from syft.node.records import (
    Answered,
    Batch,
    Opening,
    PacketSource,
    RawAnswered,
    RawBatch,
    Welcome,
    pack,
    peek_tag,
    read_record,
)
from syft.node.release import Movement, Policies, Policy
from syft.node.room import answer_batch
from syft.node.rooms import raw_value
from syft.node.tenancy import Tenancy
from syft.wire import Meta, Ref, Reference
from syft.worker import Worker

from ..node import fakes
from .mutation import frames_of, record

Target = Callable[[bytes], None]

#: The packets that a stream comes in are as long as these, over and over.
CUTS = (1, 3, 7, 4096)


# ---- valid messages --------------------------------------------------------------------------

POLICY = Policy("ward", "heart", ("carol",), ("carol",), {"agg": Movement.SEALED}, ("dave",))
DENYING = Policy("ward", "locked", ("*",))

REQUESTS = [
    messages.Run("aten::add.Tensor", [Ref(1), Ref(2)], {"alpha": 2}, (5,)),
    messages.Run("aten::cat", [[Ref(1), Ref(2)], 0], {}, (6,)),
    messages.Run("aten::mul.Tensor", [Ref(1), torch.tensor(2.0)], {}, (7,)),
    messages.Run("aten::sum.dim_IntList", [Ref(1), [0]], {"dtype": torch.float64, "keepdim": True}, (8,)),
    messages.Run("aten::add_.Tensor", [Ref(1), 1j], {}, ()),
    messages.Run("aten::split.Tensor", [Ref(1), 2], {}, (9, 10)),
    messages.Put(11, torch.arange(6.0).view(2, 3), ("#a", "#b"), "words", ("alice",)),
    messages.Put(12, Reference("alice", 7, Meta("float32", (2,), (1,)))),
    messages.Put(13, torch.eye(3).to_sparse()),
    messages.Put(14, torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (4,), check_invariants=True)),
    messages.Put(15, torch.zeros(3, 0, dtype=torch.bool)),
    messages.Get(1, 20, "user"),
    messages.Get(2),
    messages.Give(1, "alice", 30, 31, "user", "127.0.0.1:7101", "ticket"),
    messages.Point(2, Reference("alice", 7, Meta("float32", (2,), (1,)))),
    messages.Fetch(1, "user"),
    messages.Retire((1, 2), (21, 22), "fate"),
    messages.Retain(1),
    messages.Confirm(1, "alice"),
    messages.Release((1, 2)),
    messages.Describe(1, ("#c",), "words"),
    messages.Search(("#a",)),
    messages.List(),
    messages.Seed(7),
    messages.Expect("ticket", "alice", 3),
    messages.Delegate("alice"),
    messages.Introduce("alice", "127.0.0.1:1", "token"),
    messages.Ask(1, "reason"),
    messages.Inquire("request"),
    messages.Collect("request"),
    messages.Withdraw("request"),
    messages.Clear(),
    messages.Reply("carol", 3, messages.Done()),
]
ANSWERS = [
    messages.Done(),
    messages.Ran((Meta("float32", (2, 3), (3, 1)), None)),
    messages.Ran(()),
    messages.Value(torch.arange(4), ("alice",), ("#a",), "words"),
    messages.Value(Reference("alice", 7, Meta("float32", (2,), (1,)))),
    messages.Value(torch.eye(2).to_sparse()),
    messages.Placed(Meta("int64", (2,), (), 0, "sparse_coo")),
    messages.Delegated("token"),
    messages.Asked((("request", "2026-11-23T15:16:35+00:00", "reason", messages.State.OPEN, "note"),)),
    messages.Found(((1, Meta("float32", (2,), (1,), 3), ("#a",), "words"),)),
    messages.Failure("get_not_permitted", "what", "where", "mend"),
    messages.Called("carol", b"batch"),
]


def _encoded(values: list[Any]) -> list[bytes]:
    return [record([bytes(frame) for frame in wire.encode(value)]) for value in values]


_BATCHES = [Batch(1, True, 0, [request]) for request in REQUESTS] + [
    Batch(5, False, 3, REQUESTS),
    Batch(9, True, 0, []),
]
_ANSWERED = [Answered(3, answer) for answer in ANSWERS]


def _sealed(values: list[Any], kind: type[msgspec.Struct]) -> list[bytes]:
    """Encode as sealed, with policies."""
    encoded = []
    for value in values:
        header, *memories = wire.encode(value)
        fields = [*msgspec.msgpack.decode(header, type=list[msgspec.Raw])[: len(kind.__struct_fields__) - 1], (POLICY,)]
        encoded.append(record([msgspec.msgpack.encode(fields), *map(bytes, memories)]))
    return encoded


# ---- targets ---------------------------------------------------------------------------------


def decoding(kind: Any) -> Target:
    """What is decoded encodes to what decodes the same."""

    def target(data: bytes) -> None:
        try:
            message = wire.decode(frames_of(data), kind)
        except (MalformedMessage, LimitExceeded):
            return
        once = [bytes(frame) for frame in wire.encode(message)]
        again = [bytes(frame) for frame in wire.encode(wire.decode(once, kind))]
        assert once == again

    return target


def sealed(kind: type[RawBatch] | type[RawAnswered], opened: type[Batch] | type[Answered]) -> Target:
    """What the gate peeks at a message is what the room, or the caller, then decodes."""

    def target(data: bytes) -> None:
        frames = frames_of(data)
        try:
            outer: Any = wire.unpack(frames[0], kind)
            parts = outer.messages if isinstance(outer, RawBatch) else [outer.answer]
            tags = [peek_tag(part) for part in parts]
            inner: Any = wire.decode(frames, opened)
        except SyftError:
            return
        whole = inner.messages if isinstance(inner, Batch) else [inner.answer]
        assert tags == [type(message).__name__.lower().encode() for message in whole]
        assert wire.unpack(msgspec.msgpack.encode(outer), kind) == outer

    return target


def reading(data: bytes) -> None:
    """Wherever a stream is cut, the same comes out of it: the records, and the same end."""
    ends = [_read_all(data, cut, read_record) for cut in CUTS]
    assert all(end == ends[0] for end in ends)
    records, end = ends[0]
    if end is EOFError:
        assert data.startswith(b"".join(records))


def _read_all(data: bytes, cut: int, read: Callable[[PacketSource], Any]) -> tuple[list[bytes], type[Exception]]:
    source = PacketSource(data[at : at + cut] for at in range(0, len(data), cut))
    records: list[bytes] = []
    try:
        while True:
            records.append(b"".join(pack(read(source))))
    except (EOFError, LimitExceeded) as error:
        return records, type(error)


def peeking(data: bytes) -> None:
    """A tag is short, and stands where it says."""
    with suppress(MalformedMessage):
        tag = peek_tag(msgspec.Raw(data))
        assert len(tag) <= 31 and data[2:].startswith(tag)


def value_of_a_room(data: bytes) -> None:
    """The gate picks out a value, and of that what a request keeps, or says that it cannot."""
    with suppress(SyftError):
        raw_value(frames_of(data))
        tensor = requests.tensor_in(data, "bob")
        kept = requests.tensor_in(requests.encoded(tensor), "bob")
        assert (kept.dtype, kept.shape) == (tensor.dtype, tensor.shape)


def address(data: bytes) -> None:
    """What is an address is written as it was read."""
    with suppress(ValueError):
        read = parse_address(data.decode())
        assert parse_address(str(read)) == read and 0 < read.port < 2**16


def policies(data: bytes) -> None:
    """Policies that came with data can be gathered, joined and asked."""
    with suppress(MalformedMessage):
        read: tuple[Policy, ...] = wire.unpack(data, cast(Any, Policies))
        assert wire.unpack(msgspec.msgpack.encode(read), cast(Any, Policies)) == read
        for asked in (release.ShapeToCaller(), release.ToCaller(1), release.ToWorker(1, "agg", Movement.OPEN)):
            decision = release.judge(asked, "carol", "room", frozenset(read))
            assert decision.allowed <= all(policy.lets_use("carol") for policy in read)


def entries(data: bytes) -> None:
    """A line of the audit log is an entry, or it is not."""
    with suppress(msgspec.DecodeError, ValueError):
        entry = msgspec.json.decode(data, type=Entry)
        assert msgspec.json.decode(msgspec.json.encode(entry), type=Entry) == entry


# ---- a worker --------------------------------------------------------------------------------

#: Cheap operators without known holes: here the frame around operators is tried, not operators.
_OPERATORS = {
    "aten::add.Tensor", "aten::mul.Tensor", "aten::cat", "aten::sum.dim_IntList", "aten::add_.Tensor",
    "aten::split.Tensor",
}  # fmt: skip
_OBJECTS = 64


def _peer(name: str) -> Any:
    raise WorkerNotFound("nobody is known here", where="bob")


class _Live:
    """A worker with a few objects; made anew when it has gathered many, or lost those."""

    def __init__(self) -> None:
        self.worker = Worker("bob", _peer)
        for id in (1, 2):
            self.worker.handle(messages.Put(id, torch.ones(2, 3), ("#a",), "words"))

    @property
    def is_worn(self) -> bool:
        objects = self.worker.store.objects
        return not {1, 2} <= objects.keys() or len(objects) > _OBJECTS or objects[1].numel() != 6


_live = _Live()


def _live_worker() -> Worker:
    global _live
    if _live.is_worn:
        _live = _Live()
    return _live.worker


def _is_tried(request: Any) -> bool:
    return not isinstance(request, messages.Run) or request.operator in _OPERATORS


def worker(data: bytes) -> None:
    """A worker answers whatever comes; a request that fails changes nothing."""
    frames, here = frames_of(data), _live_worker()
    with suppress(SyftError):
        if not _is_tried(wire.decode(frames, cast(Any, messages.Request))):
            return
    before = dict(here.store.objects)
    answer = wire.decode(here.handle_frames(frames), cast(Any, messages.Answer))
    if isinstance(answer, messages.Failure):
        assert here.store.objects == before or {id: id for id in before} == {id: id for id in here.store.objects}


def room(data: bytes) -> None:
    """A room answers every batch that is one: it does not end."""
    try:
        batch = wire.decode(frames_of(data), Batch)
    except (MalformedMessage, LimitExceeded):
        return
    if all(map(_is_tried, batch.messages)):
        answered = answer_batch(_live_worker(), batch)
        assert (answered is not None) == (batch.asks and bool(batch.messages))
        if answered is not None:
            wire.decode(wire.encode(answered), Answered)


# ---- what leaves a room ----------------------------------------------------------------------


def _tenancy(*entered: Policy) -> Tenancy:
    nothing: Any = lambda *_: None  # noqa: E731
    tenancy = Tenancy("carol", fakes.Engine(), fakes.state(), nothing, nothing, nothing, nothing)
    tenancy.routes.introduce(messages.Introduce("alice", "", "token"))
    tenancy.enter(entered)
    return tenancy


_ASKED = (b"run", b"put", b"get", b"fetch", b"describe", b"search")
_LAST = 3
_MOST_THAT_LEAVES = 1000
_SHAPES = Policy("ward", "shapes", ("*",), shapes=("*",))


@cache
def _tenancies() -> tuple[Tenancy, Tenancy, Tenancy]:
    """One that nothing private entered, one with data that must not leave, one with data of which shapes may."""
    return _tenancy(), _tenancy(DENYING), _tenancy(_SHAPES)


def leaving(data: bytes) -> None:
    """Whatever a room says, what leaves is an answer, which tells no more than it may."""
    frames = [*frames_of(data)]
    free, denying, shapes = _tenancies()
    for asked in _ASKED:
        kind = release.ToCaller(1) if asked == b"get" else release.ShapeToCaller()
        free.let_out(asked, kind, frames, _LAST)
        _check_tells_little(denying.let_out(asked, kind, frames, _LAST))
        _check_tells_little(shapes.let_out(asked, kind, frames, _LAST), messages.Ran, messages.Placed, messages.Found)


def _check_tells_little(frames: Any, *shapes: type) -> None:
    """Nothing but a kind of error, or metadata where that is allowed."""
    assert len(frames) == 1
    answered = wire.decode(frames, Answered)
    answer = answered.answer
    assert answered.seq == _LAST
    if isinstance(answer, messages.Failure):
        assert answer.code in {*BY_CODE, SyftError.code} and 0 <= answer.asked_at <= _LAST
        assert len(frames[0]) < _MOST_THAT_LEAVES
    elif not isinstance(answer, shapes):
        assert answer in (messages.Done(), messages.Ran(()), messages.Found(()))


def calling(data: bytes) -> None:
    """Whatever a room says to workers elsewhere, it is sent on as a batch, or refused."""
    frames = [*frames_of(data)]
    for tenancy in _tenancies():
        for name in ("alice", "nobody"):
            with suppress(SyftError):
                tenancy.routes.call(name, frames)
        assert tenancy.routes._routes.keys() <= {"alice"}


TARGETS: dict[str, Target] = {
    "request": decoding(messages.Request),
    "answer": decoding(messages.Answer),
    "batch": decoding(Batch),
    "answered": decoding(Answered),
    "opening": decoding(Opening),
    "welcome": decoding(Welcome),
    "sealed batch": sealed(RawBatch, Batch),
    "sealed answered": sealed(RawAnswered, Answered),
    "reading": reading,
    "peeking": peeking,
    "value of a room": value_of_a_room,
    "address": address,
    "policies": policies,
    "entries": entries,
    "worker": worker,
    "room": room,
    "leaving": leaving,
    "calling": calling,
}

_ENTRY = b'{"time":"2026-01-02T03:04:05.6Z","client":"carol","what":"get","allowed":true,"reason":"r","object":1}'
SEEDS: dict[str, list[bytes]] = {
    "request": _encoded(REQUESTS),
    "answer": _encoded(ANSWERS),
    "batch": _encoded(_BATCHES),
    "answered": _encoded(_ANSWERED),
    "opening": _encoded([Opening("session", 3, True)]),
    "welcome": _encoded([Welcome(3, 60, 1 << 30)]),
    "sealed batch": _sealed(_BATCHES, RawBatch),
    "sealed answered": _sealed(_ANSWERED, RawAnswered),
    "reading": [b"".join(_encoded(REQUESTS[:3])), *_encoded(REQUESTS)],
    "peeking": [msgspec.msgpack.encode(request) for request in (messages.Clear(), messages.Get(1))],
    "value of a room": _encoded(_ANSWERED),
    "address": [b"127.0.0.1:7101", b"[::1]:1", b"localhost:65535"],
    "policies": [msgspec.msgpack.encode((POLICY, DENYING, _SHAPES))],
    "entries": [_ENTRY],
    "worker": _encoded(REQUESTS),
    "room": _encoded(_BATCHES),
    "leaving": _sealed(_ANSWERED, RawAnswered),
    "calling": _encoded(_BATCHES),
}
