"""Nodes with bounds to their tests' measure, and proxies before them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from syft.node import certs

from .proxy import Proxy

_SERVE = """
import sys
from syft.node.config import Config
from syft.node.serve import serve
serve(Config.load(sys.argv[2], sys.argv[1]), "127.0.0.1:0", sys.argv[3], lambda address: print(address, flush=True))
"""

GRACE, SHORT_GRACE = 30, 2  # seconds


def until(true: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until something is true; return the seconds that it took."""
    start, tick = time.monotonic(), threading.Event()
    while not true():
        assert time.monotonic() - start < seconds, "it did not come true"
        tick.wait(0.01)
    return time.monotonic() - start


class Node:
    """One node's process, where it listens, and what it has open."""

    def __init__(self, name: str, authority: Path, grace: int) -> None:
        certs.issue(authority, name, ["127.0.0.1"], force=True)
        self.name = name
        config = authority / f"{name}.toml"
        config.write_text(f"[limits]\ngrace_seconds = {grace}\n")
        self.stderr = authority / f"{name}.stderr"
        with self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, name, str(config), str(authority / name)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

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

    def stop(self) -> int:
        """Ask the process to end; return its exit code."""
        self.process.terminate()
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


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
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    certs.init(folder)
    certs.issue(folder, "me")
    return folder


@pytest.fixture(scope="session")
def start(authority: Path) -> Iterator[Callable[..., Node]]:
    """Start a node; all that were started, and still live, are stopped at the end."""
    nodes: list[Node] = []

    def start(name: str, grace: int = GRACE) -> Node:
        nodes.append(Node(name, authority, grace))
        return nodes[-1]

    yield start
    for node in nodes:
        if node.process.poll() is None:
            node.stop()


@pytest.fixture(scope="session")
def node(start: Callable[..., Node]) -> Node:
    """Bob's node, which lives as long as the tests."""
    return start("bob")


@pytest.fixture(scope="session")
def hasty(start: Callable[..., Node]) -> Node:
    """A node that keeps rooms for a moment only."""
    return start("hasty", SHORT_GRACE)


@pytest.fixture
def proxy(node: Node) -> Iterator[Proxy]:
    """A proxy before bob's node."""
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
