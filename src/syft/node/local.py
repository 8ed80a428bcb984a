"""Nodes on this machine, each a process of its own that ``syft serve`` runs: for the demo, tests and benchmarks."""

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
        config: its TOML file; by default an empty one in ``authority``.
        options: further ones of ``syft serve``.

    Attributes:
        address: where it listens.
        process: that it is.
        said: the lines that it wrote before it was ready.
        log: the file of what it says on its standard error.

    Raises:
        NodeError: it ended before it was ready; with what it said.
    """

    def __init__(self, authority: Path, name: str, config: Path | None = None, options: Sequence[str] = ()) -> None:
        bundle = certs.issue(authority, name, [_HOST], force=True)
        self.name, self.config, self.log = name, config or authority / f"{name}.toml", authority / f"{name}.log"
        self.config.touch()
        command = [sys.executable, "-m", "syft.cli", "serve", "--id", name, "--certs", str(bundle)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--config", str(self.config), "--listen", f"{_HOST}:0", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.said = ""
        self.address = self._ready()

    def _ready(self) -> str:
        for line in self._output():
            _, ready, address = line.partition(": ready at ")
            if ready:
                return address.strip()
            self.said += line
        self.stop()
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
            self._output().close()

    def _output(self) -> IO[str]:
        return cast(IO[str], self.process.stdout)

    def __enter__(self) -> LocalNode:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
