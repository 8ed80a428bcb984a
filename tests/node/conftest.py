"""Real nodes, in processes of their own, on loopback, with certificates of an authority made for the run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import syft as sy
from syft.node import certs
from syft.node.client import NodeWorker

_SERVE = """
import sys
from syft.node.config import Config
from syft.node.serve import serve
serve(Config.load(sys.argv[2], sys.argv[1]), "127.0.0.1:0", sys.argv[3], lambda address: print(address, flush=True))
"""


class Node:
    """One node's process, where it listens, and its config, which is in a folder of its own."""

    def __init__(self, name: str, authority: Path, config: Path | None = None) -> None:
        certs.issue(authority, name, ["127.0.0.1"], force=True)
        self.name = name
        self.config = config or authority / f"{name}.toml"
        self.config.touch()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, name, str(self.config), str(authority / name)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()

    def stop(self) -> int:
        """Ask the process to end; return its exit code."""
        self.process.terminate()
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    certs.init(folder)
    certs.issue(folder, "me")
    return folder


@pytest.fixture(scope="session")
def start(authority: Path) -> Iterator[Callable[..., Node]]:
    """Start a node; all that were started are stopped at the end."""
    nodes: list[Node] = []

    def start(name: str, config: Path | None = None) -> Node:
        nodes.append(Node(name, authority, config))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


@pytest.fixture(scope="session")
def nodes(start: Callable[..., Node]) -> dict[str, Node]:
    """Two nodes that live as long as the tests."""
    return {name: start(name) for name in ("bob", "alice")}


@pytest.fixture
def bob(nodes: dict[str, Node], authority: Path) -> NodeWorker:
    """Bob's node, and a room of this test's own there."""
    return sy.connect(nodes["bob"].address, certs=authority / "me")


@pytest.fixture
def alice(nodes: dict[str, Node], authority: Path) -> NodeWorker:
    """Alice's node, and a room of this test's own there."""
    return sy.connect(nodes["alice"].address, certs=authority / "me")
