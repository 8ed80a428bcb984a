"""Connections that drop: nothing is lost, nothing runs twice."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch import nn

import syft as sy
from syft import limits
from syft.errors import WorkerShut

from ..helpers import until
from .conftest import GRACE, SHORT_GRACE
from .proxy import Proxy, at_random, one_in

pytestmark = pytest.mark.in_process

STEPS = 250  # of training
ADDITIONS = 4_000
BIG = 16 << 20  # elements: 64 MiB

#: Where 1 % of what is sent between a caller and a node meets a connection that drops.
AT_ONE_PERCENT = {
    "request": [("up", "before")],  # it never arrives
    "in flight": [("up", "within"), ("down", "within")],  # half of it arrives
    "answer": [("down", "before"), ("up", "after")],  # it was done, and nobody is told
}


@pytest.fixture
def bob(proxy, authority):
    bob = sy.connect(proxy.address, certs=authority / "me")
    yield bob
    bob.shut()


def test_cut_while_idle(proxy, bob, report):
    x = sy.send(torch.arange(3.0), bob)
    assert x.sum().item() == 3
    times = []
    for _ in range(5):
        proxy.cut()
        start = time.monotonic()
        assert (x + 1).sum().item() == 6
        times.append(time.monotonic() - start)
    assert proxy.opened >= 6
    report.took("back after a cut while idle, at most", max(times))


@pytest.mark.parametrize("large", [False, True])
def test_a_connection_whose_keys_are_worn_is_made_anew(proxy, bob, large, monkeypatch):
    monkeypatch.setattr(limits, "RECORDS_OF_A_KEY", 10)
    counter = sy.send(torch.zeros(1 << 16 if large else 1, dtype=torch.int64), bob)
    for step in range(1, 201):
        counter.add_(1)
        if step % 10 == 0:
            assert counter.clone().get()[-1].item() == step
            bob._channel._carrier._connection.beat()  # as comes of itself every few seconds
    assert proxy.opened >= 4
    assert counter.get()[-1].item() == 200


@pytest.mark.parametrize("place", ["up_before", "up_within", "up_after", "down_before", "down_within", "down_after"])
def test_no_addition_is_lost_or_run_twice(proxy, bob, place, report):
    counter = sy.send(torch.zeros((), dtype=torch.int64), bob)
    assert counter.sum().item() == 0
    proxy.fault = at_random(7, **{place: 0.1})
    for step in range(1, ADDITIONS + 1):
        counter.add_(1)
        if step % 100 == 0:
            assert counter.clone().get().item() == step
    proxy.fault = at_random(0)
    report.ran(f"additions, cut {place}", counter.get().item(), ADDITIONS)
    assert proxy.cuts >= 3


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_before_the_node_has_said_who_it_is(proxy, authority, direction):
    proxy.fault = lambda towards: "before" if towards == direction else None
    with pytest.raises(WorkerShut, match="no node answers"):
        sy.connect(proxy.address, certs=authority / "me")


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_cut_while_a_session_is_opened(proxy, authority, direction):
    chunks = 0

    def early(towards):
        nonlocal chunks
        if proxy.opened < 2 or towards != direction:  # the first connection only learns the name
            return None
        chunks += 1
        return "before" if chunks == 3 else None  # what comes after TLS's handshake

    proxy.fault = early
    bob = sy.connect(proxy.address, certs=authority / "me")
    assert sy.send(torch.ones(3), bob).sum().item() == 3
    assert proxy.cuts == 1
    bob.shut()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_cut_during_a_large_transfer(proxy, bob, direction):
    value = torch.arange(BIG, dtype=torch.int32)
    x = sy.send(torch.zeros(()), bob)
    x.add(1).get()
    passed = 0

    def once_half_is_through(towards):
        nonlocal passed
        passed += towards == direction
        return "within" if towards == direction and passed == 300 else None

    proxy.fault = once_half_is_through
    there = sy.send(value, bob)
    there.add_(1)
    assert torch.equal(there.get(), value + 1)
    assert proxy.cuts == 1


def train(place):
    """Train a model on data that ``place`` has put somewhere; return it with its losses."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5))
    x, y = place(torch.randn(64, 20)), place(torch.randint(5, (64,)))
    model = place(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


@pytest.fixture(scope="module")
def trained():
    """The model as it comes out without any network."""
    return train(lambda t: t)


@pytest.mark.parametrize("place", AT_ONE_PERCENT)
def test_training_through_faults_at_one_percent_of_messages(proxy, bob, trained, place, report):
    local, losses = trained
    proxy.fault = one_in(100, *AT_ONE_PERCENT[place])
    remote, remote_losses = train(lambda t: sy.send(t, bob))
    remote = sy.get(remote)
    proxy.fault = at_random(0)
    assert losses == remote_losses
    assert all(torch.equal(a, b) for a, b in zip(local.parameters(), remote.parameters(), strict=True))
    assert proxy.cuts >= 2
    report.found(f"training, 1 % lost: {place}", f"{proxy.cuts} cuts, exact")


def test_past_the_grace_period_pointers_say_so_and_the_room_is_gone(hasty_proxy, hasty, authority, report):
    before = set(hasty.rooms())
    bob = sy.connect(hasty_proxy.address, certs=authority / "me")
    x = sy.send(torch.ones(3), bob)
    assert x.sum().item() == 3
    (room,) = set(hasty.rooms()) - before
    hasty_proxy.refuses = True
    hasty_proxy.cut()
    took = until(lambda: room not in hasty.rooms())
    assert SHORT_GRACE - 0.5 < took < SHORT_GRACE + 3
    report.took(f"a room is gone after a cut, {SHORT_GRACE} s of it grace", took)
    with pytest.raises(WorkerShut, match="is lost"):
        x.sum().item()
    with pytest.raises(WorkerShut, match=r"is lost(.|\n)*Connect again"):
        x + 1
    hasty_proxy.refuses = False
    again = sy.connect(hasty_proxy.address, certs=authority / "me")
    assert sy.send(torch.ones(3), again).sum().item() == 3
    again.shut()


def test_an_outage_is_told_once_and_so_is_its_end(proxy, bob, caplog):
    x = sy.send(torch.ones(3), bob)
    assert x.sum().item() == 3
    proxy.cut()
    assert x.sum().item() == 3 and not caplog.messages  # too short to speak of
    for number in (1, 2):
        proxy.refuses = True
        proxy.cut()
        until(lambda number=number: len(caplog.messages) == 2 * number - 1)
        proxy.refuses = False
        assert x.sum().item() == 3
        until(lambda number=number: len(caplog.messages) == 2 * number)
    gone, back = f"does not answer; trying again for up to {GRACE} s", "is back"
    assert caplog.messages == [f"calm at {proxy.address} {what}" for what in (gone, back)] * 2
    assert {(record.name.partition(".")[0], record.levelname) for record in caplog.records} == {("syft", "WARNING")}


def test_who_comes_back_too_late_is_told(hasty_proxy, hasty, authority, monkeypatch):
    before = set(hasty.rooms())
    bob = sy.connect(hasty_proxy.address, certs=authority / "me")
    x = sy.send(torch.ones(3), bob)
    assert x.sum().item() == 3
    (room,) = set(hasty.rooms()) - before
    monkeypatch.setattr(bob._channel._carrier, "_grace", 60.0)
    hasty_proxy.refuses = True
    hasty_proxy.cut()
    until(lambda: room not in hasty.rooms())
    hasty_proxy.refuses = False
    with pytest.raises(WorkerShut, match="away for longer"):
        x.sum().item()


def test_a_half_open_connection_is_noticed(proxy, node, authority, report):
    bob = sy.connect(proxy.address, certs=authority / "me")
    x = sy.send(torch.ones(3), bob)
    assert x.sum().item() == 3
    proxy.half_open()
    start = time.monotonic()
    assert x.sum().item() == 3
    took = time.monotonic() - start
    assert took < limits.SILENCE_SECONDS + 5
    report.took("back after a half-open connection", took)
    bob.shut()


def test_a_slow_connection_is_no_fault(proxy, bob):
    proxy.pace = 4e6  # bytes a second
    value = torch.randn(1 << 20)
    there = sy.send(value, bob)
    there.mul_(2)
    assert torch.equal(there.get(), value * 2)
    assert proxy.opened == 2  # one to learn the name, one for all else


def test_several_threads_of_one_caller(proxy, bob, report):
    proxy.fault = at_random(11, up_within=0.02, down_within=0.02)
    sums: dict[int, float] = {}

    def work(number):
        x = sy.send(torch.zeros(()), bob)
        for _ in range(300):
            x.add_(1)
            if _ % 30 == 0:
                x.clone().get()
        sums[number] = x.get().item()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    proxy.fault = at_random(0)
    assert len(sums) == 4
    for number, found in sums.items():
        report.ran(f"additions of thread {number}", found, 300)


@pytest.mark.parametrize(
    ("direction", "place", "chunk", "size"),
    [("up", "before", 4, 1 << 18), ("up", "within", 4, 1 << 18), ("up", "after", 1, 4), ("down", "before", 1, 4)],
    ids=["lost", "half of it lost", "all but its answer", "its answer lost"],
)
def test_a_delivery_that_is_cut_is_made_once(start, node, authority, direction, place, chunk, size):
    receiver = start(f"receiver-{direction}-{place}")
    bob, alice = (sy.connect(there.address, certs=authority / "me") for there in (node, receiver))
    proxy = Proxy(receiver.address)
    alice.address = proxy.address  # which is where bob is told that she is
    sy.send(torch.zeros(1), bob).move(alice).get()
    passed = 0

    def fault(towards):
        nonlocal passed
        passed += towards == direction
        return place if towards == direction and passed == chunk else None

    x, proxy.fault = sy.send(torch.arange(size), bob), fault
    assert torch.equal(x.move(alice).get(), torch.arange(size))
    assert proxy.cuts == 1
    assert bob.objects_count() == alice.objects_count() == 0
    for worker in (bob, alice):
        worker.shut()
    proxy.close()
