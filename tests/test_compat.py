"""The import paths of PySyft 0.2."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

import syft as sy
from syft.compat import GONE, GONE_METHODS, GONE_PATHS, OLD_PATHS


@pytest.mark.parametrize("path", sorted(OLD_PATHS))
def test_every_old_path_resolves_to_what_there_is_now(path: str) -> None:
    module = importlib.import_module(path)
    for name, home in OLD_PATHS[path].items():
        where, _, what = home.partition(":")
        assert getattr(module, name) is getattr(sys.modules[where], what)


def test_imports_as_the_tutorials_write_them() -> None:
    import syft.frameworks.torch.fl.utils
    from syft.exceptions import TensorsNotCollocatedException
    from syft.federated.floptimizer import Optims
    from syft.frameworks.torch.fl import utils
    from syft.workers.virtual import VirtualWorker

    assert utils is syft.frameworks.torch.fl.utils
    assert (VirtualWorker, Optims) == (sy.VirtualWorker, sy.Optims)
    assert issubclass(TensorsNotCollocatedException, RuntimeError)


def test_more_imports_that_older_code_has() -> None:
    from syft.frameworks.torch.fl.dataset import dataset_federate
    from syft.frameworks.torch.hook import TorchHook
    from syft.grid.private_grid import PrivateGridNetwork

    assert (TorchHook, PrivateGridNetwork, dataset_federate) == (sy.TorchHook, sy.PrivateGridNetwork, sy.federate)


def test_what_the_hook_left_in_the_module() -> None:
    assert sy.torch is sy.framework is torch
    ids = {sy.ID_PROVIDER.pop() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(0 < id < 2**63 for id in ids)


@pytest.mark.parametrize("name", sorted(GONE))
def test_what_is_gone_says_what_it_was(name: str) -> None:
    with pytest.raises(AttributeError, match=f"sy.{name} of PySyft 0.2 was"):
        getattr(sy, name)
    assert not hasattr(sy, name)


@pytest.mark.parametrize("path", sorted(GONE_PATHS))
def test_modules_that_are_gone_say_what_they_were(path: str) -> None:
    for _ in range(2):
        with pytest.raises(ImportError, match=f"{path} of PySyft 0.2 was .*;"):
            importlib.import_module(path)


WEBSOCKETS = [
    "from syft.workers import WebsocketClientWorker",
    "from syft.workers import WebsocketServerWorker",
    "from syft.workers import websocket_client",
    "from syft.workers.websocket_client import WebsocketClientWorker",
    "from syft.workers.websocket_server import WebsocketServerWorker",
    "import syft.workers.websocket_server",
    "from syft import WebsocketClientWorker",
    "sy.WebsocketServerWorker",
    "sy.workers.WebsocketServerWorker",
    "sy.workers.websocket_client.WebsocketClientWorker",
]


@pytest.mark.parametrize("line", WEBSOCKETS)
def test_websocket_workers_say_that_they_are_nodes_now(line: str) -> None:
    with pytest.raises((ImportError, AttributeError), match=r"syft serve.*sy\.connect\(address, certs\)"):
        exec(line, {"sy": sy})


def test_what_never_was_is_missing_as_in_any_module() -> None:
    with pytest.raises(AttributeError, match=r"module 'syft\.workers' has no attribute 'nothing'"):
        sy.workers.nothing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from syft import nothing")


@pytest.mark.parametrize("name", sorted(GONE_METHODS))
def test_methods_that_are_gone_say_what_they_were(hook: sy.TorchHook, bob: sy.VirtualWorker, name: str) -> None:
    x = torch.ones(2)
    for tensor in (x, sy.send(x, bob)):
        assert not hasattr(tensor, name)
        with pytest.raises(AttributeError, match=rf"{name} of PySyft 0.2 was .*aggregate"):
            getattr(tensor, name)()
    with pytest.raises(AttributeError, match=rf"model.{name} of PySyft 0.2 was"):
        getattr(torch.nn.Linear(2, 1), name)(bob)


def test_paths_that_never_were_are_not_found() -> None:
    for path in ("syft.federated.nothing", "syft.workers.nothing", "syft.nothing"):
        with pytest.raises(ModuleNotFoundError, match="nothing"):
            importlib.import_module(path)
    with pytest.raises(ImportError, match="Nothing"):
        from syft.exceptions import Nothing  # noqa: F401
