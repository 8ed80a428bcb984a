"""Releases: denied unless every policy of what entered the room says yes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syft.node.release import (
    Approval,
    Decision,
    Movement,
    Policy,
    Release,
    ShapeToCaller,
    ToCaller,
    ToWorker,
    judge,
    owners_to_ask,
)

pytestmark = pytest.mark.in_process

USERS = ("carol", "dave", "eve")
WORKERS = ("agg", "zoe")
OPEN, SEALED = Movement.OPEN, Movement.SEALED

users = st.lists(st.sampled_from((*USERS, "*")), unique=True).map(tuple)
policies = st.builds(
    Policy,
    owner=st.sampled_from(("bob", "alice")),
    data=st.sampled_from(("heart", "lung", "skin")),
    use=users,
    get=users,
    move=st.dictionaries(st.sampled_from(WORKERS), st.sampled_from(Movement)),
    shapes=users,
)
releases: st.SearchStrategy[Release] = st.one_of(
    st.builds(ToCaller, object=st.integers(0, 2)),
    st.builds(ToWorker, object=st.integers(0, 2), to=st.sampled_from(WORKERS), how=st.sampled_from(Movement)),
    st.just(ShapeToCaller()),
)
approvals = st.builds(
    Approval,
    request=st.sampled_from(("r1", "r2", "r3")),
    owner=st.sampled_from(("bob", "alice")),
    user=st.sampled_from(USERS),
    room=st.sampled_from(("room-1", "room-2")),
    object=st.integers(0, 2),
)
rooms = st.sampled_from(("room-1", "room-2"))
asking = st.sampled_from(USERS)
entering = st.lists(policies, max_size=5)
answered = st.lists(approvals, max_size=5)

heart = Policy("bob", "heart", use=("carol", "dave"), get=("carol",), move={"agg": SEALED, "zoe": OPEN})
lung = Policy("alice", "lung", use=("carol",), shapes=("carol",))


# ---- each rule ----


@pytest.mark.parametrize("release", [ToCaller(1), ToWorker(1, "anywhere", OPEN), ShapeToCaller()])
def test_what_is_the_callers_own_may_leave(release: Release) -> None:
    assert judge(release, "carol", "room-1", ()) == Decision(True, "nothing private entered the room")


@pytest.mark.parametrize(
    ("release", "user", "reason"),
    [
        (ToCaller(1), "carol", ""),
        (ToCaller(1), "dave", "bob/heart: dave may not get results"),
        (ToCaller(1), "eve", "bob/heart: eve may not use it"),
        (ShapeToCaller(), "carol", ""),
        (ShapeToCaller(), "dave", "bob/heart: dave may not see shapes that depend on values"),
        (ToWorker(1, "agg", SEALED), "dave", ""),
        (ToWorker(1, "agg", OPEN), "dave", "bob/heart: results may move to agg only sealed"),
        (ToWorker(1, "zoe", OPEN), "dave", ""),
        (ToWorker(1, "zoe", SEALED), "dave", ""),
        (ToWorker(1, "max", SEALED), "carol", "bob/heart: results may not move to max"),
        (ToWorker(1, "zoe", OPEN), "eve", "bob/heart: eve may not use it"),
    ],
)
def test_one_policy(release: Release, user: str, reason: str) -> None:
    expected = Decision(not reason, reason or "every policy allows it", ("bob/heart",))
    assert judge(release, user, "room-1", [heart]) == expected


def test_all_that_entered_must_allow() -> None:
    decision = judge(ToCaller(1), "carol", "room-1", [heart, lung])
    assert decision == Decision(False, "alice/lung: carol may not get results", ("alice/lung", "bob/heart"))
    assert judge(ShapeToCaller(), "carol", "room-1", [heart, lung]).allowed


def test_what_a_policy_does_not_name_is_denied() -> None:
    silent = Policy("bob", "heart", use=("*",))
    for release in (ToCaller(1), ShapeToCaller(), ToWorker(1, "agg", SEALED), ToWorker(1, "alice", OPEN)):
        assert not judge(release, "carol", "room-1", [silent]).allowed


def test_results_may_always_go_home() -> None:
    silent = Policy("bob", "heart", use=("carol",))
    assert judge(ToWorker(1, "bob", OPEN), "carol", "room-1", [silent]).allowed
    assert not judge(ToWorker(1, "bob", OPEN), "dave", "room-1", [silent]).allowed
    assert not judge(ToWorker(1, "bob", OPEN), "carol", "room-1", [silent, lung]).allowed


def test_anyone_is_anyone() -> None:
    public = Policy("bob", "iris", use=("*",), get=("*",))
    assert judge(ToCaller(1), "eve", "room-1", [public]).allowed


def test_two_policies_of_one_name_count_both() -> None:
    """The owner may have changed the config between two rooms whose data met."""
    strict = Policy("bob", "heart", use=("carol",))
    for entered in ([heart, strict], [strict, heart], {heart, strict}):
        assert not judge(ToCaller(1), "carol", "room-1", entered).allowed


def test_an_approval_lifts_its_owners_refusal_for_one_object_of_one_room() -> None:
    yes = Approval("r1", "alice", "carol", "room-1", 1)
    assert judge(ToCaller(1), "carol", "room-1", [heart, lung], [yes]) == Decision(
        True, "approved by hand: r1", ("alice/lung", "bob/heart"), "r1"
    )
    assert not judge(ToCaller(2), "carol", "room-1", [lung], [yes]).allowed
    assert not judge(ToCaller(1), "carol", "room-2", [lung], [yes]).allowed
    assert not judge(ShapeToCaller(), "dave", "room-1", [lung], [yes]).allowed
    assert not judge(ToWorker(1, "agg", SEALED), "carol", "room-1", [lung], [yes]).allowed


def test_one_owner_cannot_approve_for_another() -> None:
    of_bob = Approval("r1", "bob", "carol", "room-1", 1)
    assert not judge(ToCaller(1), "carol", "room-1", [heart, lung], [of_bob]).allowed


def test_owners_have_to_approve_the_same_request() -> None:
    """Two requests for one object are for two values."""
    skin = Policy("bob", "skin", use=("carol",))
    ours, theirs = Approval("r1", "bob", "carol", "room-1", 1), Approval("r2", "alice", "carol", "room-1", 1)
    assert not judge(ToCaller(1), "carol", "room-1", [skin, lung], [ours, theirs]).allowed
    both = Approval("r2", "bob", "carol", "room-1", 1)
    assert judge(ToCaller(1), "carol", "room-1", [skin, lung], [ours, theirs, both]).request == "r2"


def test_the_latest_approval_counts() -> None:
    answers = [Approval(f"r{i}", "alice", "carol", "room-1", 1) for i in (2, 3, 1)]
    assert judge(ToCaller(1), "carol", "room-1", [lung], answers).request == "r1"


def test_an_approval_is_not_named_where_none_was_needed() -> None:
    """A release that names no request gives the room's value; one that does gives the value kept."""
    assert judge(ToCaller(1), "carol", "room-1", [heart], [Approval("r1", "bob", "carol", "room-1", 1)]).request == ""


# ---- what holds for all ----


@given(releases, asking, rooms, entering, answered, policies)
def test_more_private_data_never_turns_no_into_yes(release, user, room, entered, answers, further) -> None:
    if judge(release, user, room, [*entered, further], answers).allowed:
        assert judge(release, user, room, entered, answers).allowed


@given(releases, asking, rooms, entering, answered, approvals)
def test_a_further_approval_never_turns_yes_into_no(release, user, room, entered, answers, further) -> None:
    if judge(release, user, room, entered, answers).allowed:
        assert judge(release, user, room, entered, [*answers, further]).allowed


@given(releases, asking, rooms, entering, answered, st.randoms())
def test_neither_order_nor_repetition_counts(release, user, room, entered, answers, random) -> None:
    shuffled = [*entered, *entered[:2]]
    random.shuffle(shuffled)
    assert judge(release, user, room, shuffled, answers).allowed == judge(release, user, room, entered, answers).allowed


@given(releases, asking, rooms, entering)
def test_together_is_no_more_than_each_alone(release, user, room, entered) -> None:
    alone = all(judge(release, user, room, [policy]).allowed for policy in entered)
    assert judge(release, user, room, entered).allowed == alone


@given(asking, rooms, entering, answered, st.sampled_from(WORKERS))
def test_open_includes_sealed(user, room, entered, answers, to) -> None:
    if judge(ToWorker(1, to, OPEN), user, room, entered, answers).allowed:
        assert judge(ToWorker(1, to, SEALED), user, room, entered, answers).allowed


@given(releases, asking, rooms, policies, answered)
def test_nobody_gets_anything_of_what_they_may_not_use(release, user, room, policy, answers) -> None:
    if not policy.lets_use(user):
        assert not judge(release, user, room, [policy], answers).allowed


@given(releases, asking, rooms, entering, answered)
def test_a_decision_names_all_policies_and_the_request_it_rests_on(release, user, room, entered, answers) -> None:
    decision = judge(release, user, room, entered, answers)
    assert decision.policies == tuple(sorted({policy.name for policy in entered}))
    assert decision.request in {"", *(a.request for a in answers)}
    without = judge(release, user, room, entered)
    assert bool(decision.request) == (decision.allowed and not without.allowed)


# ---- policies travel ----


@given(policies)
def test_a_policy_is_the_same_after_a_journey(policy: Policy) -> None:
    arrived = msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy)
    assert arrived == policy and hash(arrived) == hash(policy)


@pytest.mark.parametrize(
    "change",
    [
        {"use": ["Carol"]},
        {"use": "carol"},
        {"get": ["a/b"]},
        {"move": {"agg": "shut"}},
        {"move": {"*": "open"}},
        {"owner": "x" * 64},
        {"owner": "bob\n"},
        {"everything": True},
    ],
)
def test_a_policy_with_anything_else_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"owner": "bob", "data": "heart", **change}, Policy)


def test_who_has_to_be_asked() -> None:
    entered = [Policy("bob", "a", use=("me",)), Policy("carol", "b", use=("me",), get=("me",)), Policy("dave", "c")]
    assert owners_to_ask("me", entered) == {"bob", "dave"}
    assert owners_to_ask("me", []) == set()
