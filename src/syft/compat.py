"""The import paths of PySyft 0.2: ``OLD_PATHS`` has every one that resolves, and what is found there.

A finder at the end of ``sys.meta_path`` makes a module of each when it is asked for; it costs nothing
until then, and comes after everything that is really there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from . import workers

# old module -> name there -> where it is now
OLD_PATHS: dict[str, dict[str, str]] = {
    "syft.exceptions": {
        "GetNotPermittedError": "syft.errors:GetNotPermitted",
        "InvalidTensorForRemoteGet": "syft.errors:Misuse",
        "ObjectNotFoundError": "syft.errors:ObjectGone",
        "SendNotPermittedError": "syft.errors:SendNotPermitted",
        "TensorsNotCollocatedException": "syft.errors:NotCollocated",
        "WorkerNotFoundException": "syft.errors:WorkerNotFound",
    },
    "syft.federated.floptimizer": {"Optims": "syft.fl.optims:Optims"},
    "syft.frameworks.torch.fl": {
        "BaseDataset": "syft.fl.dataset:BaseDataset",
        "FederatedDataLoader": "syft.fl.dataloader:FederatedDataLoader",
        "FederatedDataset": "syft.fl.dataset:FederatedDataset",
    },
    "syft.frameworks.torch.fl.dataloader": {"FederatedDataLoader": "syft.fl.dataloader:FederatedDataLoader"},
    "syft.frameworks.torch.fl.dataset": {
        "BaseDataset": "syft.fl.dataset:BaseDataset",
        "FederatedDataset": "syft.fl.dataset:FederatedDataset",
    },
    "syft.frameworks.torch.fl.utils": {
        "accuracy": "syft.fl.utils:accuracy",
        "add_model": "syft.fl.utils:add_model",
        "extract_batches_per_worker": "syft.fl.utils:extract_batches_per_worker",
        "federated_avg": "syft.fl.utils:federated_avg",
        "scale_model": "syft.fl.utils:scale_model",
    },
    "syft.frameworks.torch.hook.hook": {"TorchHook": "syft.torch_hook:TorchHook"},
    "syft.frameworks.torch.tensors.decorators.logging": {"LoggingTensor": "syft.logging_tensor:LoggingTensor"},
    "syft.generic.pointers.multi_pointer": {"MultiPointerTensor": "syft.multipointer:MultiPointerTensor"},
    "syft.generic.pointers.pointer_tensor": {"PointerTensor": "syft.pointer:PointerTensor"},
    "syft.workers.base": {"BaseWorker": "syft.workers:BaseWorker"},
    "syft.workers.virtual": {"VirtualWorker": "syft.workers:VirtualWorker"},
}


class _OldPaths(MetaPathFinder, Loader):
    """Finds the modules of the table, and the packages that they are in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_package = any(old.startswith(f"{fullname}.") for old in OLD_PATHS)
        if is_package or fullname in OLD_PATHS:
            return ModuleSpec(fullname, self, is_package=is_package)
        return None

    def exec_module(self, module: ModuleType) -> None:
        for name, home in OLD_PATHS.get(module.__name__, {}).items():
            where, _, what = home.partition(":")
            setattr(module, name, getattr(import_module(where), what))


def install() -> None:
    """Have the old paths resolve."""
    vars(workers)["__path__"] = []  # the import system looks for modules inside a module only if it has a path
    sys.meta_path.append(_OldPaths())
