"""TLS between a gate and a room on another machine, pinned to one certificate.

The room makes both connections, and says in each which it is and the token of its start.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import ExitStack
from typing import Final

from .. import limits
from .records import SocketSource
from .tls import Duplex, blank

#: The connections of a room: that for batches, and that for calls, which are numbered so.
CONNECTIONS: Final = 2
TOKEN_BYTES: Final = 16


def connect(host: str, port: int, token: bytes, certificate: str) -> tuple[Duplex, Duplex]:
    """Connect to the gate; return the lines for batches and for calls. Raises OSError."""
    tls = blank(server_side=False)
    tls.load_verify_locations(cadata=certificate)  # only this one is trusted, wherever the gate is
    with ExitStack() as opened:
        duplexes = []
        for number in range(CONNECTIONS):
            duplex = Duplex(socket.create_connection((host, port), limits.CONNECT_SECONDS), tls)
            opened.callback(duplex.close)
            duplex.shake_hands()
            duplex.silence = None
            duplex.sendall(token + bytes([number]))
            duplexes.append(duplex)
        opened.pop_all()
    batches, calls = duplexes
    return batches, calls


def greet(connection: socket.socket, tls: ssl.SSLContext) -> tuple[Duplex, bytes, int]:
    """Take a connection; return it with the token and the number that it says. Raises OSError, EOFError."""
    duplex = Duplex(connection, tls, server_side=True)
    try:
        duplex.shake_hands()
        *token, number = SocketSource(duplex, ahead=0).read(TOKEN_BYTES + 1)
    except (OSError, EOFError):
        duplex.close()
        raise
    duplex.silence = None
    return duplex, bytes(token), number
