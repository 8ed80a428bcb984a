"""Whose turn it is with one who serves calls, and may have to wait for others meanwhile.

A call that is made in serving one is a hop deeper than that; a program's own are at depth 0. Who waits goes on
with calls that are deeper than the one that waits, and with no others. Each depth has a window of its own. So a
wait at one depth is ended by what is served at greater depths only, which are never behind it in turn; and since a
chain is so many hops long at most, at the greatest depth nobody waits.

What is served before its turn so was called, by way of the chain, by what has been served already: with one worker
after another doing what it is asked at once, it would have come before what it overtakes.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Here(threading.local):
    """What a thread does: at what depth it calls, what it serves so, by its number, and how it waits meanwhile."""

    depth = message = 0
    wait: Callable[[Future[Any]], Any] | None = None


here = _Here()


class Turns(Generic[T]):
    """The calls that one thread serves: in order of their coming, but deeper ones alone while some have begun."""

    def __init__(self) -> None:
        self._waiting: defaultdict[int, deque[tuple[int, T]]] = defaultdict(deque)  # by depth, numbered
        self._begun: list[tuple[int, int]] = []  # the depths and messages to come back to
        self._come = 0

    def add(self, depth: int, call: T) -> None:
        """A call has come."""
        self._come += 1
        self._waiting[depth].append((self._come, call))

    def begin(self) -> T | None:
        """Return the next call, which begins; None if there is none, or all have to wait for one that has begun."""
        least = here.depth
        depths = [depth for depth, calls in self._waiting.items() if calls and depth >= least]
        if not depths:
            return None
        depth = min(depths, key=lambda depth: self._waiting[depth][0][0])
        self._begun.append((least, here.message))
        here.depth = depth + 1
        return self._waiting[depth].popleft()[1]

    def end(self) -> None:
        """What began last is done."""
        here.depth, here.message = self._begun.pop()
