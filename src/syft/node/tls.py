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

#: One record of TLS, which is what OpenSSL takes and gives at one time.
_RECORD_BYTES = 1 << 14

#: Of records that cross to and from the kernel at one time.
_CHUNK_BYTES = 1 << 18

#: What the other side has TLS itself answer, beyond which that waits for somebody who writes, and may wait.
_ANSWERS_BYTES = 1 << 10


class Duplex:
    """A TLS connection that one thread may read from while another writes to it.

    OpenSSL lets in one thread at a time, and would call the kernel for each record twice. So it works on
    memory here, and the socket is read and written outside, many records at one time.

    Args:
        plain: a socket that is connected, from now on this one's.
        tls: what it begins with.

    Attributes:
        socket: the one below, to tell it from others; nobody else reads or writes it.
        silence: seconds to wait for bytes before it is given up; None: any time.
    """

    def __init__(self, plain: socket.socket, tls: ssl.SSLContext, *, server_side: bool = False) -> None:
        self.socket = plain
        self.silence: float | None = limits.CONNECT_SECONDS
        self._deadline: float | None = None
        self._read = self._written = 0  # records at most, as no call takes more than one
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._inside, self._writing = threading.Lock(), threading.Lock()
        self._chunk = memoryview(bytearray(_CHUNK_BYTES))
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(plain, select.POLLIN)
        self._writable.register(plain, select.POLLOUT)

    def shake_hands(self) -> None:
        """Agree on keys, and check who the other side is. Raises OSError."""
        with self._writing:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    self._flush()
                except ssl.SSLError:
                    with suppress(OSError):  # the other side is told why, if it still listens
                        self._flush()
                    raise
                else:
                    self._flush()
                    return
                if not self._receive():
                    raise ConnectionResetError("the other side hung up in the handshake")

    @property
    def certificate(self) -> bytes:
        """The other side's, in DER; empty if it showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def protocol(self) -> str | None:
        """What both sides said in the handshake that they speak."""
        return self._tls.selected_alpn_protocol()

    def fileno(self) -> int:
        """Return the descriptor, to wait for bytes where none are :meth:`pending`."""
        return self.socket.fileno()

    def pending(self) -> int:
        """Return how many bytes have come that have not been read, as they are or still encrypted."""
        with self._inside:
            return self._tls.pending() + self._incoming.pending

    @property
    def is_worn(self) -> bool:
        """Whether a key of it has been used for as much as it should be."""
        return max(self._read, self._written) >= limits.RECORDS_OF_A_KEY

    def recv_into(self, view: memoryview | bytearray) -> int:
        """Wait for bytes; return how many there are, 0 at the end. Raises OSError, such as TimeoutError."""
        while True:
            with self._inside:
                try:
                    got = self._tls.read(len(view), view)
                    self._read += 1
                    return got  # type: ignore[return-value]  # with a buffer, a count
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return 0
            if not self._receive():
                return 0

    def _receive(self) -> int:
        """Wait for records, or parts of them; return how many bytes, 0 at the end. Raises OSError."""
        if not self._readable.poll(None if self.silence is None else 1000 * self.silence):
            raise TimeoutError("the other side is silent")
        if self._outgoing.pending > 2 * _CHUNK_BYTES:  # answers to new keys, and it takes none of them
            raise ConnectionAbortedError("the other side asks for new keys and does not read")
        got = self.socket.recv_into(self._chunk)
        with self._inside:
            self._incoming.write(self._chunk[:got])
        return got

    def sendall(self, *parts: Any) -> None:
        """Write these, one after another and nothing of others between. Raises OSError."""
        with self._writing:
            for part in parts:
                rest = memoryview(part).cast("B")
                while rest:
                    rest = rest[self._encrypt(rest[:_RECORD_BYTES]) :]
                    if self._outgoing.pending >= _CHUNK_BYTES:
                        self._flush()
            self._flush()

    def send_if_free(self, data: bytes) -> bool:
        """Write a few bytes if that can be done without waiting; tell whether it was. Raises OSError."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            is_free = bool(self._writable.poll(0))  # then there is room for a third of what there can be
            is_free = is_free and self._outgoing.pending <= _ANSWERS_BYTES
            if is_free:
                self._encrypt(data)
                self._flush()
            return is_free
        finally:
            self._writing.release()

    def hurry(self) -> None:
        """From now on give up on a reader who takes nothing for a moment, or takes too long over all there is."""
        self._deadline = time.monotonic() + limits.ENDING_SECONDS

    def _encrypt(self, data: bytes | memoryview) -> int:
        """Make a record; return how many bytes went into it. Raises OSError."""
        with self._inside:
            self._written += 1
            return self._tls.write(data)

    def _flush(self) -> None:
        """Send the records there are. Raises OSError."""
        with self._inside:
            rest = memoryview(self._outgoing.read())
        while rest:
            if self._deadline is not None and time.monotonic() >= self._deadline:
                raise TimeoutError("the other side reads too slowly")
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                if not self._writable.poll(1000 * limits.GOODBYE_SECONDS) and self._deadline is not None:
                    raise TimeoutError("the other side does not read") from None

    def disown(self) -> None:
        """Let it go in a child that was forked; it stays as it is for the parent."""
        self._inside, self._writing = threading.Lock(), threading.Lock()  # who held them is not here
        self.socket.close()

    def finish(self) -> None:
        """Write no more; the other side reads to the end."""
        self._shut(socket.SHUT_WR)

    def hang_up(self) -> None:
        """End it, whoever reads or writes; what has come can still be read."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, how: int) -> None:
        with suppress(OSError):  # it has ended already
            self.socket.shutdown(how)

    def close(self) -> None:
        """Hang up, and let it go: for who reads, as the last thing."""
        self.hang_up()
        with self._writing:  # whoever writes must not find another's descriptor under this number
            self.socket.close()


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
