"""Fuzzing for long, guided by coverage: python -m tests.fuzz.long RUNS [TARGET ...]; without targets, all of them.

Each target has a process, and RUNS inputs. What is printed: executions, the slowest input, how much
memory grew after the first tenth, and where an input is kept that was a find.
"""

from __future__ import annotations

import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["syft"]):
    import syft.node.gate  # noqa: F401 - all that targets use is imported here, to be watched

from bench.processes import resident
from syft import limits

from .mutation import mutated
from .targets import SEEDS, TARGETS

MOST_BYTES_OF_INPUT, MOST_SECONDS, MOST_MEMORY = 4096, 10, 2 * limits.MAX_FRAME_BYTES
REPORTS = 10
_PAGE = resource.getpagesize()


def main(runs: int, names: list[str]) -> int:
    """Run targets one after another; return how many had finds."""
    finds = 0
    for name in names or TARGETS:
        command = [sys.executable, "-m", __spec__.name, str(runs), name, "--one"]
        finds += subprocess.run(command, check=False).returncode != 0
    print(f"targets with finds: {finds}", flush=True)
    return finds


def one(runs: int, name: str) -> None:
    """Run one target. Never returns."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_size() + MOST_MEMORY, resource.RLIM_INFINITY))
    corpus = Path(tempfile.mkdtemp(prefix="syft-fuzz-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    target, watch = TARGETS[name], _Watch(name, runs)

    def take(data: bytes) -> None:
        start = time.process_time()
        target(data)
        watch.count(time.process_time() - start)

    def change(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = bytes(atheris.Mutate(data, most)) if rng.random() < 0.2 else mutated(data, rng)
        return changed[:most]

    options = [f"-runs={runs}", f"-max_len={MOST_BYTES_OF_INPUT}", f"-timeout={MOST_SECONDS}", "-rss_limit_mb=0"]
    finds = [f"-artifact_prefix={corpus}-", "-verbosity=0", "-print_final_stats=0", "-close_fd_mask=0"]
    atheris.Setup([sys.argv[0], *options, *finds, str(corpus)], take, custom_mutator=change)
    atheris.Fuzz()


class _Watch:
    """Counts, and says how it stands a few times over the run."""

    def __init__(self, name: str, runs: int) -> None:
        self._name, self._every = name, max(runs // REPORTS, 1)
        self._runs, self._slowest, self._start, self._memory = 0, 0.0, time.monotonic(), 0

    def count(self, seconds: float) -> None:
        self._runs += 1
        self._slowest = max(self._slowest, seconds)
        if self._runs % self._every == 0:
            now = resident("self")
            self._memory = self._memory or now
            print(
                f"{self._name}: {self._runs:,} inputs in {time.monotonic() - self._start:.0f} s, "
                f"slowest {1000 * self._slowest:.1f} ms, memory {(now - self._memory) / 2**20:+.1f} MiB",
                flush=True,
            )


def _size() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * _PAGE


if __name__ == "__main__":
    if sys.argv[-1] == "--one":
        one(int(sys.argv[1]), sys.argv[2])
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
