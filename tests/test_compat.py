"""The import paths of PySyft 0.2."""

from __future__ import annotations

import importlib
import sys

import pytest

import syft as sy
from syft.compat import OLD_PATHS


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


def test_paths_that_never_were_are_not_found() -> None:
    for path in ("syft.federated.nothing", "syft.workers.nothing", "syft.nothing"):
        with pytest.raises(ModuleNotFoundError, match="nothing"):
            importlib.import_module(path)
    with pytest.raises(ImportError, match="Nothing"):
        from syft.exceptions import Nothing  # noqa: F401
