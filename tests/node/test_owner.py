"""An owner's data at a node: who may use it, what of it leaves, and what the owner sees and says."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import syft as sy
from syft import limits
from syft.errors import (
    AuditFailed,
    BadConfig,
    GetNotPermitted,
    LimitExceeded,
    Misuse,
    NotPermitted,
    OperatorFailed,
    SendNotPermitted,
    SyftError,
    WorkerShut,
)
from syft.messages import Collect, Inquire, List, Retain, Withdraw
from syft.node import certs
from syft.node.audit import AuditLog, Wanted
from syft.node.requests import Requests
from syft.node.serve import serve
from syft.node.state import read_status

from ..helpers import config_with_data, data_set, until

pytestmark = pytest.mark.in_process

VALUES = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]], dtype=np.float32)

CONFIG = f"""
{data_set("heart", tags=["#cardiology"], description="blood pressure", use=["me"])}
{data_set("free", use=["*"], get=["me"])}
{data_set("shaped", use=["me"], shapes=["me"])}
{data_set("movable", use=["me"], move='{ lab = "open" }')}
{data_set("open", use=["me"], get=["me"], move='{ lab = "open" }')}
{data_set("hidden", use=["dave"], get=["dave"])}
[[peers]]
name = "lab"

[limits]
clients = 12
room_objects = 50
grace_seconds = 2
"""


@pytest.fixture(scope="session")
def owner(start, tmp_path_factory):
    """A node with data, and one without."""
    folder = tmp_path_factory.mktemp("ward")
    config = config_with_data(folder, "ward", CONFIG, VALUES)
    return SimpleNamespace(
        ward=start("ward", config),
        lab=start("lab"),
        config=config,
        state=folder / "ward-state",
    )


@pytest.fixture
def ward(owner, authority):
    return sy.connect(owner.ward.address, certs=authority / "me")


@pytest.fixture
def lab(owner, authority):
    return sy.connect(owner.lab.address, certs=authority / "me")


def data(worker, name):
    (found,) = worker.search(f"#{name}")
    return found


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "syft.cli", *map(str, args)], capture_output=True, text=True, timeout=60, check=False
    )


# ---- what may be found and used ----------------------------------------------------------------


def test_search_finds_what_one_may_use_and_brings_nothing_in(ward):
    found = {tag for x in ward.search() for tag in x.tags}
    assert found == {"#heart", "#cardiology", "#free", "#shaped", "#movable", "#open", "#x"}
    x = data(ward, "cardiology")
    assert x.shape == (3, 2) and x.dtype == torch.float32 and x.description == "blood pressure"
    assert ward.search("#heart")[0].id_at_location == x.id_at_location
    assert torch.equal(sy.send(torch.ones(2), ward).get(), torch.ones(2))


def test_what_may_be_got_is_got(ward):
    x = data(ward, "free")
    assert torch.equal((x * 2).get(), torch.from_numpy(VALUES) * 2)
    assert x.sum().item() == VALUES.sum() and bool((x > 5).any())
    assert x[x > 0].shape == (4,)


TAKINGS = {
    "got": lambda x, lab: x.get(),
    "moved to a node": lambda x, lab: x.move(lab),
    "moved to a virtual worker": lambda x, lab: x.move(sy.VirtualWorker(id="mine")),
    "cleared away": lambda x, lab: (x + 1, x.location.clear_objects()),
}


@pytest.mark.parametrize("take", TAKINGS.values(), ids=TAKINGS)
def test_what_is_taken_is_found_again(ward, lab, take):
    for _ in range(2):
        take(data(ward, "open"), lab)
    assert data(ward, "open").sum().get().item() == VALUES.sum()


def test_ids_of_owners_data_are_each_sessions_own(owner, ward, authority):
    x = data(ward, "free")
    other = sy.connect(owner.ward.address, certs=authority / "me")
    assert data(other, "free").id_at_location != x.id_at_location


# ---- what may not leave ------------------------------------------------------------------------


def test_neither_values_nor_numbers_of_them_leave(ward):
    x = data(ward, "heart")
    y = x @ x.t()
    for take in (
        y.get, y.tolist, y.numpy, y.copy().get, lambda: y.sum().item(), lambda: bool(y.sum() > 0),
        lambda: float(y[0, 0]), lambda: torch.equal(x, x),
    ):  # fmt: skip
        with pytest.raises(NotPermitted):
            take()
    with pytest.raises(GetNotPermitted, match=r"ward/heart: me may not get results.*\n.*request\(reason=") as refused:
        y.get()
    assert "ward" in str(refused.value)
    assert "-2" not in repr(y) and y.shape == (3, 3)
    assert (y + 1).shape == (3, 3)  # it is still there: a get that is refused changes nothing


def test_shapes_that_depend_on_values_need_a_yes_of_their_own(owner, ward, authority):
    x = data(ward, "heart")
    with pytest.raises(NotPermitted, match="shape"):
        x[x > 0]
    with pytest.raises(NotPermitted, match="shape"):
        x.nonzero()
    again = sy.connect(owner.ward.address, certs=authority / "me")
    shaped = data(again, "shaped")
    assert shaped[shaped > 0].shape == (4,)
    with pytest.raises(GetNotPermitted):
        shaped[shaped > 0].get()


def test_own_data_beside_private_data_is_judged_like_it(ward):
    own = sy.send(torch.zeros(3, 2), ward)
    before = own.copy().get()
    assert torch.equal(before, torch.zeros(3, 2))
    data(ward, "heart").sum()
    with pytest.raises(GetNotPermitted):
        own.get()


def _copy(x, own):
    return own.copy_(x)


def _add_in_place(x, own):
    own += x
    return own


def _view(x, own):
    own.view(-1)[:4].copy_(x.reshape(-1)[:4])
    return own.view(6)


def _out(x, own):
    torch.add(own, x, out=own)
    return own


def _gradient(x, own):
    weight = own.clone().requires_grad_()
    (weight * x).sum().backward()
    return weight.grad


def _shape_changed(x, own):
    return own.copy_(x).t_()


def _two(x, own):
    values, _ = (x + own).max(dim=0)
    return values


def _resized(x, own):
    return own.copy_(x)[1:].clone().resize_(6)


LAUNDERINGS = {
    "copy_": _copy,
    "in place": _add_in_place,
    "cat": lambda x, own: torch.cat([own, x])[3:],
    "foreach": lambda x, own: torch._foreach_add([own], [x])[0],
    "index": lambda x, own: own.index_copy_(0, sy.send(torch.arange(3), own.location), x),
    "where": lambda x, own: torch.where(own == 0, x, own),
    "view": _view,
    "out": _out,
    "autograd": _gradient,
    "shape in place": _shape_changed,
    "two results": _two,
    "resized": _resized,
    "dtype": lambda x, own: x.view(torch.int32) + own.int(),
    "detached": lambda x, own: x.detach().clone().data,
    "only own": lambda x, own: own + (x.sum() * 0),
}


@pytest.mark.parametrize("launder", LAUNDERINGS.values(), ids=LAUNDERINGS.keys())
def test_no_way_of_computing_turns_a_no_into_a_yes(owner, authority, launder):
    worker = sy.connect(owner.ward.address, certs=authority / "me")
    result = launder(data(worker, "heart"), sy.send(torch.zeros(3, 2), worker))
    for take in (result.get, result.tolist, lambda: result.sum().item(), lambda: bool(result.any())):
        with pytest.raises(GetNotPermitted):
            take()
    result.tag("#mine").describe("free")
    with pytest.raises(NotPermitted):
        worker.search("#mine")
    worker.shut()


def test_torchs_words_stay_and_the_code_of_an_error_leaves(ward):
    x = data(ward, "heart")
    table = sy.send(torch.arange(2.0), ward)
    wrong = table.index_select(0, (x[1] * 1000).long())
    with pytest.raises(GetNotPermitted):
        wrong.get()
    with pytest.raises(SyftError) as refused:
        wrong.reference()
    assert refused.value.code.startswith("operator") and "3000" not in str(refused.value)
    assert isinstance(refused.value, OperatorFailed)


def test_torchs_words_are_for_who_may_get_results(owner, ward):
    x = data(ward, "free")
    wrong = sy.send(torch.arange(2.0), ward).index_select(0, (x[1] * 1000).long())
    with pytest.raises(OperatorFailed, match="index out of range"):
        wrong.reference()
    *_, noted = AuditLog(owner.state / "audit.jsonl").read(Wanted(what="failure", data="free"))
    assert noted.allowed and noted.reason.endswith("with its text") and noted.policies == ("ward/free",)
    data(ward, "heart").sum()
    with pytest.raises(OperatorFailed, match="the room reports: operator"):
        wrong.reference()


# ---- to other workers --------------------------------------------------------------------------


def ending_told(node, authority, state, name):
    """Have a room end that data has entered; return what its client is told of it."""
    worker = sy.connect(node.address, certs=authority / "me")
    x = data(worker, name) + 1
    worker.request(Retain(x.id_at_location))
    (room,) = [tenant.pid for tenant in read_status(state).tenants if tenant.entered]
    os.kill(room, signal.SIGKILL)
    told = []

    def ask():
        try:
            worker.request(List())
        except WorkerShut as error:
            told.append(error.what)
        return bool(told)

    until(ask)
    return told[0]


def test_failures_do_not_spell_out_what_may_not_leave(start, authority, tmp_path):
    """Nor do the ends of rooms, which count among them."""
    clinic = start("clinic", config_with_data(tmp_path, "clinic", data_set("bits", use=["me"]), np.arange(512) % 2))
    state = tmp_path / "clinic-state"
    assert ending_told(clinic, authority, state, "bits").startswith("your room here has ended (killed): ")
    worker = sy.connect(clinic.address, certs=authority / "me")
    bits, one, told = data(worker, "bits"), sy.send(torch.zeros(1), worker), 0
    for number in range(512):
        picked = one.index_select(0, bits[number : number + 1])
        try:
            worker.request(Retain(picked.id_at_location))
        except SyftError:
            told += 1
    assert told == limits.FAILURES_TOLD - 1
    log = AuditLog(state / "audit.jsonl")
    noted, untold = (list(log.read(Wanted(what="failure", allowed=allowed))) for allowed in (True, False))
    assert len(noted) == limits.FAILURES_TOLD and len(untold) == 256 - told
    assert noted[0].reason == "the room ended: killed" and noted[0].policies == ("clinic/bits",)
    with pytest.raises(NotPermitted):
        torch.linalg.cholesky(sy.send(-torch.eye(2), worker))
    with pytest.raises(NotPermitted):
        torch.linalg.cholesky(sy.send(torch.eye(2), worker))
    asked = set()
    for bit in bits[:1], bits[1:2]:
        with pytest.raises(NotPermitted) as refused:
            one.index_select(0, bit).request(reason="the paper")
        asked.add(str(refused.value))
    assert len(asked) == 1
    worker.shut()
    assert ending_told(clinic, authority, state, "bits") == "your room here has ended"
    *_, last = log.read(Wanted(what="failure"))
    assert not last.allowed and last.reason == "too many failures: the room ended: killed"


def test_moves_go_where_the_policy_says_and_it_goes_along(ward, lab):
    with pytest.raises(SendNotPermitted, match="ward/heart: results may not move to lab"):
        data(ward, "heart").sum(dim=0).move(lab)


def test_what_has_moved_is_held_to_the_policy_there(owner, authority, ward, lab):
    there = (data(ward, "movable") + 1).move(lab)
    assert there.location is lab and there.shape == (3, 2)
    assert (there * 2).shape == (3, 2)
    with pytest.raises(GetNotPermitted, match="ward/movable"):
        (there * 2).get()
    with pytest.raises(GetNotPermitted):
        sy.send(torch.ones(1), lab).get()


def test_only_the_owner_of_the_data_is_asked_for_it(owner, ward, lab):
    there = data(ward, "movable").sum(dim=0).move(lab)
    for ask in (there.get, lambda: there.request(reason="the paper")):
        with pytest.raises(GetNotPermitted, match=r"Ask ward to let you, at home: ptr\.move\(ward\)\.request"):
            ask()
    asked = there.move(ward).request(reason="the paper")
    assert command("approve", asked.id, "--config", owner.config).returncode == 0
    assert asked.get().tolist() == VALUES.sum(0).tolist()


def test_to_a_worker_of_the_callers_own_process_it_is_a_get(ward):
    with pytest.raises(GetNotPermitted):
        data(ward, "heart").sum().move(sy.VirtualWorker(id="mine"))


def test_chains_leave_no_way_around(ward, lab):
    chained = data(ward, "heart").sum().send(lab)
    doubled = chained + chained
    inner = doubled.get()  # a pointer
    assert inner.location is ward
    with pytest.raises(GetNotPermitted):
        inner.get()
    with pytest.raises(NotPermitted):
        (chained * 3).item()
    with pytest.raises(SendNotPermitted, match="results may not move to lab"):
        chained.remote_get()


def test_what_a_worker_fetched_along_a_chain_is_held_to_the_policy_there(ward, lab):
    chained = data(ward, "movable").sum(dim=0).send(lab)
    chained.remote_get()
    assert chained.location is lab and chained.shape == (2,)
    with pytest.raises(GetNotPermitted, match="ward/movable"):
        chained.get()


def test_a_room_with_private_data_talks_to_no_worker_that_may_not_have_it(ward, lab):
    own = sy.send(torch.zeros(2), lab).send(ward)  # at ward, a pointer to lab
    assert (own + 1).get().get().tolist() == [1.0, 1.0]
    one = data(ward, "heart").sum()
    with pytest.raises(NotPermitted):
        (own + one).get().get()


# ---- by hand -----------------------------------------------------------------------------------


def test_a_worker_in_the_clients_process_is_told_what_the_client_may_get(owner, ward):
    carol = sy.VirtualWorker(id="carol")
    there = sy.send(torch.ones(3, 2), carol).send(ward)
    assert (there + data(ward, "free").sum().item()).get().get().shape == (3, 2)
    hidden, kept = data(ward, "cardiology").sum(), len(carol._objects)
    with pytest.raises(NotPermitted):
        (there + hidden).get()
    assert len(carol._objects) == kept
    log, calls = AuditLog(owner.state / "audit.jsonl"), Wanted(what="call", to="carol", allowed=False)
    until(lambda: list(log.read(calls)))
    (call,) = log.read(calls)
    assert call.reason == "ward/heart: me may not get results"


def test_an_owner_says_yes_to_the_value_as_it_was(owner, ward):
    mean = data(ward, "heart").mean()
    id = mean.request(reason="the mean, for the paper").id
    with pytest.raises(GetNotPermitted):
        mean.get()
    listed = command("requests", "--config", owner.config).stdout
    assert id in listed and "me" in listed and "the mean, for the paper" in listed and "ward/heart" in listed
    mean.copy_(data(ward, "heart")[0, 0])  # too late
    answer = command("approve", id, "--config", owner.config)
    assert answer.returncode == 0 and "may get" in answer.stdout
    assert mean.item() == pytest.approx(VALUES.mean())
    assert mean.get().item() == pytest.approx(VALUES.mean())
    with pytest.raises(GetNotPermitted):
        data(ward, "heart").mean().get()
    (entry,) = [e for e in AuditLog(owner.state / "audit.jsonl").read(Wanted(allowed=True)) if e.request == id][:1]
    assert entry.client == "me" and entry.policies == ("ward/heart",)


def test_an_owner_says_no(owner, ward):
    total = data(ward, "heart").sum()
    id = total.request(reason="please").id
    assert command("deny", id, "--config", owner.config).returncode == 0
    with pytest.raises(GetNotPermitted):
        total.get()
    again = command("approve", id, "--config", owner.config)
    assert again.returncode == 1 and "denied already" in again.stderr and "Traceback" not in again.stderr


def test_a_request_and_its_answer_outlive_the_room(owner, ward, authority):
    total = data(ward, "heart").sum(dim=0)
    asked = total.request(reason="<totals>")
    refused = total.request(reason="again")
    assert asked.state == "open" and asked.note == "" and asked.reason == "<totals>"
    with pytest.raises(GetNotPermitted, match=f"the request {asked.id} is open"):
        asked.get()
    assert asked.wait(0) == "open"
    ward.shut()
    with pytest.raises(WorkerShut):
        assert asked.state
    again = sy.connect(owner.ward.address, certs=authority / "me")
    mine = {request.id: request for request in again.requests()}
    later, denied = mine[asked.id], mine[refused.id]
    assert later.reason == "<totals>" and later.time == asked.time
    queue = Requests(owner.state, "ward")
    answer = threading.Timer(0.1, queue.approve, (asked.id, "for <you>"))
    answer.start()
    assert later.wait(60) == "approved" and later.note == "for <you>"
    assert "approved" in repr(later) and "for <you>" in repr(later) and asked.id in repr(later)
    assert "&lt;totals&gt;" in later._repr_html_() and "for &lt;you&gt;" in later._repr_html_()
    for _ in range(2):
        assert torch.equal(later.get(), torch.from_numpy(VALUES).sum(dim=0))
    queue.deny(refused.id, "too fine")
    with pytest.raises(GetNotPermitted, match=f"the request {refused.id} is denied: too fine"):
        denied.get()
    entries = [e for e in AuditLog(owner.state / "audit.jsonl").read(Wanted(what="get")) if e.request == asked.id]
    assert [(e.client, e.allowed, e.policies) for e in entries] == [
        ("me", allowed, ("ward/heart",)) for allowed in (False, True, True)
    ]
    queue.deny(asked.id)
    with pytest.raises(GetNotPermitted, match="denied"):
        later.get()
    assert again.search("#heart")  # it has brought nothing into this room
    assert torch.equal(sy.send(torch.ones(2), again).get(), torch.ones(2))


def test_requests_are_their_clients_own(owner, ward, authority):
    asked = data(ward, "heart").sum().request(reason="mine")
    certs.issue(authority, "dave", force=True)
    dave = sy.connect(owner.ward.address, certs=authority / "dave")
    assert dave.requests() == []
    for message in (Inquire(asked.id), Collect(asked.id), Withdraw(asked.id)):
        with pytest.raises(Misuse, match="you have no request"):
            dave.request(message)
    assert asked.state == "open"
    asked.withdraw()
    assert asked.state == "withdrawn"
    with pytest.raises(Misuse, match="withdrawn already"):
        asked.withdraw()
    with pytest.raises(GetNotPermitted, match="withdrawn"):
        asked.get()
    with pytest.raises(Misuse, match="withdrawn already"):
        Requests(owner.state, "ward").approve(asked.id)


def test_who_may_not_use_the_data_any_more_collects_nothing(start, authority, tmp_path):
    ids, names = [], ("kept", "closed", "gone")
    tables = "".join(data_set(name, use=["me"]) for name in names)
    config = config_with_data(tmp_path, "infirmary", tables, VALUES)
    node = start("infirmary", config)
    for name in names:
        worker = sy.connect(node.address, certs=authority / "me")
        ids.append(data(worker, name).sum().request(reason=name).id)
        Requests(tmp_path / "infirmary-state", "infirmary").approve(ids[-1])
        worker.shut()
    assert node.stop() == 0
    config.write_text(data_set("kept", use=["me"]) + data_set("closed", use=["dave"]))
    worker = sy.connect(start("infirmary", config).address, certs=authority / "me")
    kept, closed, gone = worker.requests()
    assert [request.id for request in (kept, closed, gone)] == ids
    assert kept.get().item() == VALUES.sum()
    for request in (closed, gone):
        assert request.state == "approved"
        with pytest.raises(GetNotPermitted, match="me may not use it"):
            request.get()


def test_the_owner_sees_what_he_is_asked_for(owner, ward):
    small = data(ward, "heart")[:2] * 2
    large = data(ward, "heart").repeat(500, 1)
    large[0, 0] = float("nan")
    shown = command("requests", small.request(reason="a\nsmall one").id, "--config", owner.config).stdout
    for words in (
        "by me",
        r"'a\nsmall one'",
        "ward/heart",
        "float32 [2, 2]",
        "tensor([[ 2., -4.],\n        [ 6.,  8.]])",
    ):
        assert words in shown
    asked = large.request(reason="all")
    shown = command("requests", asked.id, "--config", owner.config).stdout
    assert "-5 to 6, mean 1.16" in shown and "not finite 1 of 3000" in shown and "..." in shown
    asked.withdraw()
    shown = command("requests", asked.id, "--config", owner.config).stdout
    assert "withdrawn" in shown and "value" not in shown


def test_requests_that_mean_nothing_are_refused(ward):
    with pytest.raises(Misuse, match="no node"):
        sy.send(torch.ones(1), sy.VirtualWorker(id="mine")).request(reason="why not")
    with pytest.raises(Misuse, match=r"x\.get\(\)"):
        sy.send(torch.ones(1), ward).request(reason="why not")
    for blank in ("", " \n"):
        with pytest.raises(Misuse, match=r"what the value is for\nx\.request\(reason="):
            data(ward, "heart").sum().request(reason=blank)


# ---- written down ------------------------------------------------------------------------------


def test_every_release_and_its_answer_is_in_the_audit_log(owner, ward):
    x = data(ward, "free").sum()
    x.item()
    secret = data(ward, "heart").sum()
    with pytest.raises(GetNotPermitted):
        secret.get()
    log = AuditLog(owner.state / "audit.jsonl")
    allowed = [e for e in log.read(Wanted(allowed=True)) if e.object == x.id_at_location]
    denied = [e for e in log.read(Wanted(allowed=False)) if e.object == secret.id_at_location]
    assert [(e.client, e.what, e.policies) for e in allowed] == [("me", "get", ("ward/free",))]
    assert [(e.client, e.what, e.policies) for e in denied] == [("me", "get", ("ward/free", "ward/heart"))]
    shown = command("audit", "--config", owner.config, "--denied", "--data", "heart").stdout
    assert f"denied   me  get {secret.id_at_location}: ward/heart: me may not get results" in shown
    assert str(x.id_at_location) not in shown


def test_what_cannot_be_written_down_does_not_leave(owner, ward):
    x = data(ward, "free").sum()
    log = owner.state / "audit.jsonl"
    log.chmod(0o644)  # the log refuses files that others can read
    try:
        with pytest.raises(AuditFailed):
            x.get()
    finally:
        log.chmod(0o600)
    assert x.item() == VALUES.sum()


# ---- limits and the command line ---------------------------------------------------------------


def test_limits_of_the_config_hold(owner, ward):
    held = [sy.send(torch.ones(1), ward) for _ in range(60)]
    with pytest.raises(LimitExceeded, match="50 objects"):
        held[-1].get()
    assert held[0].get().item() == 1


def test_status_and_rooms(owner, ward):
    data(ward, "heart").sum().request(reason="to be sure that it is there")
    status = command("status", "--config", owner.config)
    assert status.returncode == 0 and owner.ward.address in status.stdout and "heart/x" in status.stdout
    assert re.search(r"  me  \d+ MiB  ward/heart$", command("rooms", "--config", owner.config).stdout, re.MULTILINE)


def test_serve_says_when_it_is_ready_and_stops_on_request(authority, tmp_path, owner):
    config = tmp_path / "carol.toml"
    config.touch()
    command("certs", "issue", authority, "carol", "--host", "127.0.0.1", "--force")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with subprocess.Popen(
            [
                *(sys.executable, "-m", "syft.cli", "serve", "--id", "carol", "--listen", "127.0.0.1:0"),
                *("--certs", str(authority / "carol"), "--config", str(config)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            process_group=0,
        ) as process:
            lines = [process.stdout.readline() for _ in range(4)]
            address = lines[-1].removeprefix("carol: ready at ").strip()
            worker = sy.connect(address, certs=authority / "me")
            assert sy.send(torch.ones(2), worker).sum().item() == 2
            tell = process.send_signal if number == signal.SIGTERM else lambda n, p=process: os.killpg(p.pid, n)
            tell(number)  # a terminal tells all that it started
            out, err = process.communicate(timeout=30)
            assert (process.returncode, out, err) == (0, "carol: stopped\n", "")
            with pytest.raises(WorkerShut):
                sy.send(torch.ones(2), worker).get()
    stopped = command("status", "--config", config)
    assert stopped.returncode == 1 and "no node is running" in stopped.stderr


@pytest.mark.parametrize("listen", ["", "127.0.0.1", ":7101", "127.0.0.1:65536", "[::1", "::1:7101", "127.0.0.1:-1"])
def test_what_cannot_be_listened_at_is_said_before_anything_else(tmp_path, listen):
    with pytest.raises(BadConfig, match=r"^--listen: '.*' is not HOST:PORT, such as 127\.0\.0\.1:7101$"):
        serve(tmp_path / "bob.toml", "bob", listen, tmp_path, print)


def test_serve_ends_with_one_clear_line_when_something_is_wrong(authority, tmp_path, owner):
    config = tmp_path / "carol.toml"
    config.touch()
    bad = tmp_path / "bad.toml"
    bad.write_text('[[data]]\nname = "a"\npath = "missing.csv"\n')
    command("certs", "issue", authority, "carol", "--host", "127.0.0.1", "--force")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        good = {"--id": "carol", "--listen": f"127.0.0.1:{port}", "--certs": authority / "carol", "--config": config}
        for wrong, words in (
            ({}, "nothing can listen"),
            ({"--config": bad}, "data[0].path"),
            ({"--config": tmp_path / "none.toml"}, "cannot be read"),
            ({"--certs": tmp_path}, "cert"),
            ({"--id": "dora"}, "carol's, not dora's"),
            ({"--config": owner.config, "--listen": "127.0.0.1:0"}, "another node uses"),
        ):
            args = [str(word) for pair in (good | wrong).items() for word in pair]
            result = command("serve", *args)
            assert result.returncode == 1
            assert words in result.stderr and "Traceback" not in result.stderr
            assert len(result.stderr.strip().splitlines()) <= 2
