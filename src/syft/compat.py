"""The names of PySyft 0.2: ``OLD_PATHS`` has every import path that resolves, and what is found there; ``GONE``
and ``GONE_PATHS`` what is not there by design, and what to use instead.

A finder at the end of ``sys.meta_path`` makes a module of each when it is asked for; it costs nothing
until then, and comes after everything that is really there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

from .ids import new_id

# old module -> name there -> where it is now
OLD_PATHS: dict[str, dict[str, str]] = {
    "syft.exceptions": {
        "CannotRequestObjectAttribute": "syft.errors:Misuse",
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
        "dataset_federate": "syft.fl.dataset:federate",
    },
    "syft.frameworks.torch.fl.utils": {
        "accuracy": "syft.fl.utils:accuracy",
        "add_model": "syft.fl.utils:add_model",
        "create_gaussian_mixture_toy_data": "syft.fl.utils:create_gaussian_mixture_toy_data",
        "extract_batches_per_worker": "syft.fl.utils:extract_batches_per_worker",
        "federated_avg": "syft.fl.utils:federated_avg",
        "scale_model": "syft.fl.utils:scale_model",
    },
    "syft.frameworks.torch.hook": {"TorchHook": "syft.torch_hook:TorchHook"},
    "syft.frameworks.torch.hook.hook": {"TorchHook": "syft.torch_hook:TorchHook"},
    "syft.frameworks.torch.tensors.decorators.logging": {"LoggingTensor": "syft.logging_tensor:LoggingTensor"},
    "syft.generic.pointers.multi_pointer": {"MultiPointerTensor": "syft.multipointer:MultiPointerTensor"},
    "syft.generic.pointers.pointer_tensor": {"PointerTensor": "syft.pointer:PointerTensor"},
    "syft.grid.private_grid": {"PrivateGridNetwork": "syft.grid:PrivateGridNetwork"},
    "syft.workers.base": {"BaseWorker": "syft.workers:BaseWorker"},
    "syft.workers.virtual": {"VirtualWorker": "syft.workers:VirtualWorker"},
}


_PLANS = "a recorded list of operators; call the function itself on pointers, and the operators run where they are"
_ENCRYPTED = (
    "computation on encrypted or secret-shared values, which is not there; for private averages let models move to a "
    "trusted aggregator: syft.fl.utils.aggregate"
)
_NODES = (
    "a worker in another process; here that is a node: its owner runs syft serve, and "
    "sy.connect(address, certs) gives you a worker that leads there"
)
_GRID = "a client of PyGrid, which is not there; workers that you know are searched by sy.PrivateGridNetwork"
_KERAS = "a bridge to Keras and TF Encrypted, which is not there; models are torch.nn modules"

#: Names of ``syft`` in PySyft 0.2 -> what each was, and what to use instead.
GONE: dict[str, str] = {
    **dict.fromkeys(("Plan", "func2plan", "Protocol", "func2protocol", "PointerPlan", "PlaceHolder"), _PLANS),
    **dict.fromkeys(
        ("AdditiveSharingTensor", "ReplicatedSharingTensor", "FixedPrecisionTensor", "PaillierTensor", "keygen"),
        _ENCRYPTED,
    ),
    **dict.fromkeys(("WebsocketClientWorker", "WebsocketServerWorker"), _NODES),
    **dict.fromkeys(("PublicGridNetwork", "ModelCentricFLClient", "DataCentricFLClient"), _GRID),
    **dict.fromkeys(("KerasHook", "TFEWorker", "TFECluster"), _KERAS),
    "AutogradTensor": "what recorded gradients; torch's own autograd does, for pointers as for all tensors",
    "PrivateTensor": "a tensor with allowed users; here that is sy.private_tensor(x, allowed_users=[...])",
    "NumpyTensor": "a NumPy array at a worker; send torch.from_numpy(array)",
    "String": "text at a worker, which is not there; tensors, pointers and modules can be sent",
    "serde": "how objects became bytes, which is internal here; torch.save and torch.load keep local tensors",
}

_WORKERS = ("websocket_client", "websocket_server", "WebsocketClientWorker", "WebsocketServerWorker")

#: What an import of PySyft 0.2 may name, modules and names in them, as in GONE.
GONE_PATHS: dict[str, str] = {
    **{f"syft.{name}": what for name, what in GONE.items()},
    **dict.fromkeys((f"syft.workers.{name}" for name in _WORKERS), _NODES),
    **dict.fromkeys(("syft.workers.node_client", "syft.grid.public_grid"), _GRID),
}

#: Methods of tensors and modules in PySyft 0.2, as in GONE.
GONE_METHODS: dict[str, str] = dict.fromkeys(
    (
        "fix_prec", "fix_prec_", "fix_precision", "fix_precision_", "float_prec", "float_prec_", "float_precision",
        "float_precision_", "share", "share_", "encrypt", "decrypt",
    ),
    _ENCRYPTED,
)  # fmt: skip


def gone(name: str, what: str) -> AttributeError:
    """Say what ``name`` was, and what to use instead."""
    return AttributeError(f"{name} of PySyft 0.2 was {what}")


class IdProvider:
    """``sy.ID_PROVIDER``, which gives new ids."""

    def pop(self, *_: object) -> int:
        """Return a new id."""
        return new_id()


class _OldPaths(MetaPathFinder, Loader):
    """Finds the modules of the table, and the packages that they are in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        is_package = any(old.startswith(f"{fullname}.") for old in OLD_PATHS)
        if is_package or fullname in OLD_PATHS or fullname in GONE_PATHS:
            return ModuleSpec(fullname, self, is_package=is_package)
        return None

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ in GONE_PATHS:
            raise ImportError(str(gone(module.__name__, GONE_PATHS[module.__name__])), name=module.__name__)
        for name, home in OLD_PATHS.get(module.__name__, {}).items():
            where, _, what = home.partition(":")
            setattr(module, name, getattr(import_module(where), what))


def install() -> None:
    """Have the old paths resolve, and those that are gone say so, however they are come by."""
    for old in (*OLD_PATHS, *GONE_PATHS):
        parent = sys.modules.get(old.rpartition(".")[0])
        if parent is not None:  # the import system looks for modules inside a module only if it has a path
            vars(parent).setdefault("__path__", [])
            vars(parent).setdefault("__getattr__", partial(_missing, parent.__name__))
    sys.meta_path.append(_OldPaths())


def _missing(module: str, name: str) -> NoReturn:
    """What a module says of a name that it has not."""
    path = f"{module}.{name}"
    if path in GONE_PATHS:
        raise gone(path, GONE_PATHS[path])
    raise AttributeError(f"module {module!r} has no attribute {name!r}")
