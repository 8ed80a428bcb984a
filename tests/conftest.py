"""Every test runs twice: with messages handed over as they are, and put through bytes.

``@pytest.mark.in_process`` keeps a test that is long, or that cannot depend on it, to the first.
``@pytest.mark.nodes`` has it run a third time, at nodes in other processes; ``@pytest.mark.virtual``
keeps one test of such a module from that, since it is of virtual workers only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import settings

import syft as sy
from syft import workers
from syft.node import certs
from syft.node.local import LocalNode
from syft.transport import Encoded, InProcess
from syft.workers import BaseWorker

torch.set_num_threads(1)

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing of the code
settings.load_profile("any machine")

TRANSPORTS = {"in-process": InProcess, "encoded": Encoded}
NODE = "node"
PEERS = ("alice", "bob", "charlie", "dave", "lab", "ward")  # of nodes that have no config of their own


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "in_process: run with the in-process transport only")
    config.addinivalue_line("markers", "nodes: run with nodes as well")
    config.addinivalue_line("markers", "virtual: run with virtual workers only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = list(TRANSPORTS)
    if metafunc.definition.get_closest_marker("in_process"):
        names = names[:1]
    elif metafunc.definition.get_closest_marker("nodes") and not metafunc.definition.get_closest_marker("virtual"):
        names.append(NODE)
    metafunc.fixturenames.append("transport")
    metafunc.parametrize("transport", names, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers made in a test have this transport, and are gone after it."""
    monkeypatch.setattr(sy.VirtualWorker, "default_transport", TRANSPORTS.get(request.param, InProcess))
    monkeypatch.setattr(workers, "_local_name", "me")
    before = dict(workers._workers)
    yield
    for name, worker in list(workers._workers.items()):
        if before.get(name) is not worker:
            worker.shut()
    workers._workers.clear()
    workers._workers.update(before)


@pytest.fixture
def hook() -> sy.TorchHook:
    return sy.TorchHook(torch)


@pytest.fixture
def worker(request: pytest.FixtureRequest) -> Callable[[str], BaseWorker]:
    """Make a worker of a name: in this process or, where the test is to run with nodes, a new room at one."""
    if request.node.callspec.params["transport"] == NODE:
        return cast(Callable[[str], BaseWorker], request.getfixturevalue("at_node"))
    return lambda name: sy.VirtualWorker(id=name)


@pytest.fixture
def at_node(nodes: Nodes, authority: Path) -> Callable[[str], BaseWorker]:
    """Make a worker of a name that is a new room at a node."""
    return lambda name: sy.connect(nodes[name].address, certs=authority / "me")


@pytest.fixture
def bob(worker: Callable[[str], BaseWorker]) -> BaseWorker:
    return worker("bob")


@pytest.fixture
def alice(worker: Callable[[str], BaseWorker]) -> BaseWorker:
    return worker("alice")


@pytest.fixture
def charlie(worker: Callable[[str], BaseWorker]) -> BaseWorker:
    return worker("charlie")


@pytest.fixture
def dave(worker: Callable[[str], BaseWorker]) -> BaseWorker:
    return worker("dave")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a certificate authority, which has issued the bundle ``me``."""
    folder = tmp_path_factory.mktemp("authority")
    certs.init(folder)
    certs.issue(folder, "me")
    return folder


@pytest.fixture(scope="session")
def start(authority: Path) -> Iterator[Callable[..., LocalNode]]:
    """Start a node, by its name and config; all that were started are stopped at the end."""
    nodes: list[LocalNode] = []

    def start(name: str, config: Path | None = None) -> LocalNode:
        nodes.append(LocalNode(authority, name, config, peers=PEERS))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


class Nodes(dict[str, LocalNode]):
    """Nodes by name, each started when it is first asked for."""

    def __init__(self, start: Callable[..., LocalNode]) -> None:
        super().__init__()
        self._start = start

    def __missing__(self, name: str) -> LocalNode:
        self[name] = self._start(name)
        return self[name]


@pytest.fixture(scope="session")
def nodes(start: Callable[..., LocalNode]) -> Nodes:
    """Nodes that know one another and have nothing, that live as long as the tests."""
    return Nodes(start)
