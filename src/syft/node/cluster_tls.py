"""TLS between a gate and a room on another machine: pinned to one certificate, and one thread a direction.

Each direction is a connection of its own, since OpenSSL lets no thread read from a connection that
another is writing to. The room makes them all, and says in each which it is and the token of its start.
"""

from __future__ import annotations

import socket
import ssl
from typing import Any, Final

from .. import limits
from .records import SocketSource

#: The connections of a room, in the order of their numbers: where the room reads, and where it writes.
CONNECTIONS: Final = 4
TOKEN_BYTES: Final = 16


class Duplex(ssl.SSLSocket):
    """Once it has a ``writer``, two connections as one socket: it reads from itself and writes to that."""

    writer: ssl.SSLSocket | None = None

    def sendall(self, data: Any, flags: int = 0) -> None:
        ssl.SSLSocket.sendall(self.writer or self, data, flags)

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Wait for all of them: TLS gives no more than 16 KiB at a time, and each of those would go on alone."""
        read, at = memoryview(bytearray(buflen)), 0
        while at < buflen and (got := self.recv_into(read[at:])):
            at += got
        return bytes(read[:at])

    @property
    def both(self) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        """The connection that is read from, and the one written to."""
        return self, self.writer or self


def join(reader: ssl.SSLSocket, writer: ssl.SSLSocket) -> Duplex:
    """Make two connections one socket."""
    assert isinstance(reader, Duplex)
    reader.writer = writer
    for connection in (reader, writer):
        connection.settimeout(None)
    return reader


def connect(host: str, port: int, token: bytes, certificate: str) -> tuple[Duplex, Duplex]:
    """Connect to the gate; return the lines for batches and for calls. Raises OSError."""
    tls = context(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False  # only this certificate is trusted, wherever the gate is
    tls.load_verify_locations(cadata=certificate)
    opened = []
    for number in range(CONNECTIONS):
        plain = socket.create_connection((host, port), limits.CONNECT_SECONDS)
        opened.append(tls.wrap_socket(_at_once(plain)))
        opened[-1].sendall(token + bytes([number]))
    batches_in, batches_out, calls_in, calls_out = opened
    return join(batches_in, batches_out), join(calls_in, calls_out)


def greet(connection: socket.socket, tls: ssl.SSLContext) -> tuple[ssl.SSLSocket, bytes, int]:
    """Take a connection; return it with the token and the number that it says. Raises OSError, EOFError."""
    connection.settimeout(limits.CONNECT_SECONDS)
    encrypted = tls.wrap_socket(_at_once(connection), server_side=True)
    try:
        *token, number = SocketSource(encrypted, ahead=0).read(TOKEN_BYTES + 1)
    except (OSError, EOFError):
        encrypted.close()
        raise
    return encrypted, bytes(token), number


def context(protocol: int) -> ssl.SSLContext:
    """Return what both sides begin with."""
    tls = ssl.SSLContext(protocol)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.sslsocket_class = Duplex
    return tls


def _at_once(connection: socket.socket) -> socket.socket:
    """Have it send what is written without waiting for more."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection
