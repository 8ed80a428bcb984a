"""What tests ask of workers, wherever those are."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch

from syft.dispatch import Handle
from syft.workers import BaseWorker, VirtualWorker, known_workers, local_worker

_SECONDS = 20.0


def soon(holds: Callable[[], bool]) -> bool:
    """Tell whether something comes to hold: with virtual workers at once.

    With nodes it may take a moment: what goes along a chain is not waited for.
    """
    nodes = any(type(worker) not in (BaseWorker, VirtualWorker) for worker in known_workers())
    deadline = time.monotonic() + _SECONDS * nodes
    while not (held := holds()) and time.monotonic() < deadline:
        pass
    return held


def until(true: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    start, tick = time.monotonic(), threading.Event()
    while not true():
        assert time.monotonic() - start < seconds, "it did not come true"
        tick.wait(0.01)
    return time.monotonic() - start


def held(worker: BaseWorker) -> dict[int, torch.Tensor]:
    """Return what is listed at a worker: copies of its tensors, and pointers of its own as they come here."""
    return {id: worker.get(Handle(id, worker, local_worker(), owns=False), take=False) for id in worker._objects}


def is_empty(*workers: BaseWorker) -> bool:
    """Tell whether nothing is, or soon will be, at the workers: nothing hidden either, where that can be seen."""
    return soon(lambda: all(map(_is_empty, workers)))


def _is_empty(worker: BaseWorker) -> bool:
    if not isinstance(worker, VirtualWorker):
        return worker._objects == {}
    known = vars(worker._worker.store).items()
    return not any(value for name, value in known if isinstance(value, (dict, set)) and name != "_fates")


def seed_all(seed: int) -> None:
    """Have random numbers start anew from ``seed``, here and at every worker."""
    torch.manual_seed(seed)
    for worker in known_workers():
        worker.manual_seed(seed)


def data_set(name: str, path: str = "x.npz", *, move: str = "", **settings: str | list[str]) -> str:
    """Write the table of a config for one data set; ``move`` is TOML."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": name, "path": path, **settings}.items()]
    return "\n".join(["[[data]]", *lines, *([f"move = {move}"] if move else []), ""])


def config_with_data(folder: Path, worker: str, tables: str, values: np.ndarray) -> Path:
    """Write the config of an owner, and the one file of data that it names, ``x.npz``; return the config."""
    np.savez(folder / "x.npz", x=values)
    config = folder / f"{worker}.toml"
    config.write_text(tables)
    return config


def written_memory(pid: int) -> Iterator[bytes]:
    """Give what a process may have written, piece by piece, but those of 64 MiB and more; none of one that ended."""
    try:
        with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
            for line in maps:
                place, rights, *_ = line.split()
                start, end = (int(part, 16) for part in place.split("-"))
                if rights.startswith("rw") and end - start < 64 << 20:
                    memory.seek(start)
                    yield _read(memory, end - start)
    except (FileNotFoundError, ProcessLookupError):
        pass


def _read(memory: IO[bytes], count: int) -> bytes:
    try:
        return memory.read(count)
    except OSError as gone:
        if gone.errno != errno.EIO:
            raise
        return b""  # it was given back meanwhile
