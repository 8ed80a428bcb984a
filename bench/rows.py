"""The rows of the table: what is measured, against what, what is asked, and what peers reach."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

import syft as sy

from . import nodes
from .processes import resident
from .timing import Figure, medians, ratio
from .training import training

sy.TorchHook(torch)

_BULK = 16 << 20  # float32 numbers in 64 MiB


@dataclass(frozen=True)
class Row:
    """What is measured, what is asked, and what peers reached once; ``by_name``: only if it is asked for."""

    name: str
    unit: str
    asked: str
    holds: Callable[[float], bool]
    peers: str
    measure: Callable[[], Figure]
    by_name: bool = False


class _Bare(torch.Tensor):
    """The least that any tensor held elsewhere costs: one dispatch, one operator, one wrapper."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    held: torch.Tensor

    @classmethod
    def wrapping(cls, held: torch.Tensor) -> _Bare:
        bare = torch.Tensor._make_wrapper_subclass(cls, held.shape, held.stride(), dtype=held.dtype)
        bare.held = held
        return bare

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return cls.wrapping(func(*(a.held if type(a) is cls else a for a in args)))


def _workers() -> tuple[sy.VirtualWorker, sy.VirtualWorker]:
    return sy.VirtualWorker(id="bob"), sy.VirtualWorker(id="alice")


def operator() -> Figure:
    bob, _ = _workers()
    x = torch.randn(4)
    p, bare = sy.send(x, bob), _Bare.wrapping(x)
    ours, local, floor = medians([lambda: p + p, lambda: x + x, lambda: bare + bare])
    return Figure(
        ours / local, f"{floor / local:.2g} times (dispatch, operator and wrapper alone); {ours * 1e6:.1f} us"
    )


def step_resident() -> Figure:
    bob, _ = _workers()
    _, local_step, data, target = training()
    model, step, _, _ = training()
    model.send(bob)
    data_p, target_p = data.send(bob), target.send(bob)
    return Figure(
        ratio(lambda: step(data_p, target_p), lambda: local_step(data, target), rounds=31), "1 (the local step)"
    )


def step_travelling() -> Figure:
    bob, _ = _workers()
    _, local_step, data, target = training()
    model, step, _, _ = training()
    data_p, target_p = data.send(bob), target.send(bob)

    def travelling() -> None:
        model.send(bob)
        step(data_p, target_p)
        model.get()

    return Figure(ratio(travelling, lambda: local_step(data, target), rounds=31), "1 (the local step)")


def send_and_get() -> Figure:
    bob, _ = _workers()
    x = torch.randn(_BULK)
    return Figure(
        100 / ratio(lambda: x.send(bob).get(), lambda: (x.clone(), x.clone()), rounds=9), "100 % (two clones)"
    )


def move() -> Figure:
    bob, alice = _workers()
    x = torch.randn(_BULK)
    there = x.send(bob)

    def back_or_forth() -> None:
        nonlocal there
        there = there.move(alice if there.location is bob else bob)

    return Figure(100 / ratio(back_or_forth, x.clone, rounds=9), "100 % (a clone)")


def send() -> Figure:
    bob, _ = _workers()
    x = torch.randn(_BULK)
    return Figure(100 / ratio(lambda: x.send(bob), x.clone, rounds=9), "100 % (a clone)")


def local_untouched() -> Figure:
    program = (
        "import timeit, torch; torch.set_num_threads(1); x = torch.randn(4)\n{}\n"
        "print(min(timeit.repeat('x + x', globals=globals(), number=20000, repeat=25)))"
    )
    plain, hooked = program.format(""), program.format("import syft; syft.TorchHook(torch)")
    return Figure(_processes(hooked) / _processes(plain), "1 (torch alone)")


def import_time() -> Figure:
    program = "import time; {}; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
    ours = _processes(program.format("import torch", "syft"))
    return Figure(1e3 * ours, f"import torch {_processes(program.format('pass', 'torch')):.2f} s")


def _processes(program: str) -> float:
    def run() -> float:
        return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)

    return min(run() for _ in range(5))


def memory() -> Figure:
    bob, _ = _workers()
    p = sy.send(torch.randn(4), bob)

    for _ in range(10_000):
        p + p
    before = resident("self")
    for _ in range(1_000_000):
        p + p
    return Figure((resident("self") - before) / 2**20, f"{bob.objects_count()} object in the store")


ROWS = [
    Row("p + p, small, in process, with its release", "times", "12 times x + x or less", lambda r: r <= 12,
        "PySyft 0.2.9 170; rgpu 200", operator),
    Row("SGD step, MLP 784-128-10, batch 64, resident", "times", "2 times the local step or less", lambda r: r <= 2,
        "PySyft 6", step_resident),
    Row("the same, model.send + step + model.get", "times", "4 times or less", lambda r: r <= 4,
        "PySyft 16", step_travelling),
    Row("send of 64 MiB", "%", "80 % of clone's speed", lambda r: r >= 80, "PySyft 7 %", send),
    Row("send and get of 64 MiB", "%", "80 % of clone's speed", lambda r: r >= 80, "PySyft 7 %", send_and_get),
    Row("move of 64 MiB, bob to alice", "%", "80 % of clone's speed", lambda r: r >= 80, "PySyft 7 %", move),
    Row("local x + x after the hook", "times", "unchanged", lambda r: r <= 1.05, "PySyft 1.7", local_untouched),
    Row("memory after 1,000,000 operators", "MiB more", "flat", lambda r: r < 2, "PySyft grows", memory),
    Row("node: operator, not fetched", "us", "15 us or less", lambda r: r <= 15,
        "rgpu 166; Monarch 1,007", nodes.operator),
    Row("node: get of one element", "times", "2 times a gRPC round trip or less", lambda r: r <= 2,
        "", nodes.get),
    Row("node: put of 64 MiB", "%", "80 % of gRPC's stream", lambda r: r >= 80, "", nodes.put),
    Row("node: get of 64 MiB", "%", "80 % of gRPC's stream", lambda r: r >= 80, "", nodes.fetch),
    Row("node: bob to alice, 64 MiB", "%", "80 % of gRPC's stream", lambda r: r >= 80, "", nodes.move),
    Row("node: SGD step, MLP 784-128-10, batch 64", "times", "3.5 times the local step or less", lambda r: r <= 3.5,
        "rgpu 24; PySyft 40; Monarch 110", nodes.step),
    Row("node: 100 such steps, 50 ms delay in each direction", "%", "110 % of no delay, and a round trip",
        lambda r: r <= 110, "", nodes.delay),
    Row("node: steps of 20 clients training at once", "%", "all finish; 90 % of one client's", lambda r: r >= 90,
        "", nodes.crowd),
    Row("node: room start, with the first operator's answer", "ms", "well under a second", lambda r: r <= 500,
        "", nodes.room_start),
    Row("node: memory when idle, gate and fork server", "MB", "less than 350 MB", lambda r: r < 350,
        "", nodes.idle_memory),
    Row("node: memory after 1,000,000 operators", "MiB more", "flat on both sides", lambda r: r < 8,
        "", nodes.flat_memory, by_name=True),
    Row("import syft, over import torch", "ms", "150 ms or less", lambda r: r <= 150, "", import_time),
]  # fmt: skip
