"""Nodes with bounds to their tests' measure, and proxies before them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.request import urlopen

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from bench.processes import children, resident
from syft import outline
from syft.node.client import NodeWorker
from syft.node.local import LocalNode, tables_of_peers

from ..helpers import until
from .proxy import Proxy
from .report import Report

GRACE, SHORT_GRACE = 30, 2  # seconds
PEERS = (
    "calm",
    "hasty",
    "swift",
    "dave",
    "receiver",
    "receiver-up-before",
    "receiver-up-within",
    "receiver-up-after",
    "receiver-down-before",
)

_REPORT = Report()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: minutes, or more; run with -m long, and by make chaos")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "long" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _REPORT.lines():
        terminalreporter.section("faults")
        for line in _REPORT.lines():
            terminalreporter.write_line(line)


@pytest.fixture
def report() -> Report:
    """Where a test notes what is shown at the end."""
    return _REPORT


class Node(LocalNode):
    """A node with a grace period of its own, what it has open, and its metrics.

    Args:
        data: tables of its config.
        peers: names of nodes that it may call.
    """

    def __init__(self, authority: Path, name: str, grace: int, data: str = "", peers: Sequence[str] = ()) -> None:
        config = authority / f"{name}.toml"
        tables = data + tables_of_peers(name, peers)
        config.write_text(f"{tables}\n[limits]\ngrace_seconds = {grace}\nrooms_of_a_client = 64\n")
        super().__init__(authority, name, config, ["--metrics", "127.0.0.1:0"])
        self._metrics = re.search(r"metrics at (\S+)", self.said)[1]

    def forkserver(self) -> int:
        """Return the process that its rooms come from."""
        (forkserver,) = children(self.process.pid)
        return forkserver

    def rooms(self) -> list[int]:
        """Return the processes of its rooms."""
        return [room for forkserver in children(self.process.pid) for room in children(forkserver)]

    def metrics(self) -> dict[str, float]:
        """Return those that have no labels."""
        with urlopen(self._metrics, timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def files(self) -> int:
        """Return how many files it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def threads(self) -> int:
        """Return how many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def memory(self, pid: int | None = None) -> int:
        """Return the resident bytes of it, or of one of its rooms."""
        return resident(pid or self.process.pid)


def one_more_room(node: Node, connect: Callable[[], NodeWorker]) -> tuple[NodeWorker, int]:
    """Return what ``connect`` gives, and the room that came with it."""
    before = set(node.rooms())
    worker = connect()
    until(lambda: len(set(node.rooms()) - before) == 1)
    return worker, (set(node.rooms()) - before).pop()


@pytest.fixture(scope="session")
def start(authority: Path) -> Iterator[Callable[..., Node]]:
    """Start a node with a grace period; all that were started, and still live, are stopped at the end."""
    nodes: list[Node] = []

    def start(name: str, grace: int = GRACE, data: str = "") -> Node:
        nodes.append(Node(authority, name, grace, data, PEERS))
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


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """Have torch load what a first operator needs, so that no recovery is thought to take that long."""
    outline.warm()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Compute as rooms do, so that results are equal to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
