"""What processes there are and what they use, as Linux counts it: for benchmarks and tests."""

from __future__ import annotations

import re
import resource
from collections import Counter
from contextlib import suppress
from pathlib import Path

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that still run."""
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found += map(int, (thread / "children").read_text().split())
    return [child for child in found if alive(child)]


def alive(pid: int) -> bool:
    """Tell whether a process is there, and is more than a name to its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def resident(pid: int | str) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def proportional(pids: list[int]) -> int:
    """Return the bytes of processes; of a page that several of this machine share, each has its part."""
    return sum(_fields(pid, "smaps_rollup")["Pss:"] for pid in pids)


def by_themselves(pids: list[int]) -> int:
    """Return the bytes of processes as if no other of this machine shared any with them.

    Of a file that several of them have in memory, as a library, the most that one of them has counts.
    """
    anonymous = sum(_fields(pid, "smaps_rollup")["Pss_Anon:"] for pid in pids)
    files: Counter[str] = Counter()
    for pid in pids:
        files |= _files(pid)
    return anonymous + files.total()


def _files(pid: int) -> Counter[str]:
    sizes: Counter[str] = Counter()
    file = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if _MAPPING.match(line):
            file = words[5] if len(words) > 5 else ""
        elif file.startswith("/") and words[0] in ("Rss:", "Anonymous:"):  # which are written to, and not the file's
            sizes[file] += (int(words[1]) << 10) * (1 if words[0] == "Rss:" else -1)
    return sizes


def _fields(pid: int, name: str) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/{name}").read_text().splitlines()[1:]
    return {field: int(size) << 10 for field, size, _ in map(str.split, lines)}
