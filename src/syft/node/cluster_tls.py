"""TLS between a gate and a room on another machine, pinned to one certificate.

The room makes both connections, and says in each which it is and the token of its start.
"""

from __future__ import annotations

import socket
import ssl
from typing import Final

from .. import limits
from .records import SocketSource
from .tls import Duplex, blank, encrypt

#: The connections of a room: that for batches, and that for calls, which are numbered so.
CONNECTIONS: Final = 2
TOKEN_BYTES: Final = 16


def connect(host: str, port: int, token: bytes, certificate: str) -> tuple[Duplex, Duplex]:
    """Connect to the gate; return the lines for batches and for calls. Raises OSError."""
    tls = blank(server_side=False)
    tls.load_verify_locations(cadata=certificate)  # only this one is trusted, wherever the gate is
    opened = []
    for number in range(CONNECTIONS):
        plain = socket.create_connection((host, port), limits.CONNECT_SECONDS)
        opened.append(Duplex(encrypt(plain, tls)))
        opened[-1].sendall(token + bytes([number]))
    batches, calls = opened
    return batches, calls


def greet(connection: socket.socket, tls: ssl.SSLContext) -> tuple[Duplex, bytes, int]:
    """Take a connection; return it with the token and the number that it says. Raises OSError, EOFError."""
    connection.settimeout(limits.CONNECT_SECONDS)
    encrypted = encrypt(connection, tls, server_side=True)
    try:
        *token, number = SocketSource(encrypted, ahead=0).read(TOKEN_BYTES + 1)
    except (OSError, EOFError):
        encrypted.close()
        raise
    return Duplex(encrypted), bytes(token), number
