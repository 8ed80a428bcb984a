"""The rows of nodes: real processes on loopback, mutual TLS, against gRPC itself in the same run."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import syft as sy
from syft.node import certs
from syft.node.local import LocalNode
from syft.workers import BaseWorker

from .grpc_floor import Floor
from .timing import medians

_BULK = 64 << 20


@contextmanager
def nodes() -> Iterator[tuple[BaseWorker, BaseWorker, Floor]]:
    with tempfile.TemporaryDirectory() as folder:
        authority = Path(folder)
        certs.init(authority)
        certs.issue(authority, "me")
        running = [LocalNode(authority, name) for name in ("bob", "alice")]
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


def operator() -> tuple[float, str]:
    with nodes() as (bob, _, _):
        x = sy.send(torch.randn(4), bob)
        times = []
        for _ in range(7):
            start, y = time.perf_counter(), x
            for _ in range(5000):
                y = y + x
            y.get()
            times.append((time.perf_counter() - start) / 5000)
    return statistics.median(times) * 1e6, "9-10 us (a probe without TLS or checks)"


def get() -> tuple[float, str]:
    with nodes() as (bob, _, floor):
        x = sy.send(torch.randn(1), bob)
        ours, round_trip = medians([x.item, floor.round_trip], rounds=31)
    return ours / round_trip, f"1 (a bare gRPC round trip, {round_trip * 1e6:.0f} us)"


def _bulk(carry: Callable[[torch.Tensor, BaseWorker, BaseWorker], float]) -> tuple[float, str]:
    with nodes() as (bob, alice, floor):
        x = torch.randn(_BULK // 4)
        times = [(carry(x, bob, alice), floor.bulk_seconds(_BULK)) for _ in range(7)]
    ours, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    return 100 * theirs / ours, f"100 % (gRPC in 1 MiB packets, {_BULK / theirs / 1e6:.0f} MB/s)"


def put() -> tuple[float, str]:
    def carry(x: torch.Tensor, bob: BaseWorker, alice: BaseWorker) -> float:
        start = time.perf_counter()
        sy.send(x, bob)[0].item()
        return time.perf_counter() - start

    return _bulk(carry)


def _once_there(act: Callable[[torch.Tensor, BaseWorker], object]) -> tuple[float, str]:
    """Time what is done with a tensor that bob has already."""

    def carry(x: torch.Tensor, bob: BaseWorker, alice: BaseWorker) -> float:
        p = sy.send(x, bob)
        p[0].item()
        start = time.perf_counter()
        act(p, alice)
        return time.perf_counter() - start

    return _bulk(carry)


def fetch() -> tuple[float, str]:
    return _once_there(lambda p, alice: p.get())


def move() -> tuple[float, str]:
    return _once_there(lambda p, alice: p.move(alice))
