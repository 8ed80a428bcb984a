"""The federation over nodes: each worker in a process of its own, on this machine, with certificates.

This process has the certificate of the coordinator, the program that the owners trust: their configs let
it compute with the digits, move results to the aggregator's node, and get results. So it *could* get a
single update. That it gets nothing from an owner is in the owner's own audit log, and that it gets no
object which an owner moved, in the aggregator's; that what it gets there are averages is its word.

The researcher has a certificate of the same authority, and is in no config.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import numpy as np
from torch import nn

from ..dispatch import Handle
from ..errors import ObjectGone
from ..node import certs
from ..node.audit import Entry, Wanted
from ..node.client import NodeWorker, connect
from ..node.config import state_of
from ..node.local import LocalNode
from ..node.state import audit_log
from ..pointer import PointerTensor
from ..workers import local_worker
from .data import Digits
from .venue import AGGREGATOR, COORDINATOR, owner_names

RESEARCHER = "researcher"
_DATA = "digits"

_CONFIG = f"""\
[[data]]
name = "{_DATA}"
path = "{{name}}.npz"
use = ["{COORDINATOR}"]
get = ["{COORDINATOR}"]
move = {{{{ {AGGREGATOR} = "open" }}}}

[[peers]]
name = "{AGGREGATOR}"
address = "{{aggregator}}"
"""


class Nodes:
    """A node for each owner and one for the aggregator, started here; the stranger is the researcher.

    Their data, configs, certificates and logs are in a temporary folder, which goes when they are shut.

    Raises NodeError: a node did not start.
    """

    asking = "A researcher whom no config names searches, and asks for a single update:"
    bytes = 0  # much of it goes from node to node, past this process

    def __init__(self, shares: Sequence[Digits]) -> None:
        self._nodes: dict[str, LocalNode] = {}
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="syft-demo-")))
            certs.init(folder)
            stack.callback(self._stop)
            self._start(folder, shares)
            # The researcher first: workers are known by name, and the names are to mean the coordinator's.
            self._researchers = self._connect(folder, RESEARCHER, stack)
            connected = self._connect(folder, COORDINATOR, stack)
            self.aggregator = connected[AGGREGATOR]
            self.owners = [connected[name] for name in owner_names(shares)]
            self._stack = stack.pop_all()

    def _start(self, folder: Path, shares: Sequence[Digits]) -> None:
        """Write down what each owner has and allows, and start the nodes, the aggregator's first."""

        def start(name: str) -> None:
            self._nodes[name] = LocalNode(folder, name, folder / f"{name}.toml")

        (folder / f"{AGGREGATOR}.toml").touch()
        start(AGGREGATOR)
        names = owner_names(shares)
        for name, share in zip(names, shares, strict=True):
            np.savez(folder / f"{name}.npz", images=share.images.numpy(), labels=share.labels.numpy())
            config = _CONFIG.format(name=name, aggregator=self._nodes[AGGREGATOR].address)
            (folder / f"{name}.toml").write_text(config, encoding="utf-8")
        with ThreadPoolExecutor() as pool:
            list(pool.map(start, names))

    def _stop(self) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(LocalNode.stop, self._nodes.values()))

    def _connect(self, folder: Path, person: str, stack: ExitStack) -> dict[str, NodeWorker]:
        """Connect to all nodes with the certificate of ``person``."""
        bundle = certs.issue(folder, person)
        workers = {}
        for name, node in self._nodes.items():
            workers[name] = connect(node.address, bundle)
            stack.callback(workers[name].shut)
        return workers

    def refusal(self, update: nn.Module) -> str:
        pointer = cast(PointerTensor, next(update.parameters()))
        node = self._researchers[pointer.location.id]
        found = node.search()
        try:
            node.get(Handle(pointer.id_at_location, node, local_worker(), owns=False), take=False)
        except ObjectGone as error:
            if not found:
                return f"the search finds nothing; {error}"
        raise AssertionError("a node gave something to a client who is in no config")

    def evidence(self) -> list[str]:
        released = {owner.id: self._released(owner.id) for owner in self.owners}
        got = [entry for entry in self._released(AGGREGATOR) if entry.what == "get"]
        moved = {entry.object for entries in released.values() for entry in entries if entry.what == "move"}
        single = sum(entry.object in moved for entry in got)
        lines = ["By the nodes' audit logs, of the digits and of all that is computed from them:"]
        for name, entries in released.items():
            count = Counter((entry.what, entry.to) for entry in entries)
            to_aggregator = count.pop(("move", AGGREGATOR), 0)
            lines.append(f"  {name}: {to_aggregator} tensors moved to the aggregator, {count.total()} left otherwise")
        return [
            *lines,
            f"  {AGGREGATOR}: {len(got)} tensors got, {single} of them by the id of one that moved there",
            "The configs would let the coordinator get more. An owner's own log would show it;",
            "that what was got from the aggregator are averages is the coordinator's word.",
        ]

    def _released(self, name: str) -> list[Entry]:
        """Return what a node's log has of releases of the digits, or of anything beside them."""
        log = audit_log(state_of(self._nodes[name].config))
        return [e for e in log.read(Wanted(allowed=True)) if isinstance(e, Entry) and e.policies]

    def shut(self) -> None:
        self._stack.close()
