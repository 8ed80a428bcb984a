"""TLS over sockets: how a party shows who it is, and connections that are read and written at one time."""

from __future__ import annotations

import os
import select
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from .. import limits

if TYPE_CHECKING:  # rooms read from a Duplex as well, and have no use for certificates
    from .certs import Bundle

#: What both sides of a connection say in the handshake; another version of what crosses is another name.
PROTOCOL: Final = "syft/1"

#: One record of TLS, which is what OpenSSL writes at one time.
_RECORD_BYTES = 1 << 14


class Duplex:
    """A TLS connection that one thread may read from while another writes to it.

    OpenSSL lets in one thread at a time, so that no thread may wait in there: each waits for the
    socket outside.

    Args:
        encrypted: a connection whose handshake is done.
        silence: seconds to wait for bytes before it is given up; None: any time.
    """

    def __init__(self, encrypted: ssl.SSLSocket, silence: float | None = None) -> None:
        self.socket = encrypted
        self._silence = None if silence is None else int(1000 * silence)
        self._deadline: float | None = None
        self._read = self._written = 0  # records at most, as no call takes more than one
        self._inside, self._writing = threading.Lock(), threading.Lock()
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(encrypted, select.POLLIN)
        self._writable.register(encrypted, select.POLLOUT)
        encrypted.setblocking(False)

    def fileno(self) -> int:
        """Return the descriptor, to wait for bytes where none are :meth:`pending`."""
        return self.socket.fileno()

    def pending(self) -> int:
        """Return how many bytes can be read without waiting for the descriptor."""
        with self._inside:
            return self.socket.pending()

    @property
    def is_worn(self) -> bool:
        """Whether a key of it has been used for as much as it should be."""
        return max(self._read, self._written) >= limits.RECORDS_OF_A_KEY

    def recv_into(self, view: memoryview | bytearray) -> int:
        """Wait for bytes; return how many there are, 0 at the end. Raises OSError, such as TimeoutError."""
        while True:
            with self._inside:
                try:
                    got = self.socket.recv_into(view)
                    self._read += 1
                    return got
                except ssl.SSLWantReadError:
                    pass
            if not self._readable.poll(self._silence):
                raise TimeoutError("the other side is silent")

    def sendall(self, *parts: Any) -> None:
        """Write these, one after another and nothing of others between. Raises OSError."""
        with self._writing:
            for part in parts:
                rest = memoryview(part).cast("B")
                while rest:
                    rest = rest[self._send(rest[:_RECORD_BYTES]) :]

    def send_if_free(self, data: bytes) -> bool:
        """Write a few bytes if that can be done without waiting; tell whether it was. Raises OSError."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            is_free = bool(self._writable.poll(0))  # then there is room for a third of what there can be
            if is_free:
                self._send(memoryview(data))
            return is_free
        finally:
            self._writing.release()

    def hurry(self) -> None:
        """From now on give up on a reader who takes nothing for a moment, or takes too long over all there is."""
        self._deadline = time.monotonic() + limits.ENDING_SECONDS

    def _send(self, data: memoryview) -> int:
        while True:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise TimeoutError("the other side reads too slowly")
            with self._inside:
                try:
                    sent = self.socket.send(data)
                    self._written += 1
                    return sent
                except ssl.SSLWantWriteError:
                    pass
            if not self._writable.poll(1000 * limits.GOODBYE_SECONDS) and self._deadline is not None:
                raise TimeoutError("the other side does not read")

    def disown(self) -> None:
        """Let it go in a child that was forked; it stays as it is for the parent."""
        self._inside, self._writing = threading.Lock(), threading.Lock()  # who held them is not here
        self.socket.close()

    def finish(self) -> None:
        """Write no more; the other side reads to the end."""
        shut(self.socket, socket.SHUT_WR)

    def hang_up(self) -> None:
        """End it, whoever reads or writes; what has come can still be read."""
        shut(self.socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up, and let it go."""
        self.hang_up()
        with self._inside:
            self.socket.close()


def shut(encrypted: ssl.SSLSocket, how: int) -> None:
    """Shut a socket, whoever uses it, if it has not ended already."""
    with suppress(OSError):
        socket.socket.shutdown(encrypted, how)  # SSLSocket's own forgets that there is TLS


def encrypt(
    plain: socket.socket, tls: ssl.SSLContext, *, server_side: bool = False, at_once: bool = True
) -> ssl.SSLSocket:
    """Begin TLS over a socket, which is to send what is written without waiting for more; the handshake, if at once.

    Raises OSError.
    """
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return tls.wrap_socket(plain, server_side=server_side, do_handshake_on_connect=at_once)


def blank(*, server_side: bool) -> ssl.SSLContext:
    """Return what any connection of a node begins with: TLS 1.3. A client trusts nobody yet, a server everybody."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False  # names are checked by who connects: they are no hosts'
    return tls


def context(bundle: Bundle, *, server_side: bool) -> ssl.SSLContext:
    """Return what a party's connections begin with: TLS 1.3, and both sides show a certificate of one authority."""
    tls = blank(server_side=server_side)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.set_alpn_protocols([PROTOCOL])
    tls.load_verify_locations(cadata=bundle.ca.decode())
    show(tls, bundle.key, bundle.cert)
    return tls


def show(tls: ssl.SSLContext, key: bytes, certificate: bytes) -> None:
    """Have it show a certificate, given in PEM."""
    with os.fdopen(os.memfd_create("identity", os.MFD_CLOEXEC), "wb") as file:  # ssl takes keys from files only
        file.write(key + certificate)
        file.flush()
        tls.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    if tls.protocol is ssl.PROTOCOL_TLS_SERVER:
        tls.num_tickets = 0  # nobody takes a session of TLS up again
