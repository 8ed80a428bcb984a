"""The process that speaks with a Ray cluster for a gate: it starts actors, ends them, and tells of their ends.

Whoever speaks with a cluster has to trust it: Ray lets its machines have code run, and unpickles what
they say. So this is a program of its own, that holds nothing but the cluster, and the gate takes
nothing from it but the few words below. It is run by its path, to import Ray and not torch.

The gate writes ["start", number, name, details] and ["kill", number]; this writes ["ready", address],
["failed", why] and ["ended", number].
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import secrets
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_FOR_A_ROOM = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG")


class Keeper:
    """The actor of a room, which has no more to do than to end with it.

    The room is not in the actor itself, since that holds Ray's connection to the cluster: it is forked from
    a fork server, one for all rooms of a node on one machine, and lives as long as the connection to that.
    """

    def keep(self, forkserver: str, details: str, attempts: int) -> None:
        """Have a room, and wait for its end."""
        for _ in range(attempts):  # a fork server may end while it is being found
            self._start(forkserver)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as room, suppress(ConnectionError):
                room.connect(f"\0{forkserver}")
                _, uid, _ = struct.unpack("3i", room.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if uid != os.getuid():
                    raise PermissionError("this fork server is another user's")
                room.send(details.encode())
                if room.recv(1):
                    return

    def _start(self, forkserver: str) -> None:
        """Start a fork server, unless there is one of this name."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            try:
                listener.bind(f"\0{forkserver}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                return
            listener.listen()
            subprocess.run(
                [sys.executable, "-P", "-m", "syft.node.cluster_forkserver", forkserver, str(listener.fileno())],
                check=True,
                env={name: os.environ[name] for name in _FOR_A_ROOM if name in os.environ},
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )


def main(gate: socket.socket, forkserver: str, needs: dict[str, Any], bounds: dict[str, int]) -> None:
    """Serve the gate until it hangs up.

    Args:
        forkserver: the name of the fork servers of its rooms.
        needs: what Ray sets aside for each room.
        bounds: those of :mod:`syft.limits` that are for this program, which does not import syft.
    """
    local = "RAY_ADDRESS" not in os.environ
    with tempfile.TemporaryDirectory(prefix="syft-ray-", ignore_cleanup_errors=True) as folder:
        if local:
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            # Loopback only, and a password of its own, which Ray would otherwise keep in the owner's home.
            os.environ.update(
                RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
                RAY_AUTH_MODE="token",
                RAY_AUTH_TOKEN=secrets.token_hex(32),
                RAY_USAGE_STATS_ENABLED="0",
            )
        import ray

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        here: dict[str, Any] = {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": 0,
            "object_store_memory": bounds["store_bytes"],
            "_temp_dir": f"{folder}/ray",  # which Ray opens to all; what is in it is as private as the folder
        }
        try:
            ray.init(**quiet, **(here if local else {}))
        except (OSError, RuntimeError, ValueError) as error:
            _tell(gate, "failed", str(error)[: bounds["text"]])
            return
        try:
            _tell(gate, "ready", ray.util.get_node_ip_address())
            # Of the machine that all is on, rooms take what there is, as they do without Ray.
            _serve(gate, ray, forkserver, {"num_cpus": 0} if local else needs, bounds)
        finally:
            ray.shutdown()
            if local:
                _end_all()


def _serve(gate: socket.socket, ray: Any, forkserver: str, needs: dict[str, Any], bounds: dict[str, int]) -> None:
    keeper = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Keeper)
    actors: dict[int, Any] = {}
    watches: dict[int, threading.Thread] = {}

    def watch(number: int, end: Any) -> None:
        ray.wait([end], fetch_local=False)  # and never ray.get, which unpickles
        actors.pop(number)
        with suppress(OSError):  # the gate has gone
            _tell(gate, "ended", number)
        watches.pop(number)

    while command := gate.recv(bounds["message_bytes"]):
        match json.loads(command):
            case "start", number, name, details:
                actors[number] = keeper.options(name=name).remote()
                end = actors[number].keep.remote(forkserver, details, bounds["attempts"])
                watches[number] = threading.Thread(target=watch, args=(number, end), daemon=True)
                watches[number].start()
            case "kill", number:
                actor = actors.get(number)
                if actor is not None:
                    ray.kill(actor)
    for actor in list(actors.values()):
        ray.kill(actor)
    for watching in list(watches.values()):  # Ray ends a process with threads that use it once it is shut down
        watching.join(bounds["end_seconds"])


def _end_all() -> None:
    """End what Ray's own way of ending leaves behind, on a busy machine; all that loses its parent is a child here."""
    while children := Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        for child in children:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(int(child), signal.SIGKILL)
                os.waitpid(int(child), 0)


def _tell(gate: socket.socket, *words: str | int) -> None:
    gate.send(json.dumps(words).encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2], *map(json.loads, sys.argv[3:]))
