"""Names of objects: whole numbers below 2**63, unique among all who name objects at one worker.

An id grants nothing; it is only a name. Yet nobody can tell which comes next: who knew would put an
object of their own under it, at a worker that others use too, before these name theirs so. They are of
62 random bits, so that two processes that name objects at the same worker do not meet.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Callable, Sequence

_BITS = 62
_BATCH = struct.Struct("<512Q")


def _at_random() -> Sequence[int]:
    """Return ids that nobody can tell beforehand."""
    return [number >> 64 - _BITS for number in _BATCH.unpack(os.urandom(_BATCH.size))]


_drawn: list[int] = []
_draw: Callable[[], Sequence[int]] = _at_random
os.register_at_fork(after_in_child=_drawn.clear)


def new_id() -> int:
    """Return an id that nobody has handed out before."""
    try:
        return _drawn.pop()
    except IndexError:
        _drawn.extend(_draw())
        return _drawn.pop()


def seed_ids(seed: int) -> None:
    """Make the ids that follow a function of ``seed``, for documents that print them; anybody can tell these."""
    global _draw
    _draw = zip(itertools.count(random.Random(seed).getrandbits(_BITS))).__next__  # each a tuple of one
    _drawn.clear()
