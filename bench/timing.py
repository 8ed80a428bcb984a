"""Timing two things in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

Work = Callable[[], object]


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
            taken.append(_time(work, repeat))
    return [statistics.median(taken) for taken in times]


def _once(work: Work) -> float:
    work()
    return _time(work, 3)


def _time(work: Work, repeat: int) -> float:
    collecting = gc.isenabled()
    gc.disable()
    start = time.perf_counter()
    for _ in range(repeat):
        work()
    taken = (time.perf_counter() - start) / repeat
    if collecting:
        gc.enable()
    return taken
