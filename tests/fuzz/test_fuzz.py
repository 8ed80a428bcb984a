"""Valid input, changed: nothing but declared errors, in bounded time and memory. For longer: make fuzz."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syft import limits

from .mutation import mutated
from .targets import SEEDS, TARGETS

pytestmark = pytest.mark.in_process

EXAMPLES, INPUTS_OF_AN_EXAMPLE = 40, 25
MOST_SECONDS, MOST_BYTES = 1.0, 2 * limits.MAX_FRAME_BYTES


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """No more than one frame may be large; an input that claims more cannot have it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_taken(name: str) -> None:
    for seed in SEEDS[name]:
        TARGETS[name](seed)


@pytest.mark.filterwarnings("ignore")  # torch warns of what it is given
@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False))
def test_changed_input_is_taken_or_refused(name: str, rng: random.Random) -> None:
    for _ in range(INPUTS_OF_AN_EXAMPLE):
        data = mutated(rng.choice(SEEDS[name]), rng)
        start = time.process_time()
        TARGETS[name](data)
        assert time.process_time() - start < MOST_SECONDS
