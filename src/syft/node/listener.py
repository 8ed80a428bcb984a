"""The door of a node: connections with certificates come in, and those without are no burden."""

from __future__ import annotations

import logging
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from .. import limits
from ..errors import BadCertificate, MalformedMessage
from .config import Address
from .connection import Connection
from .tls import Duplex

_log = logging.getLogger(__name__)


class Listener:
    """Listens at an address, and gives each connection a thread.

    Whoever has yet to say what it wants may be sent away for the next who comes: of such callers
    there are ``limits.ARRIVALS`` at most, so that nobody keeps others out by saying nothing. It is one
    from where most of them are; any of these, so that in a flood the slow have a chance as well.

    Args:
        address: port 0 takes a free one.
        tls: what connections begin with.
        serve: called with each, on its thread; a connection may be cut until that has called :meth:`settle`.

    Raises:
        OSError: nothing can listen there.
    """

    def __init__(self, address: Address, tls: ssl.SSLContext, serve: Callable[[Connection, Listener], None]) -> None:
        self._tls, self._serve = tls, serve
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._listener = socket.create_server(address, family=family, backlog=limits.ARRIVALS)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._strangers: dict[Duplex, str] = {}  # and the hosts that they are at
        self._closed = threading.Event()
        self._said_again = 0.0

    def start(self) -> None:
        """Let callers in."""
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def settle(self, connection: Connection) -> None:
        """Its caller has said what it wants: it is no stranger any more."""
        self._forget(connection.duplex)

    def unsettle(self, connection: Connection) -> None:
        """Nothing is wanted over it for the time being."""
        self._note(connection.duplex)

    def close(self) -> None:
        """Let nobody in any more."""
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _note(self, stranger: Duplex) -> None:
        try:
            host = stranger.socket.getpeername()[0]
        except OSError:  # it has left, as who reads here will be told
            return
        with self._lock:
            one_too_many = self._any_of_most() if len(self._strangers) >= limits.ARRIVALS else None
            if one_too_many is not None:
                del self._strangers[one_too_many]
            self._strangers[stranger] = host
        if one_too_many is not None:
            one_too_many.hang_up()

    def _any_of_most(self) -> Duplex:
        hosts = Counter(self._strangers.values())
        most = max(hosts.values())
        return random.choice([stranger for stranger, host in self._strangers.items() if hosts[host] == most])

    def _forget(self, stranger: Duplex) -> None:
        with self._lock:
            self._strangers.pop(stranger, None)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError as error:
                self._pause(error)
                continue
            try:
                stranger = Duplex(plain, self._tls, server_side=True)
            except OSError:  # it has left
                plain.close()
                continue
            self._note(stranger)
            try:
                threading.Thread(target=self._greet, args=(stranger,), name="caller", daemon=True).start()
            except RuntimeError as error:  # there is no room for another thread; for the next there may be
                self._forget(stranger)
                stranger.close()
                self._pause(error)

    def _pause(self, error: Exception) -> None:
        """Wait a moment, as a caller cannot be let in; say so now and then."""
        if not self._closed.wait(limits.ACCEPT_PAUSE) and time.monotonic() >= self._said_again:
            self._said_again = time.monotonic() + limits.ACCEPT_SAID_SECONDS
            _log.error("callers cannot be let in: %s", error)

    def _greet(self, stranger: Duplex) -> None:
        try:
            stranger.shake_hands()
            connection = Connection(stranger)
        except (OSError, BadCertificate, MalformedMessage):
            stranger.close()
        else:
            self._serve(connection, self)
        finally:
            self._forget(stranger)
