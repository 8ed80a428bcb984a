"""The rows of nodes: real processes on loopback, mutual TLS, against gRPC itself and torch's RPC in the same run.

Torch's RPC has turns of its own with the floor, after ours: it has work left to do when a turn of it ends.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch

import syft as sy
from syft.node import certs
from syft.node.local import LocalNode
from syft.node.state import cpu_of
from syft.workers import BaseWorker

from .crowd import Clients
from .delay import Delays
from .grpc_floor import Floor, Stream
from .processes import by_themselves, children, proportional, resident
from .timing import Figure, medians, ratio, seconds_of
from .torch_rpc import torch_rpc
from .training import training

_BULK = 64 << 20
_DELAY = 0.05  # seconds, in each direction
_STEPS = 100
_CROWD = 20


@contextmanager
def _authority() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        authority = Path(folder)
        certs.init(authority)
        certs.issue(authority, "me")
        yield authority


@contextmanager
def _node() -> Iterator[tuple[LocalNode, Path]]:
    with _authority() as authority, LocalNode(authority, "bob") as node:
        yield node, authority


@contextmanager
def _nodes() -> Iterator[tuple[BaseWorker, BaseWorker, Floor]]:
    with _authority() as authority:
        running = [LocalNode(authority, name, peers=("bob", "alice")) for name in ("bob", "alice")]
        workers = [sy.connect(node.address, authority / "me") for node in running]
        floor = Floor(authority)
        try:
            yield *workers, floor
        finally:
            floor.close()
            for worker in workers:
                worker.shut()
            for node in running:
                node.stop()


def operator() -> Figure:
    count = 5000
    with _nodes() as (bob, _, _):
        x = sy.send(torch.randn(4), bob)

        def adds() -> None:
            y = x
            for _ in range(count):
                y = y + x
            y.get()

        ours = statistics.median(seconds_of(adds) for _ in range(7)) / count
    theirs = statistics.median(torch_rpc().adds(count // 10) for _ in range(7))
    return Figure(ours * 1e6, "9-10 us (a probe without TLS or checks)", f"torch RPC {theirs * 1e6:.0f}")


def get() -> Figure:
    with _nodes() as (bob, _, floor):
        x = sy.send(torch.randn(1), bob)
        ours, round_trip = medians([x.item, floor.round_trip], rounds=31)
        theirs = ratio(torch_rpc().getter(), floor.round_trip, rounds=31)
    text = f"1 (a bare gRPC round trip, {round_trip * 1e6:.0f} us)"
    return Figure(ours / round_trip, text, f"torch RPC {theirs:.2g}")


def _bulk(floor: Floor, *carries: Callable[[], float]) -> Figure:
    """Compare what carries 64 MiB and returns the seconds: ours, and then torch's RPC where it can."""
    sides = [_in_turns(lambda: floor.bulk_seconds(_BULK), carry) for carry in carries]
    percents = [100 * bare / taken for bare, taken in sides]
    text = f"100 % (gRPC in 1 MiB packets, {_BULK / sides[0][0] / 1e6:.0f} MB/s)"
    return Figure(percents[0], text, *(f"torch RPC {percent:.0f} %" for percent in percents[1:]))


def _in_turns(*works: Callable[[], float]) -> list[float]:
    turns = [[work() for work in works] for _ in range(7)]
    return [statistics.median(column) for column in zip(*turns, strict=True)]


def _put(x: torch.Tensor, worker: BaseWorker) -> torch.Tensor:
    p = sy.send(x, worker)
    p[0].item()  # it is there
    return p


def put() -> Figure:
    x = torch.randn(_BULK // 4)
    with _nodes() as (bob, _, floor):
        return _bulk(floor, lambda: seconds_of(lambda: _put(x, bob)), lambda: seconds_of(lambda: torch_rpc().put(x)))


def fetch() -> Figure:
    x = torch.randn(_BULK // 4)
    with _nodes() as (bob, _, floor):
        return _bulk(floor, lambda: seconds_of(_put(x, bob).get), lambda: seconds_of(torch_rpc().put(x).to_here))


def move() -> Figure:
    x = torch.randn(_BULK // 4)
    with _nodes() as (bob, alice, floor):

        def moved() -> float:
            p = _put(x, bob)
            return seconds_of(lambda: p.move(alice))

        return _bulk(floor, moved)


def _trainer(worker: BaseWorker, steps: int) -> Callable[[], None]:
    """Return what trains at a worker for some steps, until they are done."""
    model, step, data, target = training()
    model.send(worker)
    data_p, target_p = data.send(worker), target.send(worker)

    def train() -> None:
        for _ in range(steps):
            step(data_p, target_p)
        next(model.parameters())[0, 0].item()

    return train


def step() -> Figure:
    _, local_step, data, target = training()

    def train_here() -> None:
        for _ in range(10):
            local_step(data, target)

    with _nodes() as (bob, _, _):
        ours = ratio(_trainer(bob, 10), train_here, rounds=15)
    theirs = ratio(torch_rpc().trainer(10), train_here, rounds=15)
    return Figure(ours, "1 (the local step)", f"torch RPC {theirs:.2g} (gradients by hand)")


def delay() -> Figure:
    with (
        _node() as (node, authority),
        closing(Floor(authority)) as floor,
        closing(Delays(node.address, 0, _DELAY)) as proxies,
        closing(Delays(floor.address, _DELAY)) as bare,
        closing(Stream(bare.addresses[_DELAY], authority)) as echo,
    ):
        near, far = (sy.connect(proxies.addresses[delay], authority / "me") for delay in (0, _DELAY))
        works = [_trainer(far, _STEPS), _trainer(near, _STEPS), echo.round_trip]
        delayed, plain, round_trip = medians(works, rounds=11)
        for worker in (far, near):
            worker.shut()
    text = f"100 % ({plain * 1e3:.0f} ms by the same proxy without delay; a round trip is {round_trip * 1e3:.0f} ms)"
    return Figure(100 * (delayed - round_trip) / plain, text)


def crowd() -> Figure:
    steps, one, all_others = 100, range(1), range(1, 1 + _CROWD)
    with _node() as (node, authority):
        bundles = [certs.issue(authority, f"client{number}") for number in range(1 + _CROWD)]
        with closing(Clients(node.address, bundles)) as clients:

            def turn(which: range, steps: int) -> tuple[float, ...]:
                """Return steps a second; the processor seconds of one for client, gate, room; those of a local one."""
                before = _processor_seconds(node)
                rate, client = clients.train(which, steps)
                spent = (s - b for s, b in zip(_processor_seconds(node), before, strict=True))
                gate, room = (seconds / (len(which) * steps) for seconds in spent)
                return rate, client, gate, room, clients.train(which, steps, at_the_node=False).processor

            turns = [(turn(one, 4 * steps), turn(all_others, steps)) for _ in range(5)]
    (alone, *shares), (together, *shares_of_all) = (
        [statistics.median(column) for column in zip(*side, strict=True)] for side in zip(*turns, strict=True)
    )
    text = (
        f"100 % ({alone:.0f} steps/s of one client beside idle ones; clients and node share {os.cpu_count()} cores). "
        "Processor time of a step, in ms, for client + gate + room, against a local process: "
        f"{_milliseconds(shares)}; of {_CROWD} at once: {_milliseconds(shares_of_all)}"
    )
    return Figure(100 * together / alone, text)


def _milliseconds(shares: list[float]) -> str:
    client, gate, room, local = (1e3 * seconds for seconds in shares)
    return f"{client:.2f} + {gate:.2f} + {room:.2f} against {local:.2f}"


def _processor_seconds(node: LocalNode) -> tuple[float, float]:
    """Return the processor time of the gate, and of the rooms together."""
    (forkserver,) = children(node.process.pid)
    return cpu_of(node.process.pid), sum(map(cpu_of, children(forkserver)))


def room_start() -> Figure:
    with _node() as (node, authority), closing(Floor(authority)) as floor:

        def first_operator() -> None:
            worker = sy.connect(node.address, authority / "me")
            (sy.send(torch.ones(1), worker) + 1).item()
            worker.shut()

        def first_echo() -> None:
            with closing(Stream(floor.address, authority)) as stream:
                stream.round_trip()

        ours, bare = medians([first_operator, first_echo], rounds=11)
    return Figure(ours * 1e3, f"{bare * 1e3:.0f} ms (a gRPC connection and a first round trip)")


def idle_memory() -> Figure:
    with _node() as (node, authority):
        (forkserver,) = children(node.process.pid)
        pids = [node.process.pid, forkserver]
        sy.connect(node.address, authority / "me").shut()  # it has started to the end
        while children(forkserver):
            time.sleep(0.1)
        parts = " + ".join(f"{resident(pid) / 1e6:.0f}" for pid in pids)
        text = (
            f"PSS {proportional(pids) / 1e6:.0f} MB, as other processes here have torch in memory too; RSS {parts} MB"
        )
        return Figure(by_themselves(pids) / 1e6, text)


def flat_memory() -> Figure:
    with _node() as (node, authority):
        worker = sy.connect(node.address, authority / "me")
        x = sy.send(torch.randn(4), worker)

        def run(count: int) -> list[int]:
            for _ in range(count):
                y = x + x
            y.get()
            return [resident(pid) for pid in pids]

        (forkserver,) = children(node.process.pid)
        pids = [os.getpid(), node.process.pid, *children(forkserver)]
        before = run(10_000)
        growth = [(after - b) / 2**20 for after, b in zip(run(1_000_000), before, strict=True)]
        held = len(worker._objects)
        worker.shut()
    caller, gate, room = growth
    return Figure(max(growth), f"caller {caller:+.1f}, gate {gate:+.1f}, room {room:+.1f}; {held} object in the room")
