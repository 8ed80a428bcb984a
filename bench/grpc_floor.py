"""What gRPC itself does with TLS on loopback: the floor under the rows of nodes."""

from __future__ import annotations

import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from syft import limits
from syft.node.certs import Bundle

ECHO = "/bench/Echo"


class _Echo(grpc.GenericRpcHandler):
    """Answers each short packet by itself, and after long ones the empty packet only."""

    def service(self, details):
        return grpc.stream_stream_rpc_method_handler(self._echo)

    def _echo(self, packets, context):
        for packet in packets:
            if len(packet) < limits.PACKET_BYTES:
                yield packet


def _serve(folder: str) -> None:
    bundle = Bundle.load(folder)
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Echo()])
    credentials = grpc.ssl_server_credentials([(bundle.key, bundle.cert)], bundle.ca, require_client_auth=True)
    print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
    server.start()
    sys.stdin.read()  # until the process that started this one ends


class Stream:
    """A stream to such a server, over a connection of its own.

    Args:
        authority: the folder of bundles; the caller's is ``me``.
    """

    def __init__(self, address: str, authority: Path) -> None:
        me = Bundle.load(authority / "me")
        self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(me.ca, me.key, me.cert))
        self._packets: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers: Iterator[bytes] = self._channel.stream_stream(ECHO)(iter(self._packets.get, None))

    def round_trip(self) -> None:
        """Send a short packet and wait for it to come back."""
        self._packets.put(b"x")
        next(self._answers)

    def bulk_seconds(self, size: int) -> float:
        """Send ``size`` bytes in long packets; return the seconds until the other side has them."""
        packet = bytes(limits.PACKET_BYTES)
        start = time.perf_counter()
        for _ in range(size // len(packet)):
            self._packets.put(packet)
        self.round_trip()
        return time.perf_counter() - start

    def close(self) -> None:
        self._packets.put(None)
        self._channel.close()


class Floor(Stream):
    """Such a server in a process of its own, at ``address``, and a stream to it."""

    def __init__(self, authority: Path) -> None:
        command = [sys.executable, "-m", __spec__.name, str(authority / "bob")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = f"127.0.0.1:{self._process.stdout.readline().strip()}"
        super().__init__(self.address, authority)

    def close(self) -> None:
        super().close()
        self._process.kill()
        self._process.communicate()


if __name__ == "__main__":
    _serve(sys.argv[1])
