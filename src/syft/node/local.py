"""Nodes on this machine, each a process of its own that ``syft serve`` runs: for the demo, tests and benchmarks.

They end with the process that started them, however that ends; Ctrl-C is that process's to handle.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, cast

from .. import limits
from ..errors import NodeError
from . import certs

_HOST = "127.0.0.1"


class LocalNode:
    """A running node; as a context manager it is stopped in the end.

    Args:
        authority: the folder of a certificate authority, which issues the node's bundle.
        name: of the worker.
        config: its TOML file; by default one in ``authority`` that names ``peers``.
        options: further ones of ``syft serve``.
        peers: names of nodes that it may call.

    Attributes:
        address: where it listens.
        process: that it is.
        said: the lines that it wrote before it was ready.
        log: the file of what it says on its standard error.

    Raises:
        NodeError: it ended before it was ready; with what it said.
    """

    def __init__(
        self,
        authority: Path,
        name: str,
        config: Path | None = None,
        options: Sequence[str] = (),
        peers: Sequence[str] = (),
    ) -> None:
        bundle = certs.issue(authority, name, [_HOST], force=True)
        self.name, self.config, self.log = name, config or authority / f"{name}.toml", authority / f"{name}.log"
        if config is None:
            self.config.write_text(tables_of_peers(name, peers))
        command = [sys.executable, "-m", "syft.cli", "serve", "--id", name, "--certs", str(bundle)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config), "--listen", f"{_HOST}:0", "--until-eof", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                process_group=0,
            )
        self.said = ""
        try:
            self.address = self._ready()
        except BaseException:
            self.stop()
            raise

    def _ready(self) -> str:
        for line in cast(IO[str], self.process.stdout):
            _, ready, address = line.partition(": ready at ")
            if ready:
                return address.strip()
            self.said += line
        raise NodeError(f"the node {self.name} did not start: {self.log.read_text().strip()}")

    def stop(self) -> int:
        """Ask the node to end, and have it killed if it does not; return its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(2 * limits.GOODBYE_SECONDS + limits.CONNECT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            for pipe in (self.process.stdin, self.process.stdout):
                cast(IO[str], pipe).close()

    def __enter__(self) -> LocalNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def tables_of_peers(name: str, peers: Sequence[str]) -> str:
    """Return what the config of the node ``name`` says of its peers, which are wherever a client says that they are."""
    return "".join(f'[[peers]]\nname = "{peer}"\n' for peer in peers if peer != name)
