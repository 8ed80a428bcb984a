"""TLS between a gate and a room on another machine, pinned to one certificate.

The room makes both connections, and says in each which it is and the token of its start.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from .. import limits
from .records import SocketSource
from .tls import Duplex

#: The connections of a room: that for batches, and that for calls, which are numbered so.
CONNECTIONS: Final = 2
TOKEN_BYTES: Final = 16


def connect(host: str, port: int, token: bytes, certificate: str) -> tuple[Duplex, Duplex]:
    """Connect to the gate; return the lines for batches and for calls. Raises OSError."""
    tls = context(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False  # only this certificate is trusted, wherever the gate is
    tls.load_verify_locations(cadata=certificate)
    opened = []
    for number in range(CONNECTIONS):
        plain = socket.create_connection((host, port), limits.CONNECT_SECONDS)
        opened.append(Duplex(tls.wrap_socket(_at_once(plain))))
        opened[-1].sendall(token + bytes([number]))
    batches, calls = opened
    return batches, calls


def greet(connection: socket.socket, tls: ssl.SSLContext) -> tuple[Duplex, bytes, int]:
    """Take a connection; return it with the token and the number that it says. Raises OSError, EOFError."""
    connection.settimeout(limits.CONNECT_SECONDS)
    encrypted = tls.wrap_socket(_at_once(connection), server_side=True)
    try:
        *token, number = SocketSource(encrypted, ahead=0).read(TOKEN_BYTES + 1)
    except (OSError, EOFError):
        encrypted.close()
        raise
    return Duplex(encrypted), bytes(token), number


def context(protocol: int) -> ssl.SSLContext:
    """Return what both sides begin with."""
    tls = ssl.SSLContext(protocol)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    return tls


def _at_once(connection: socket.socket) -> socket.socket:
    """Have it send what is written without waiting for more."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
