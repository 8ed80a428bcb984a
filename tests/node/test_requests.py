"""Requests by hand: asked in one process, answered in another, across kills."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule, run_state_machine_as_test
from typer.testing import CliRunner

from syft import limits, wire
from syft.cli import app
from syft.errors import AuditFailed, LimitExceeded, Misuse
from syft.messages import Done, Value
from syft.node import requests
from syft.node.records import Answered, pack
from syft.node.release import Approval, Policy
from syft.node.requests import Request, Requests, State
from syft.wire import Meta, Reference

pytestmark = pytest.mark.in_process

HEART = Policy("bob", "heart", use=("carol", "dave"))


@pytest.fixture
def node(tmp_path: Path) -> Requests:
    return Requests(tmp_path, "bob")


@pytest.fixture
def owner(tmp_path: Path) -> Requests:
    """The same requests, as another process has them."""
    return Requests(tmp_path, "bob")


def ask(node: Requests, object: int = 7, client: str = "carol", room: str = "room-1", value: bytes = b"1") -> Request:
    policies, reason = [HEART], "a mean"
    return node.ask(client, room, object, dtype="float32", shape=(2, 3), policies=policies, reason=reason, value=value)


def states(side: Requests) -> list[State]:
    return [standing.state for standing in side.all()]


def test_a_request_is_seen_answered_and_approved(node: Requests, owner: Requests) -> None:
    request = ask(node)
    (standing,) = owner.open()
    assert standing.request == request
    assert (request.client, request.room, request.object, request.reason) == ("carol", "room-1", 7, "a mean")
    assert (request.dtype, request.shape, request.policies) == ("float32", (2, 3), (HEART,))
    assert request.data == "bob/heart" and request.size == 1
    assert node.approvals("carol", "room-1") == []
    assert owner.approve(request.id, "for the paper").state is State.APPROVED
    assert node.approvals("carol", "room-1") == [Approval(request.id, "bob", "carol", "room-1", 7)]
    assert node.find(request.id).note == "for the paper"
    assert owner.open() == node.open() == []


def test_an_approval_is_for_its_client_and_room(node: Requests, owner: Requests) -> None:
    owner.approve(ask(node).id)
    assert node.approvals("dave", "room-1") == node.approvals("carol", "room-2") == []


def test_the_value_kept_is_the_one_of_the_request(node: Requests, owner: Requests) -> None:
    first, second = ask(node, value=b"first"), ask(node, value=b"second")
    owner.approve(first.id)
    assert node.value(first.id) == b"first" and owner.value(second.id) == b"second"


def test_no_is_final_and_forgets_the_value(node: Requests, owner: Requests, tmp_path: Path) -> None:
    denied, revoked = ask(node), ask(node)
    owner.approve(revoked.id)
    for request in (denied, revoked):
        assert owner.deny(request.id, "too fine").state is State.DENIED
        with pytest.raises(Misuse, match="is denied and its value is gone"):
            node.value(request.id)
        with pytest.raises(Misuse, match="is denied already"):
            owner.approve(request.id)
    assert node.approvals("carol", "room-1") == []
    assert list(tmp_path.glob("*.value")) == []


def test_of_two_answers_at_once_no_counts(node: Requests, owner: Requests, tmp_path: Path) -> None:
    """The second owner's process has not read the first one's answer when it writes its own."""
    request = ask(node)
    owner.deny(request.id)
    late = Requests(tmp_path, "bob")
    late._journal.append(requests.Answer(request.id, request.time, State.APPROVED), lasting=False)
    assert states(Requests(tmp_path, "bob")) == states(node) == [State.DENIED]
    assert node.approvals("carol", "room-1") == []


def test_what_is_over_and_old_is_forgotten(
    node: Requests, owner: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = [ask(node) for _ in range(6)]
    for request in over:
        owner.deny(request.id)
    young, size = ask(node, client="dave"), (tmp_path / "requests.jsonl").stat().st_size
    monkeypatch.setattr(requests, "_is_old", lambda request: request.id in {old.id for old in over})
    kept = ask(node)
    assert (tmp_path / "requests.jsonl").stat().st_size < size / 2
    for side in (node, owner, Requests(tmp_path, "bob")):
        assert [standing.request for standing in side.all()] == [young, kept]
        with pytest.raises(Misuse, match="there is no request"):
            side.find(over[0].id)
    owner.approve(kept.id, "for the paper")
    assert node.find(kept.id).note == "for the paper" and node.value(kept.id) == b"1"
    assert [approval.request for approval in node.approvals("carol", "room-1")] == [kept.id]
    before = (tmp_path / "requests.jsonl").stat().st_ino
    node.sweep()
    ask(node)
    assert (tmp_path / "requests.jsonl").stat().st_ino == before  # most of it is needed


@pytest.mark.parametrize("id", ["none", "../requests", "", "*"])
def test_what_is_no_request_is_said(owner: Requests, id: str) -> None:
    for answer in (owner.approve, owner.deny, owner.value):
        with pytest.raises(Misuse, match="there is no request"):
            answer(id)


def test_a_client_takes_its_own_requests_back_and_sees_no_others(
    node: Requests, owner: Requests, tmp_path: Path
) -> None:
    mine, kept, others = ask(node), ask(node, room="room-2"), ask(node, client="dave")
    assert [standing.request for standing in node.of("carol")] == [mine, kept]
    assert node.find_of("carol", kept.id).request == kept
    for id in (others.id, "none"):
        with pytest.raises(Misuse, match=f"you have no request '{id}'"):
            node.find_of("carol", id)
    node.withdraw(mine.id)
    assert states(owner) == [State.WITHDRAWN, State.OPEN, State.OPEN]
    assert {path.stem for path in tmp_path.glob("*.value")} == {kept.id, others.id}
    with pytest.raises(Misuse, match="is withdrawn already"):
        owner.approve(mine.id)


def test_requests_end_with_their_time(node: Requests, owner: Requests, tmp_path: Path) -> None:
    opened, approved, denied = ask(node), ask(node), ask(node)
    owner.approve(approved.id)
    owner.deny(denied.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "REQUEST_DAYS", 0)
        assert node.of("carol") == []
        with pytest.raises(Misuse, match="no request"):
            node.find_of("carol", approved.id)
        with pytest.raises(Misuse, match="is withdrawn"):
            owner.value(approved.id)
    assert states(owner) == [State.WITHDRAWN, State.WITHDRAWN, State.DENIED]
    assert owner.find(opened.id).note == "kept for 0 days"
    assert list(tmp_path.glob("*.value")) == []


def test_a_request_that_ends_while_another_thread_ends_it_is_no_error(
    node: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(node)
    before = node.all()
    monkeypatch.setattr(limits, "REQUEST_DAYS", 0)
    assert node.of("dave") == []
    monkeypatch.setattr(node, "all", lambda: before)
    assert node.of("dave") == []


def test_all_is_there_after_a_restart(node: Requests, owner: Requests, tmp_path: Path) -> None:
    first, second = ask(node, value=b"1"), ask(node, value=b"2")
    owner.approve(first.id)
    again = Requests(tmp_path, "bob")
    assert again.all() == node.all()
    assert again.value(first.id) == b"1" and again.value(second.id) == b"2"


def test_after_a_kill_each_request_has_its_value_and_each_value_its_request(
    node: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = ask(node), ask(node)

    def die(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(node._journal, "append", die)
    with pytest.raises(KeyboardInterrupt):
        ask(node)
    assert len(list(tmp_path.glob("*.value"))) == 3
    (tmp_path / f"{lost.id}.value").unlink()
    again = Requests(tmp_path, "bob")
    again.sweep()
    assert states(again) == [State.OPEN, State.WITHDRAWN] and again.value(kept.id) == b"1"
    assert [path.stem for path in tmp_path.glob("*.value")] == [kept.id]


def test_a_torn_line_loses_one_request_only(node: Requests, tmp_path: Path) -> None:
    first = ask(node)
    ask(node)
    path = tmp_path / "requests.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    again = Requests(tmp_path, "bob")
    third = ask(again)
    assert [standing.request for standing in again.all()] == [first, third]


def test_files_are_private(node: Requests, tmp_path: Path) -> None:
    ask(node)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_bounds(node: Requests, owner: Requests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_REQUEST_BYTES", 10)
    monkeypatch.setattr(limits, "MAX_OPEN_REQUESTS", 3)
    with pytest.raises(LimitExceeded, match="not 6 and 11"):
        ask(node, value=b"x" * 11)
    with pytest.raises(LimitExceeded, match="a reason of 2000"):
        node.ask("carol", "r", 1, dtype="bool", shape=(), policies=[], reason="x" * 2001, value=b"")
    asked = [ask(node, value=b"x" * 10) for _ in range(3)]
    with pytest.raises(LimitExceeded, match="3 requests of carol are kept"):
        ask(node)
    assert len(list(tmp_path.glob("*.value"))) == 3
    ask(node, client="dave")
    owner.deny(asked[0].id)
    ask(node, value=b"")
    node.withdraw(asked[1].id)
    owner.approve(asked[2].id)
    monkeypatch.setattr(limits, "MAX_REQUESTS_BYTES", 14)
    with pytest.raises(LimitExceeded, match="no space"):
        ask(node, value=b"x" * 4)
    ask(node, value=b"x" * 3)
    node.withdraw(asked[2].id)
    monkeypatch.setattr(limits, "MAX_REQUESTS", 5)
    with pytest.raises(LimitExceeded, match="carol has made 5 requests in 30 days"):
        ask(node)
    with pytest.raises(LimitExceeded, match="2000 characters at most, not 2001"):
        owner.deny(node.of("dave")[0].request.id, "x" * 2001)


def test_what_cannot_be_written_is_an_error(node: Requests, tmp_path: Path) -> None:
    with pytest.raises(AuditFailed, match="No such file"):
        ask(Requests(tmp_path / "none", "bob"))
    (tmp_path / "requests.jsonl").touch(0o644)
    with pytest.raises(AuditFailed, match="only its owner can read"):
        ask(node)
    assert list(tmp_path.glob("*.value")) == []


def test_what_the_command_cannot_do_is_one_line(node: Requests, tmp_path: Path) -> None:
    config = tmp_path / "bob.toml"
    config.write_text('state = "."')
    unreadable = ask(node, value=b"no record at all").id
    for arguments, told in (
        (["approve", unreadable, "--note", "x" * 2001], "a note has 2000 characters at most, not 2001"),
        (["requests", unreadable], "only a dense tensor"),
        (["requests", "none"], "there is no request 'none'"),
    ):
        result = CliRunner().invoke(app, [*arguments, "--config", str(config)])
        assert isinstance(result.exception, SystemExit) and f"syft: {told}" in str(result.exception.code)


class TwoProcesses(RuleBasedStateMachine):
    """Node and owner, each restarted at will, against a plain dictionary."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.tmp_path_factory.mktemp("requests"))  # type: ignore[attr-defined]
        self.node, self.owner = Requests(self.folder, "bob"), Requests(self.folder, "bob")
        self.model: dict[str, tuple[str, int, State]] = {}

    @rule(target=asked, client=st.sampled_from(("carol", "dave")), object=st.integers(0, 2))
    def ask(self, client: str, object: int) -> str:
        request = ask(self.node, object, client, f"room-{client}", client.encode())
        self.model[request.id] = client, object, State.OPEN
        return request.id

    @rule(id=asked)
    def approve(self, id: str) -> None:
        client, object, state = self.model[id]
        if state is State.OPEN:
            self.owner.approve(id)
            self.model[id] = client, object, State.APPROVED
        else:
            with pytest.raises(Misuse):
                self.owner.approve(id)

    @rule(id=consumes(asked))
    def deny(self, id: str) -> None:
        client, object, state = self.model[id]
        if state in (State.OPEN, State.APPROVED):
            self.owner.deny(id)
            self.model[id] = client, object, State.DENIED

    @rule(id=consumes(asked))
    def withdraw(self, id: str) -> None:
        client, object, state = self.model[id]
        if state in (State.OPEN, State.APPROVED):
            self.node.withdraw(id)
            self.model[id] = client, object, State.WITHDRAWN

    @rule()
    def restart_node(self) -> None:
        self.node = Requests(self.folder, "bob")
        self.node.sweep()

    @rule()
    def restart_owner(self) -> None:
        self.owner = Requests(self.folder, "bob")

    @invariant()
    def both_see_the_model(self) -> None:
        for side in (self.node, self.owner):
            assert {s.request.id: (s.request.client, s.request.object, s.state) for s in side.all()} == self.model
            assert {a.request for a in side.approvals("carol", "room-carol")} == {
                id for id, (client, _, state) in self.model.items() if (client, state) == ("carol", State.APPROVED)
            }
        living = {id for id, (_, _, state) in self.model.items() if state in (State.OPEN, State.APPROVED)}
        assert {path.stem for path in self.folder.glob("*.value")} == living


def test_two_processes(tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = type("Machine", (TwoProcesses,), {"tmp_path_factory": tmp_path_factory})
    run_state_machine_as_test(machine, settings=settings(max_examples=40, stateful_step_count=15, deadline=None))


# ---- what is kept ------------------------------------------------------------------------------


def record(value: object, *more: bytes, **labels: object) -> bytes:
    frames = wire.encode(Answered(1, Value(value, **labels)))
    return b"".join(pack([*frames, *more]))


@pytest.mark.parametrize(
    "said",
    [
        record(torch.ones(1, 2), tags=("#hidden",), description="hidden"),
        record(torch.ones(1, 2), allowed=("hidden",)),
        record(torch.ones(1, 2), b"hidden"),
        record(torch.ones(2, 1).t()),
        record(torch.ones(2, 2, 2)[:1, 0, :]),
    ],
    ids=["labels", "policy", "another frame", "order", "strides"],
)
def test_a_request_keeps_dtype_shape_and_elements_and_nothing_else(said: bytes) -> None:
    plain = b"".join(pack(wire.encode(Answered(0, Value(torch.ones(1, 2))))))
    assert requests.encoded(requests.tensor_in(said, "bob")) == plain


@pytest.mark.parametrize(
    "said",
    [
        record(torch.eye(2).to_sparse()),
        record([torch.ones(2)]),
        record(1.5),
        record("hidden"),
        record(Reference("alice", 1, Meta("float32", (2,), (1,)))),
        b"".join(pack(wire.encode(Answered(1, Done())))),
        b"".join(pack([wire.encode(Answered(1, Value(torch.ones(2))))[0], b"12345678hidden"])),
        b"hidden",
    ],
    ids=["sparse", "a list", "a number", "a text", "a pointer", "no value", "longer memory", "no record"],
)
def test_all_but_a_dense_tensor_is_refused(said: bytes) -> None:
    with pytest.raises(Misuse, match="only a dense tensor") as refused:
        requests.tensor_in(said, "bob")
    assert "hidden" not in str(refused.value)


def test_judging_does_not_wait_for_a_disk(node: Requests, owner: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one request is being written, approvals of others are known."""
    owner.approve(ask(node).id)
    writing, judged = threading.Event(), threading.Event()

    def keep(id: str, value: bytes) -> None:
        writing.set()
        assert judged.wait(20)

    monkeypatch.setattr(node, "_keep", keep)
    thread = threading.Thread(target=ask, args=(node,))
    thread.start()
    assert writing.wait(20)
    with ThreadPoolExecutor(1) as judge:
        assert len(judge.submit(node.approvals, "carol", "room-1").result(10)) == 1
        judged.set()
    thread.join()
