"""Timing two things in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

Work = Callable[[], object]


class Figure(NamedTuple):
    """What a row shows: ours, and in words the floor and, where they can be had, the peers of the same run."""

    ours: float
    floor: str
    peers: str = ""


def ratio(ours: Work, reference: Work, *, rounds: int = 15, seconds: float = 0.02) -> float:
    """Return median time of ``ours`` over that of ``reference``, timed in turns of about ``seconds`` each."""
    ours_s, reference_s = medians([ours, reference], rounds=rounds, seconds=seconds)
    return ours_s / reference_s


def medians(works: list[Work], *, rounds: int = 15, seconds: float = 0.02) -> list[float]:
    """Return the median seconds of one call of each, timed in turns."""
    repeats = [max(1, round(seconds / _once(work))) for work in works]
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, repeat, taken in zip(works, repeats, times, strict=True):
            taken.append(seconds_of(work, repeat))
    return [statistics.median(taken) for taken in times]


def _once(work: Work) -> float:
    work()
    return seconds_of(work, 3)


def seconds_of(work: Work, repeat: int = 1) -> float:
    """Return the seconds of one call, of ``repeat`` on end."""
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    taken = (time.perf_counter() - start) / repeat
    if collecting:
        gc.enable()
    return taken
