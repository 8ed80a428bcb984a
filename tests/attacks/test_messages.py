"""Messages that no client of ours would send, in batches that are well formed."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
import pytest
import torch

from syft import limits
from syft.errors import LimitExceeded, MalformedMessage, SyftError, WorkerShut
from syft.ids import new_id
from syft.messages import (
    Clear,
    Delegate,
    Describe,
    Expect,
    Fetch,
    Get,
    Give,
    Introduce,
    Put,
    Release,
    Retain,
    Retire,
    Run,
)
from syft.wire import Ref

from .conftest import Attacker

pytestmark = pytest.mark.in_process


def _nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x90"


def _raw(*fields: Any) -> bytes:
    return msgspec.msgpack.encode(list(fields))


def _ext(code: int, data: bytes) -> Any:
    return msgspec.msgpack.Ext(code, data)


_tensor = msgspec.msgpack.encode((1, ("float32", (1 << 40,), (1,), 0, "strided")))
_name = "x" * (limits.MAX_NAME_LENGTH + 1)

#: Encoded messages, by what is wrong with them. Each ends the session or the room that it came to, alone.
MALFORMED = {
    "nothing": b"",
    "no message": b"\xc0",
    "a map": msgspec.msgpack.encode({"run": 1}),
    "no tag": _raw(1, 2, 3),
    "an unknown tag": _raw("eval", "1+1"),
    "a dunder": _raw("__class__", 1),
    "an answer": _raw("value", 1, None, (), ""),
    "a long tag": _raw("run" * 1000),
    "too few fields": _raw("run"),
    "fields of other kinds": _raw("run", 1, 2, 3, 4),
    "a negative id": _raw("get", -1),
    "an id beyond 63 bits": _raw("get", 1 << 63),
    "a long name": _raw("run", _name, [], {}, []),
    "a long keyword": _raw("run", "aten::neg", [], {_name: 1}, []),
    "too many results": _raw("run", "aten::neg", [], {}, list(range(limits.MAX_RESULTS + 1))),
    "too many tags": _raw("describe", 1, ["#x"] * (1 << 16), ""),
    "a long tag of an object": _raw("describe", 1, ["#" * (1 << 16)], ""),
    "a long description": _raw("describe", 1, [], "x" * (limits.MAX_DESCRIPTION_LENGTH + 1)),
    "a request without a reason": _raw("ask", 1, ""),
    "a request with a blank reason": _raw("ask", 1, " \n\u2003"),
    "bytes": _raw("run", "aten::neg", [b"\x80\x04K\x01."], {}, [1]),
    "a map as argument": _raw("run", "aten::neg", [{"a": 1}], {}, [1]),
    "a time": _raw("run", "aten::neg", [_ext(-1, b"\0\0\0\0")], {}, [1]),
    "an unknown kind of value": _raw("run", "aten::neg", [_ext(99, b"x")], {}, [1]),
    "a short id": _raw("run", "aten::neg", [_ext(1, b"x")], {}, [1]),
    "a tensor without memory": _raw("put", 1, _ext(3, _tensor)),
    "an unknown dtype": _raw("run", "aten::neg", [_ext(5, b"float1")], {}, [1]),
    "a dtype that is no text": _raw("run", "aten::neg", [_ext(5, b"\xff")], {}, [1]),
    "another device": _raw("run", "aten::neg", [_ext(8, b"cuda")], {}, [1]),
    "text that is none": b"\x93\xa3put\x01\xa2\xff\xff",
    "nested deep in an argument": b"\x95\xa3run\xa9aten::neg" + _nested(100_000) + b"\x80\x90",
    "nested within bounds of bytes": b"\x95\xa3run\xa9aten::neg" + _nested(limits.MAX_NESTING + 2) + b"\x80\x90",
    "nested deep": _nested(100_000),
    "cut off": _raw("run", "aten::neg", [], {}, [1])[:-2],
    "a list of four billion": b"\x95\xa3run\xa9aten::neg\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("message", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_message_gets_no_further(mallory: Attacker, message: bytes) -> None:
    mallory.ask(Put(1, torch.zeros(2)))
    channel = mallory.worker._channel
    with channel._lock:
        channel._pending.append(msgspec.Raw(message))
    try:
        assert mallory.ask(Get(1)).value.tolist() == [0.0, 0.0]  # it goes in one batch with that, which fails alone
    except (WorkerShut, MalformedMessage):  # or ends the room
        mallory.come_back()
    else:
        mallory.ask(Clear())
    mallory.ask(Put(1, torch.ones(2)))
    assert mallory.ask(Get(1)).value.tolist() == [1.0, 1.0]


def test_ids_grant_nothing_in_another_room(mallory: Attacker, fort: Any, mallory_certificate: Any) -> None:
    other = Attacker(fort, mallory_certificate)
    id = new_id()
    other.ask(Put(id, torch.tensor([4177.0])))
    (found,) = other.worker.search("#heart")
    for message in (
        Get(id), Get(id, new_id()), Retain(id), Fetch(id), Describe(id, ("#mine",), ""), Get(found.id_at_location),
        Retire((id,), (new_id(),), ""), Run("aten::neg", [Ref(id)], {}, (new_id(),)),
        Run("aten::copy_", [Ref(id), Ref(id)], {}, ()), Give(id, "fort", 1, None, "", fort.address, "x"),
    ):  # fmt: skip
        with pytest.raises(SyftError):
            mallory.ask(message)
    mallory.ask(Release((id, id, id)))
    assert other.ask(Get(id)).value.tolist() == [4177.0]
    other.worker.shut()


def test_results_named_twice_or_like_what_is_there_change_nothing(mallory: Attacker) -> None:
    mallory.ask(Put(1, torch.tensor([3.0, 1.0])))
    for message in (
        Run("aten::max.dim", [Ref(1), 0], {}, (7, 7)),
        Run("aten::max.dim", [Ref(1), 0], {}, (7,)),
        Run("aten::neg", [Ref(1)], {}, ()),
        Run("aten::unbind.int", [Ref(1)], {}, (7,)),
        Run("aten::unbind.int", [Ref(1)], {}, (7, 8, 9)),
        Retire((1, 1), (7, 8), ""),
        Retire((1,), (7, 8), ""),
    ):
        with pytest.raises(MalformedMessage):
            mallory.ask(message)
    assert mallory.ask(Get(1)).value.tolist() == [3.0, 1.0]


def test_what_one_has_oneself_is_taken_by_no_one_else(mallory: Attacker) -> None:
    """Tickets, delegates and introductions of one's own making lead nowhere."""
    mallory.ask(Put(1, torch.ones(2)))
    mallory.ask(Expect("guessed", "fort", new_id()))
    mallory.ask(Delegate("me"))
    mallory.ask(Introduce("roaming", "127.0.0.1:1", secrets.token_hex(16)))
    with pytest.raises(SyftError):
        mallory.ask(Give(1, "roaming", 5, None, "", "127.0.0.1:1", "guessed"))
    assert mallory.ask(Get(1)).value.tolist() == [1.0, 1.0]


def test_as_many_objects_as_the_owner_says(mallory: Attacker) -> None:
    (first,) = mallory.run("aten::zeros", [[1]])
    for _ in range(499):
        mallory.run("aten::alias", [Ref(first)])
    with pytest.raises(LimitExceeded, match="500 objects"):
        mallory.run("aten::alias", [Ref(first)])
    assert mallory.ask(Get(first)).value.tolist() == [0.0]


def test_a_header_beyond_the_bound(mallory: Attacker) -> None:
    mallory.ask(Put(2, torch.ones(2)))
    with pytest.raises((WorkerShut, LimitExceeded)):
        mallory.ask(Run("aten::neg", [[0.5] * (limits.MAX_HEADER_BYTES // 9 + 1)], {}, (1,)))
    mallory.come_back()
    mallory.ask(Put(1, torch.ones(2)))
    assert mallory.ask(Get(1)).value.tolist() == [1.0, 1.0]


@pytest.fixture
def too_deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(limits.MAX_NESTING + 1):
        value = [value]
    return value


def test_lists_nested_beyond_the_bound_are_refused_by_the_room(mallory: Attacker, too_deep: list[Any]) -> None:
    mallory.ask(Put(1, torch.ones(1)))
    with pytest.raises(MalformedMessage):
        mallory.ask(Run("aten::neg", [too_deep], {}, (2,)))
    assert mallory.ask(Get(1)).value.tolist() == [1.0]
