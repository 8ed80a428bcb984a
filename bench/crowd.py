"""Many clients at one node, each a process of its own, that train when they are told to."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch

import syft as sy

from .training import training

_SECONDS = 600  # for one turn of all


class Turn(NamedTuple):
    """Of some clients: their steps a second together, and the seconds of processor that a step takes its client."""

    rate: float
    processor: float


def _live(address: str, bundle: Path, orders: Connection) -> None:
    """Train as many steps as are ordered, at the node or here; answer with the result and the processor time taken."""
    torch.set_num_threads(1)
    sy.TorchHook(torch)
    worker = sy.connect(address, bundle)
    here, there = training(), training()
    there.model.send(worker)
    there = there._replace(data=there.data.send(worker), target=there.target.send(worker))
    while True:
        at_the_node, steps = orders.recv()
        model, step, data, target = there if at_the_node else here
        start = time.process_time()
        for _ in range(steps):
            step(data, target)
        orders.send((next(model.parameters())[0, 0].item(), time.process_time() - start))


class Clients:
    """Clients of the node at ``address``, one for each of ``bundles``; all have trained a little, the same."""

    def __init__(self, address: str, bundles: list[Path]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # torch is imported once; gRPC, which cannot be forked, in each
        self._orders: list[Connection] = []
        self._processes = []
        for bundle in bundles:
            ours, theirs = context.Pipe()
            process = context.Process(target=_live, args=(address, bundle, theirs), daemon=True)
            process.start()
            theirs.close()
            self._orders.append(ours)
            self._processes.append(process)
        self.train(range(len(bundles)), 10)
        self.train(range(len(bundles)), 10, at_the_node=False)

    def train(self, which: range, steps: int, *, at_the_node: bool = True) -> Turn:
        """Have some clients train so many steps each, all at once.

        Raises:
            RuntimeError: one did not finish, or they did not all compute the same.
        """
        orders = [self._orders[client] for client in which]
        start = time.perf_counter()
        for order in orders:
            order.send((at_the_node, steps))
        if not all(order.poll(start + _SECONDS - time.perf_counter()) for order in orders):
            raise RuntimeError(f"a client did not finish within {_SECONDS} s")
        seconds = time.perf_counter() - start
        results, processor = zip(*(order.recv() for order in orders), strict=True)
        if len(set(results)) != 1:
            raise RuntimeError("clients that do the same have different results")
        count = steps * len(which)
        return Turn(count / seconds, sum(processor) / count)

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.join()
