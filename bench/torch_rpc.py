"""The peer that comes with torch: the rows of nodes by ``torch.distributed.rpc``, operator by operator.

TensorPipe over TCP on loopback, as it is between machines (by itself it would find out that both are
one, share memory, and keep a processor busy with asking for news). No TLS, no checks, pickled code.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import rpc
from torch.nn import functional as F  # noqa: N812

from .training import BATCH, CLASSES, RATE, training

_LOOPBACK = {"TP_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo"}
_ME, _BOB = "me", "bob"
_GOODBYE_SECONDS = 10


def _join(name: str, folder: str) -> None:
    os.environ.update(_LOOPBACK)
    options = rpc.TensorPipeRpcBackendOptions(init_method=f"file://{folder}/rendezvous", _transports=["uv"])
    with warnings.catch_warnings(action="ignore"):  # of torch, to itself
        rpc.init_rpc(name, rank=(_ME, _BOB).index(name), world_size=2, rpc_backend_options=options)


def _run(operator: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return operator(*(a.local_value() if isinstance(a, rpc.PyRRef) else a for a in args), **kwargs)


def _remote(operator: Callable[..., Any], *args: Any, **kwargs: Any) -> rpc.RRef:
    """Run an operator at bob, and keep its result there."""
    return rpc.remote(_BOB, _run, args=(operator, *args), kwargs=kwargs)


def _step(run: Callable[..., Any], parameters: list[Any], data: Any, target: Any) -> list[Any]:
    """Do a training step by hand, and return the new parameters."""
    weight1, bias1, weight2, bias2 = parameters
    sums = run(F.linear, data, weight1, bias1)
    hidden = run(torch.relu, sums)
    scores = run(F.linear, hidden, weight2, bias2)
    run(F.cross_entropy, scores, target)
    wrong = run(torch.sub, run(torch.softmax, scores, 1), run(F.one_hot, target, CLASSES))
    slope = run(torch.div, wrong, BATCH)
    to_weight2 = run(torch.matmul, run(torch.t, slope), hidden)
    to_bias2 = run(torch.sum, slope, 0)
    slope = run(torch.mul, run(torch.matmul, slope, weight2), run(torch.gt, sums, 0))
    to_weight1 = run(torch.matmul, run(torch.t, slope), data)
    to_bias1 = run(torch.sum, slope, 0)
    gradients = to_weight1, to_bias1, to_weight2, to_bias2
    return [run(torch.sub, p, g, alpha=RATE) for p, g in zip(parameters, gradients, strict=True)]


class TorchRpc:
    """This process and bob's, which the rows ask for the same things as a node."""

    def adds(self, count: int) -> float:
        """Return the seconds of an add, of many, each of the last one's result; the last is fetched."""
        x = y = _remote(torch.clone, torch.randn(4))
        y.to_here()
        start = time.perf_counter()
        for _ in range(count):
            y = _remote(torch.add, y, x)
        y.to_here()
        return (time.perf_counter() - start) / count

    def getter(self) -> Callable[[], torch.Tensor]:
        """Return what fetches one number."""
        return _remote(torch.clone, torch.randn(1)).to_here

    def put(self, x: torch.Tensor) -> rpc.RRef:
        """Bring a tensor to bob, and wait until it is there."""
        there = _remote(torch.Tensor.detach, x)
        _remote(torch.select, there, 0, 0).to_here()
        return there

    def trainer(self, steps: int) -> Callable[[], None]:
        """Return what trains for some steps and fetches a number. Raises AssertionError: it trains wrongly."""
        model, local_step, data, target = training()
        parameters = [p.detach().clone() for p in model.parameters()]
        local_step(data, target)
        by_hand = _step(_run, parameters, data, target)
        assert all(map(torch.allclose, by_hand, model.parameters()))
        there = [_remote(torch.clone, value) for value in (*parameters, data, target)]

        def train() -> None:
            for _ in range(steps):
                there[:4] = _step(_remote, there[:4], *there[4:])
            _remote(torch.select, there[1], 0, 0).to_here()

        return train


@functools.cache  # a process joins once: torch does not let it again
def torch_rpc() -> TorchRpc:
    """Start bob, who stays until this process ends."""
    folder = tempfile.mkdtemp()
    bob = subprocess.Popen([sys.executable, "-m", __spec__.name, folder], stdin=subprocess.PIPE)

    def leave() -> None:
        bob.stdin.close()
        rpc.shutdown(timeout=_GOODBYE_SECONDS)
        bob.wait()
        shutil.rmtree(folder)

    _join(_ME, folder)
    atexit.register(leave)
    return TorchRpc()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _join(_BOB, sys.argv[1])
    sys.stdin.read()  # until the process that started this one ends
    rpc.shutdown(timeout=_GOODBYE_SECONDS)
