"""The rows of nodes: real processes on loopback, mutual TLS, against gRPC itself in the same run."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import syft as sy
from syft.node import certs
from syft.workers import BaseWorker

from .grpc_floor import Floor
from .timing import medians

_SERVE = """
import sys
from syft.node.config import Config
from syft.node.serve import serve
serve(Config.load(sys.argv[2], sys.argv[1]), "127.0.0.1:0", sys.argv[3], lambda address: print(address, flush=True))
"""
_BULK = 64 << 20


@contextmanager
def running() -> Iterator[tuple[BaseWorker, BaseWorker, Floor]]:
    with tempfile.TemporaryDirectory() as folder:
        authority = Path(folder)
        certs.init(authority)
        certs.issue(authority, "me")
        processes, workers = [], []
        for name in ("bob", "alice"):
            certs.issue(authority, name, ["127.0.0.1"])
            config = authority / f"{name}.toml"
            config.touch()
            command = [sys.executable, "-c", _SERVE, name, str(config), str(authority / name)]
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            workers.append(sy.connect(processes[-1].stdout.readline().strip(), authority / "me"))
        floor = Floor(authority)
        try:
            yield *workers, floor
        finally:
            floor.close()
            for worker in workers:
                worker.shut()
            for process in processes:
                process.terminate()
                process.wait()


def operator() -> tuple[float, str]:
    with running() as (bob, _, _):
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
    with running() as (bob, _, floor):
        x = sy.send(torch.randn(1), bob)
        ours, round_trip = medians([x.item, floor.round_trip], rounds=31)
    return ours / round_trip, f"1 (a bare gRPC round trip, {round_trip * 1e6:.0f} us)"


def _bulk(carry: Callable[[torch.Tensor, BaseWorker, BaseWorker], float]) -> tuple[float, str]:
    with running() as (bob, alice, floor):
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
