"""A node, from its start to its end."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

from ..errors import BadConfig
from .certs import Bundle
from .nursery import Nursery


def serve(id: str, listen: str, certs: str | Path, ready: Callable[[str], None]) -> None:
    """Serve the worker ``id`` at ``listen`` until SIGTERM or Ctrl-C.

    Args:
        listen: host and port; port 0 takes a free one.
        certs: the folder of the node's bundle, whose name must be ``id``.
        ready: told the address once callers may connect.

    Raises:
        BadCertificate: the bundle is not valid, or not for ``id``.
        BadConfig: the address cannot be listened at.
    """
    bundle = Bundle.load(certs)
    if bundle.name != id:
        raise BadConfig(f"the bundle in {certs} is {bundle.name}'s, not {id}'s", mend=f"syft certs issue DIR {id}")
    nursery = Nursery()
    _serve(listen, bundle, nursery, ready)


def _serve(listen: str, bundle: Bundle, nursery: Nursery, ready: Callable[[str], None]) -> None:
    # Only now: a process that has imported gRPC must not be forked.
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from .. import limits
    from .gate import Gate
    from .link import OPTIONS

    gate = Gate(bundle, nursery)
    server = grpc.server(
        ThreadPoolExecutor(limits.CLIENTS + limits.ERRANDS),
        handlers=[gate],
        options=[
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 500 * limits.KEEPALIVE_SECONDS),
            *OPTIONS,
        ],
    )
    credentials = grpc.ssl_server_credentials([(bundle.key, bundle.cert)], bundle.ca, require_client_auth=True)
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise BadConfig(f"nothing can listen at {listen}", mend="Is the port taken? Choose another.") from error
    server.start()
    stopped = _on_signal()
    ready(f"{listen.rpartition(':')[0]}:{port}")
    stopped.recv(1)
    gate.close()
    server.stop(limits.GOODBYE_SECONDS).wait()
    nursery.close()


def _on_signal() -> socket.socket:
    """Return a socket on which a byte arrives at SIGTERM or SIGINT."""
    reader, writer = socket.socketpair()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: writer.send(b"\0"))
    return reader
