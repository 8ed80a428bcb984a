"""A node that answers something else than what it was asked: its client is told so, and nothing breaks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch

import syft as sy
from syft import messages, wire
from syft.asking import Request
from syft.dispatch import Handle
from syft.errors import MalformedMessage
from syft.messages import Asked, Done, Found, Message, Placed, Ran, State, Value
from syft.node.channel import Channel
from syft.node.records import Answered
from syft.pointer import PointerTensor
from syft.wire import Meta, Ref, Reference
from syft.workers import BaseWorker, forget_worker, local_worker
from tests.fuzz.targets import ANSWERS, REQUESTS

pytestmark = pytest.mark.in_process

META = Meta("float32", (2,), (1,))
REQUEST = ("name", "2026-11-23T15:16:35+00:00", "reason", State.OPEN, "note")
PLAIN = [answer for answer in ANSWERS if not isinstance(answer, messages.Failure)]


class Liar:
    """In the place of a link: answers each question with the same."""

    def __init__(self) -> None:
        self.answer: Message = Done()
        self.channel = Channel("bob", self, is_timed=False)

    def send(self, last: int, frames: Any) -> None:
        self.channel.arrived(wire.encode(Answered(last, self.answer)))

    def acknowledge(self, last: int) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def liar() -> Liar:
    return Liar()


class Bob(BaseWorker):
    """A worker over a liar."""

    def shut(self) -> None:
        forget_worker(self.id)


def test_every_request_and_every_answer_has_its_place_in_the_table() -> None:
    assert set(messages.ANSWERS) == set(messages.Request.__args__) == {type(request) for request in REQUESTS}
    kinds = {kind for kinds in messages.ANSWERS.values() for kind in kinds}
    assert kinds | {messages.Failure, messages.Called} == set(messages.Answer.__args__)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_an_answer_of_another_kind(liar: Liar, request_: Message) -> None:
    for liar.answer in PLAIN:
        if type(liar.answer) not in messages.ANSWERS[type(request_)]:
            with pytest.raises(MalformedMessage, match=f"no answer to a {type(request_).__name__}") as caught:
                liar.channel._ask(request_)
            assert caught.value.where == "bob"


@pytest.mark.parametrize(
    ("request_", "good", "bad"),
    [
        (
            messages.Get(1),
            [Value(torch.ones(2)), Value(Reference("bob", 1, META))],
            [Value(1), Value([]), Value(Ref(1))],
        ),
        (messages.Collect("name"), [Value(torch.ones(2))], [Value(Reference("bob", 1, META)), Value(None)]),
        (messages.Ask(1, "why"), [Asked((REQUEST,))], [Asked(()), Asked((REQUEST,) * 2)]),
        (messages.Inquire("name"), [Asked((REQUEST,))], [Asked(()), Asked((REQUEST,) * 2)]),
        (messages.Inquire(), [Asked(()), Asked((REQUEST,) * 2)], []),
        (
            messages.Run("aten::nonzero", [Ref(1)], {}, (2,)),
            [Ran((META,))],
            [Ran(()), Ran((None,)), Ran((META, META))],
        ),
        (
            messages.Run("aten::native_layer_norm_backward", [Ref(1)], {}, (2, 3, 4)),
            [Ran((META, None, META))],
            [Ran((META,)), Ran((META,) * 4)],
        ),
        (
            messages.Run("aten::unbind.int", [Ref(1)], {}, (2, 3)),
            [Ran((META, META))],
            [Ran((META,)), Ran((META, None))],
        ),
        (messages.Run("aten::equal", [Ref(1), Ref(2)], {}, (3,)), [Ran((META,))], [Ran(()), Ran((None,))]),
        (messages.Run("aten::add_.Tensor", [Ref(1), 1], {}, ()), [Ran((META,))], [Ran(()), Ran((None,))]),
        (messages.Run("aten::_foreach_abs_", [[Ref(1)]], {}, ()), [Ran(())], [Ran((META,))]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else "",
)
def test_an_answer_that_lacks_what_was_asked_for(
    liar: Liar, request_: Message, good: list[Message], bad: list[Message]
) -> None:
    for liar.answer in good:
        assert type(liar.channel._ask(request_)) is type(liar.answer)
    for liar.answer in bad:
        with pytest.raises(MalformedMessage):
            liar.channel._ask(request_)


@pytest.mark.parametrize(
    "call",
    [
        lambda p: p.copy().get(),
        lambda p: p.move(sy.VirtualWorker(id="carol")),
        lambda p: p.give_copy(sy.VirtualWorker(id="carol")),
        lambda p: p.sum().item(),
        lambda p: p.nonzero(),
        lambda p: p.unique(),
        lambda p: torch.equal(p, p),
        lambda p: p.describe("words"),
        lambda p: p.copy().remote_get(),
        lambda p: p.send(sy.VirtualWorker(id="carol")),
        lambda p: p.location.search("words"),
        lambda p: p.location.clear_objects(),
    ],
)
def test_a_user_sees_no_error_of_this_code(liar: Liar, call: Callable[[Any], Any]) -> None:
    pointer = PointerTensor.of(Handle(1, Bob("bob", liar.channel), local_worker(), owns=False), META)
    for liar.answer in [*PLAIN, Ran((META,)), Ran((None,)), Value(3), Asked(()), Found(()), Placed(META)]:
        with suppress(sy.SyftError, RuntimeError):  # torch's own of a value that has another shape than was said
            call(pointer)


def test_a_request_that_was_made_at_no_time() -> None:
    with pytest.raises(MalformedMessage, match="at no time"):
        Request(local_worker(), ("name", "yesterday", "reason", State.OPEN, "note"))
