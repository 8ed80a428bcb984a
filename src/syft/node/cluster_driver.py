"""The process that speaks with a Ray cluster for a gate: it starts actors, ends them, and tells of their ends.

Whoever speaks with a cluster has to trust it: Ray lets its machines have code run, and unpickles what
they say. So this is a program of its own, that holds nothing but the cluster, and the gate takes
nothing from it but the few words below. It is run by its path, to import Ray and not torch.

The gate writes ["start", number, details] and ["kill", number]; this writes ["ready", address],
["failed", why] and ["ended", number].
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import Any

_MESSAGE_BYTES = 1 << 16
_OBJECT_STORE_BYTES = 80 << 20  # the least that Ray takes; nothing of ours is ever in there
_FOR_A_ROOM = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "LANG")


class Keeper:
    """The actor of a room: has its process beside it, which ends when this does.

    The room is not in the actor itself, since that holds Ray's connection to the cluster.
    """

    def keep(self, details: str) -> None:
        """Start the process, and wait for its end."""
        environment = {name: os.environ[name] for name in _FOR_A_ROOM if name in os.environ}
        command = [sys.executable, "-P", "-m", "syft.node.cluster_room", str(os.getpid())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", env=environment) as room:
            room.communicate(details.encode())


def main(gate: socket.socket, needs: dict[str, Any]) -> None:
    """Serve the gate until it hangs up."""
    local = "RAY_ADDRESS" not in os.environ
    with tempfile.TemporaryDirectory(prefix="syft-ray-", ignore_cleanup_errors=True) as folder:
        if local:
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
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_temp_dir": folder,
        }
        try:
            ray.init(**quiet, **(here if local else {}))
        except (OSError, RuntimeError, ValueError) as error:
            _tell(gate, "failed", str(error)[:1000])
            return
        try:
            _tell(gate, "ready", ray.util.get_node_ip_address())
            # Of the machine that all is on, rooms take what there is, as they do without Ray.
            _serve(gate, ray, {"num_cpus": 0} if local else needs)
        finally:
            ray.shutdown()


def _serve(gate: socket.socket, ray: Any, needs: dict[str, Any]) -> None:
    keeper = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Keeper)
    actors: dict[int, Any] = {}

    def watch(number: int, end: Any) -> None:
        ray.wait([end], fetch_local=False)  # and never ray.get, which unpickles
        actors.pop(number, None)
        with suppress(OSError):  # the gate has gone
            _tell(gate, "ended", number)

    while command := gate.recv(_MESSAGE_BYTES):
        match json.loads(command):
            case "start", number, name, details:
                actors[number] = keeper.options(name=name).remote()
                end = actors[number].keep.remote(details)
                threading.Thread(target=watch, args=(number, end), name=f"watch {number}", daemon=True).start()
            case "kill", number:
                actor = actors.get(number)
                if actor is not None:
                    ray.kill(actor)


def _tell(gate: socket.socket, *words: str | int) -> None:
    gate.send(json.dumps(words).encode())


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), json.loads(sys.argv[2]))
