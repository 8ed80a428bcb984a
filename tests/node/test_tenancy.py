"""What a room answers, and what its client hears of that once too many of its calls have failed near private data."""

from __future__ import annotations

from typing import Any

import pytest

from syft import messages, wire
from syft.messages import Confirm, Done, Failure, Message, Run
from syft.node.records import FOR_THE_GATE, Answered, Frames, tag_of
from syft.node.release import Policy, ShapeToCaller
from syft.node.tenancy import ANSWERS, Tenancy

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
