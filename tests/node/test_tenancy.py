"""What enters a room, what it answers, and what its client hears of that once too many calls have failed there."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from syft import messages, wire
from syft.messages import Confirm, Done, Failure, Found, Message, Run, Value
from syft.node.data import Offer
from syft.node.records import FOR_THE_GATE, Answered, Frames, tag_of
from syft.node.release import Policy, ShapeToCaller, ToCaller
from syft.node.tenancy import ANSWERS, Tenancy
from syft.store import Label

from .fakes import Engine, state

pytestmark = pytest.mark.in_process

FAILED = Answered(1, Failure("object-gone", "secret", "bob", "secret"))


@pytest.fixture
def tenancy() -> Tenancy:
    """The room of a client who sees neither values nor shapes, and has been told of all failures that may be."""
    there = state()
    there.tells_failures = lambda *_: False
    tenancy = Tenancy("me", Engine(lives=True), there, None, None, lambda: None, lambda *_: None)
    tenancy.entered = frozenset([Policy("bob", "heart", use=("me",))])
    return tenancy


def tag(kind: type[Message]) -> bytes:
    return kind.__struct_config__.tag.encode()


def let_out(tenancy: Tenancy, asked: type[Message], answered: Any) -> Frames:
    return tenancy.let_out(tag(asked), ShapeToCaller(), wire.encode(answered), 1)


def test_what_is_not_for_the_gate_is_for_the_room() -> None:
    assert {tag(asked) for asked in messages.ANSWERS if asked not in FOR_THE_GATE} == ANSWERS.keys()
    assert ANSWERS[b"put"] == b"placed" and ANSWERS[b"get"] == b"value" and b"expect" not in ANSWERS


@pytest.mark.parametrize("asked", [*messages.ANSWERS], ids=lambda kind: kind.__name__)
def test_a_failure_that_is_not_told_is_answered_with_what_a_caller_takes_for_no_yes(
    tenancy: Tenancy, asked: type[Message]
) -> None:
    answer = wire.decode(let_out(tenancy, asked, FAILED), Answered).answer
    assert "secret" not in repr(answer) and "object-gone" not in repr(answer)
    if Done in messages.ANSWERS[asked] and asked is not Confirm:
        assert answer == Done()
    else:
        assert isinstance(answer, Failure) and answer.code == "not-permitted"


@pytest.mark.parametrize(("asked", "answer"), [(Confirm, Done()), (Run, messages.Ran(()))])
def test_what_did_not_fail_is_then_refused_like_what_did(
    tenancy: Tenancy, asked: type[Message], answer: Message
) -> None:
    assert tag_of(let_out(tenancy, asked, Answered(1, answer))) == b"failure"
    assert let_out(tenancy, asked, Answered(1, answer)) == let_out(tenancy, asked, FAILED)


def test_nobody_is_refused_for_others_data(tenancy: Tenancy) -> None:
    tenancy.entered = frozenset()
    assert tag_of(let_out(tenancy, Confirm, Answered(1, Done()))) == b"done"


def test_what_a_room_begins_to_say_while_data_enters_is_judged_by_that_data() -> None:
    tenancy = Tenancy("me", Engine(lives=True), state(), None, None, lambda: None, lambda *_: None)
    value = Answered(1, Value(torch.ones(2)))
    tenancy.permit(ToCaller(5))  # nothing private is there yet
    said = []
    tenancy.room.finish_answers = lambda: said.append(tenancy.let_out(b"get", ToCaller(5), wire.encode(value), 1))
    tenancy.enter([Policy("carol", "heart", use=("me",))])
    assert [tag_of(answer) for answer in said] == [b"failure"]


def test_who_brings_the_same_data_waits_as_well_for_what_was_said_before_it() -> None:
    tenancy = Tenancy("me", Engine(lives=True), state(), None, None, lambda: None, lambda *_: None)
    saying, said, entered = threading.Event(), threading.Event(), threading.Event()

    def finish_answers() -> None:
        saying.set()
        assert said.wait(20)

    def enter() -> None:
        tenancy.enter([Policy("carol", "heart", use=("me",))])
        entered.set()

    tenancy.room.finish_answers = finish_answers
    both = [threading.Thread(target=enter) for _ in range(2)]
    for thread in both:
        thread.start()
    assert saying.wait(20) and not entered.wait(0.1)
    said.set()
    for thread in both:
        thread.join(20)
    assert entered.is_set()


def test_a_search_is_answered_while_the_room_takes_the_owners_data() -> None:
    there = state()
    there.offers = [Offer("heart/x", torch.ones(2), Label(), Policy("bob", "heart", use=("me",), get=("me",)))]
    tenancy = Tenancy("me", Engine(lives=True), there, None, None, lambda: None, lambda *_: None)
    (id,) = tenancy._offered
    sending, taken = threading.Event(), threading.Event()
    tenancy.room.send = lambda *_: sending.set() or taken.wait(20)
    named = id.to_bytes(8, "big")
    first, second = (threading.Thread(target=tenancy.bring_in, args=(named,)) for _ in range(2))
    first.start()
    assert sending.wait(20)
    second.start()  # another session's batch, which must not come before the data
    answers: list[Frames] = []
    found = wire.encode(Answered(1, Found(())))
    search = threading.Thread(target=lambda: answers.append(tenancy.let_out(b"search", ShapeToCaller(), found, 1)))
    search.start()
    search.join(5)
    second.join(0.1)
    assert tag_of(*answers) == b"found" and second.is_alive()
    taken.set()
    first.join(20)
    second.join(20)
    assert not second.is_alive()


def test_nothing_is_kept_of_a_release_that_failed() -> None:
    tenancy = Tenancy("me", Engine(lives=True), state(), None, None, lambda: None, lambda *_: None)
    tenancy.enter([Policy("carol", "heart", use=("me",), get=("me",))])
    for id in range(3):
        tenancy.permit(ToCaller(id))
        tenancy.let_out(b"get", ToCaller(id), wire.encode(FAILED), 1)
    assert not tenancy._noted
