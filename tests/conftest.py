"""Every test runs twice: with messages handed over as they are, and put through bytes.

``@pytest.mark.in_process`` keeps a test that is long, or that cannot depend on it, to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import syft as sy
from syft import workers
from syft.node import certs
from syft.node.local import LocalNode
from syft.transport import Encoded, InProcess

torch.set_num_threads(1)

TRANSPORTS = {"in-process": InProcess, "encoded": Encoded}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "in_process: run with the in-process transport only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    names = list(TRANSPORTS)
    if metafunc.definition.get_closest_marker("in_process"):
        names = names[:1]
    metafunc.fixturenames.append("transport")
    metafunc.parametrize("transport", names, indirect=True)


@pytest.fixture(autouse=True)
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers made in a test have this transport, and are gone after it."""
    monkeypatch.setattr(sy.VirtualWorker, "default_transport", TRANSPORTS[request.param])
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
def bob() -> sy.VirtualWorker:
    return sy.VirtualWorker(id="bob")


@pytest.fixture
def alice() -> sy.VirtualWorker:
    return sy.VirtualWorker(id="alice")


@pytest.fixture
def charlie() -> sy.VirtualWorker:
    return sy.VirtualWorker(id="charlie")


@pytest.fixture
def dave() -> sy.VirtualWorker:
    return sy.VirtualWorker(id="dave")


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
        nodes.append(LocalNode(authority, name, config))
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()
