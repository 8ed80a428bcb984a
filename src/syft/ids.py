"""Names of objects: whole numbers below 2**63, unique among all who name objects at one worker.

An id grants nothing; it is only a name. Each process counts up from a random start, so that two
processes that name objects at the same worker do not meet.
"""

from __future__ import annotations

import itertools
import random
import secrets

_START_BITS = 62

_ids = itertools.count(secrets.randbits(_START_BITS))


def new_id() -> int:
    """Return an id that this process has not handed out before."""
    return next(_ids)


def seed_ids(seed: int) -> None:
    """Make the ids that follow a function of ``seed``, for documents that print them."""
    global _ids
    _ids = itertools.count(random.Random(seed).getrandbits(_START_BITS))
