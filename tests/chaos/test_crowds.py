"""Many clients at one node, and operators without end: nobody disturbs the others, and memory is flat."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

import syft as sy
from bench.processes import resident
from syft import limits
from syft.errors import WorkerShut

from ..helpers import until
from .conftest import one_more_room

pytestmark = pytest.mark.in_process

CROWDS = (2, 10, 50, 50)


def test_clients_do_not_disturb_one_another_and_all_is_given_back(node, authority, report):
    until(lambda: not node.rooms())

    def work(number, sums, half):
        worker = sy.connect(node.address, certs=authority / "me")
        x = sy.send(torch.zeros(10, dtype=torch.int64), worker)
        for _ in range(50):
            x.add_(number)
        assert x.sum().item() == 500 * number
        half.wait(60)  # all are here
        for _ in range(50):
            x.add_(number)
        sums[number] = x.sum().item()
        worker.shut()

    counts = []
    for clients in CROWDS:
        victim, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
        y = sy.send(torch.ones(3), victim)
        assert y.sum().item() == 3
        sums: dict[int, int] = {}
        half = threading.Barrier(clients + 1)
        threads = [threading.Thread(target=work, args=(n, sums, half)) for n in range(clients)]
        for thread in threads:
            thread.start()
        half.wait(60)
        os.kill(room, signal.SIGKILL)
        with pytest.raises(WorkerShut):
            y.sum().item()
        victim.shut()
        for thread in threads:
            thread.join(60)
        assert sums == {n: 1000 * n for n in range(clients)}
        report.ran(f"additions of {clients} clients at once", sum(sums.values()) / 10, 50 * clients * (clients - 1))
        until(lambda: not node.rooms())
        until(lambda: not counts or (node.files() <= counts[0][0] + 2 and node.threads() <= counts[0][1]))
        counts.append((node.files(), node.threads()))
    report.found(f"files and threads after {', '.join(map(str, CROWDS))} clients", str(counts))


@pytest.mark.parametrize(
    "operators", [50_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_memory_is_flat(node, authority, operators, report):
    worker, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
    x = sy.send(torch.zeros(4), worker)

    def run(count):
        for _ in range(count):
            y = x + 1
        assert y.sum().item() == 4

    def sizes():
        return [resident(pid) / 1e6 for pid in (os.getpid(), node.process.pid, room)]

    run(10_000)
    before = sizes()
    run(operators)
    growth = [later - earlier for later, earlier in zip(sizes(), before, strict=True)]
    client, gate, of_room = (f"{size:+.1f}" for size in growth)
    report.found(f"memory after {operators:,} operators: client, gate, room", f"{client}, {gate}, {of_room} MB")
    assert max(growth) < 8
    assert len(worker._objects) == 1
    worker.shut()


@pytest.mark.parametrize(
    "operators", [30_000, pytest.param(300_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize("by_way_of", ["this process", "nodes"])
def test_a_chain_that_comes_back_does_not_wait_for_itself(node, hasty, authority, by_way_of, operators, report):
    alice, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
    elsewhere = sy.connect(hasty.address, certs=authority / "me")
    other = elsewhere if by_way_of == "nodes" else sy.VirtualWorker(id="carol")
    x = sy.send(torch.zeros(2, dtype=torch.int64), alice)
    for worker in (other, alice) * 2:
        x = x.send(worker)

    def sizes():
        return [resident(pid) / 1e6 for pid in (os.getpid(), node.process.pid, room)]

    for _ in range(operators // 3):
        x.add_(1)
    before = sizes()
    for _ in range(operators - operators // 3):
        x = x + 1
    growth = [later - earlier for later, earlier in zip(sizes(), before, strict=True)]
    report.found(f"memory after {operators:,} operators along a chain by way of {by_way_of}", f"{growth} MB")
    for _ in range(4):
        x = x.get()
    assert x.get().tolist() == [operators] * 2
    assert max(growth) < 32
    assert not other._objects and not alice._objects
    alice.shut()
    elsewhere.shut()


def test_a_caller_far_ahead_waits(node, authority):
    worker, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
    x = sy.send(torch.zeros(4), worker)
    assert x.sum().item() == 0
    os.kill(room, signal.SIGSTOP)
    done = threading.Event()
    steps = 0

    def run_ahead():
        nonlocal steps
        for _ in range(100_000):
            x.add_(1)
            steps += 1
        done.set()

    runner = threading.Thread(target=run_ahead)
    runner.start()
    seen = -1
    while seen != steps:  # it stands still
        seen = steps
        done.wait(0.5)
    assert limits.WINDOW_MESSAGES <= seen <= 4 * limits.WINDOW_MESSAGES, seen
    os.kill(room, signal.SIGCONT)
    runner.join(50)
    assert x.sum().item() == 400_000
    worker.shut()


def test_a_reader_that_does_not_read_fills_no_memory(node, proxy, authority, report):
    answers, size = 32, 8 << 20
    slow = sy.connect(proxy.address, certs=authority / "me")
    bystander = sy.connect(node.address, certs=authority / "me")
    kept = sy.send(torch.arange(3.0), bystander)
    xs = [sy.send(torch.full((size // 4,), float(n)), slow) for n in range(answers)]
    assert xs[-1].sum().item() == size // 4 * (answers - 1)
    before = node.memory()
    proxy.pace = 1e3  # bytes a second, at which one of these answers takes two hours
    got: dict[int, torch.Tensor] = {}
    readers = [threading.Thread(target=lambda n=n, x=x: got.update({n: x.get()})) for n, x in enumerate(xs)]
    for reader in readers:
        reader.start()
    grown, seen, tick = 0, -1, threading.Event()
    while grown <= size or seen < grown:  # until it has stood still for a while
        seen = grown
        for _ in range(20):
            tick.wait(0.05)
            grown = max(grown, node.memory() - before)
    assert kept.sum().item() == 3 and not got
    assert grown < limits.UNREAD_BYTES + 4 * size
    report.found(f"memory that a gate keeps of {answers * size >> 20} MiB unread", f"{grown / 2**20:.0f} MiB")
    proxy.pace = None
    proxy.cut()
    for reader in readers:
        reader.join(60)
    assert sorted(got) == [*range(answers)]
    assert all(bool((value == n).all()) for n, value in got.items())
    slow.shut()
    bystander.shut()
