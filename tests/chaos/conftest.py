"""Nodes with bounds to their tests' measure, and proxies before them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from syft.node.local import LocalNode

from .proxy import Proxy

GRACE, SHORT_GRACE = 30, 2  # seconds


def until(true: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    start, tick = time.monotonic(), threading.Event()
    while not true():
        assert time.monotonic() - start < seconds, "it did not come true"
        tick.wait(0.01)
    return time.monotonic() - start


class Node(LocalNode):
    """A node with a grace period of its own, and what it has open."""

    def __init__(self, authority: Path, name: str, grace: int) -> None:
        config = authority / f"{name}.toml"
        config.write_text(f"[limits]\ngrace_seconds = {grace}\n")
        super().__init__(authority, name, config)

    def rooms(self) -> list[int]:
        """Return the processes of its rooms."""
        return [room for nursery in _children(self.process.pid) for room in _children(nursery)]

    def files(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def memory(self, pid: int | None = None) -> int:
        """Return the resident bytes of it, or of one of its rooms."""
        return resident(pid or self.process.pid)


def resident(pid: int) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.fixture(scope="session")
def start(authority: Path) -> Iterator[Callable[..., Node]]:
    """Start a node with a grace period; all that were started, and still live, are stopped at the end."""
    nodes: list[Node] = []

    def start(name: str, grace: int = GRACE) -> Node:
        nodes.append(Node(authority, name, grace))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture(scope="session")
def node(start: Callable[..., Node]) -> Node:
    """A node that lives as long as the tests."""
    return start("calm")


@pytest.fixture(scope="session")
def hasty(start: Callable[..., Node]) -> Node:
    """A node that keeps rooms for a moment only."""
    return start("hasty", SHORT_GRACE)


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    """A proxy before the calm node."""
    proxy = Proxy(node.address)
    yield proxy
    proxy.close()


@pytest.fixture
def hasty_proxy(hasty: Node) -> Iterator[Proxy]:
    """A proxy before the hasty node."""
    proxy = Proxy(hasty.address)
    yield proxy
    proxy.close()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as rooms do, so that results are equal to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
