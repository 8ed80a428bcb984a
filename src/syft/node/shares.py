"""Something of which there is only so much, and of which several parties take parts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .. import limits
from ..errors import LimitExceeded


class Part:
    """What one party has of it.

    Args:
        give_up: has its holder let go of it soon.
    """

    def __init__(self, name: str, amount: int, give_up: Callable[[], None]) -> None:
        self.name, self.amount = name, amount
        self._give_up: Callable[[], None] | None = give_up

    @property
    def is_kept(self) -> bool:
        """Whether nobody can have it any more before its holder is done."""
        return self._give_up is None

    def keep(self) -> None:
        """From now on it is not taken away."""
        self._give_up = None

    def take_away(self) -> None:
        give_up, self._give_up = self._give_up, None
        if give_up is not None:
            give_up()


class Shares:
    """Shares out ``total``; who takes the most cannot keep the others out.

    Whoever finds too little left waits a moment. Then those who have more than that one asks for lose
    what they took last. (The rule is longest queue drop: Suter, Lakshman, Stiliadis and Choudhury, 1999,
    "Buffer management schemes for supporting TCP in gigabit routers with per-flow queueing".)

    Args:
        where: the worker whose it is.
        what: its unit, for error messages.
    """

    def __init__(self, total: int, where: str, what: str) -> None:
        self._total, self._where, self._what = total, where, what
        self._parts: list[Part] = []  # oldest first
        self._changed = threading.Condition()

    @contextmanager
    def part(self, name: str, amount: int, give_up: Callable[[], None]) -> Iterator[Part]:
        """Have so much of it for ``name``. Raises LimitExceeded: there is none for it, for all its waiting."""
        part = Part(name, amount, give_up)
        self._take(part)
        try:
            yield part
        finally:
            with self._changed:
                self._parts.remove(part)
                self._changed.notify_all()

    def _take(self, part: Part) -> None:
        with self._changed:
            if part.amount <= self._total and not self._changed.wait_for(
                lambda: self._fits(part), limits.GIVE_WAY_SECONDS
            ):
                for one_too_many in self._too_many(part):
                    one_too_many.take_away()
                self._changed.wait_for(lambda: self._fits(part), limits.ARRIVING_SECONDS)
            if not self._fits(part):
                raise LimitExceeded(
                    f"{part.amount} {self._what} are more than this node has left for you of {self._total}",
                    where=self._where,
                    mend="Send less at one time, or later.",
                )
            self._parts.append(part)

    def _fits(self, part: Part) -> bool:
        return sum(other.amount for other in self._parts) + part.amount <= self._total

    def _too_many(self, part: Part) -> list[Part]:
        """Return what has to go so that ``part`` fits, of those who would still have more; maybe not enough."""
        held: Counter[str] = Counter()
        for other in self._parts:
            held[other.name] += other.amount
        missing = held.total() + part.amount - self._total
        least, found = held[part.name] + part.amount, []
        latest = [other for other in reversed(self._parts) if not other.is_kept]
        latest.sort(key=lambda other: -held[other.name])
        for other in latest:
            if missing > 0 and held[other.name] > least:
                found.append(other)
                held[other.name] -= other.amount
                missing -= other.amount
        return found
