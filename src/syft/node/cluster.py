"""Rooms on a Ray cluster, which places each where there is room for it.

The gate itself never speaks with Ray (see :mod:`.cluster_driver`), and reads of a room nothing but the
records that it reads of any: each room connects back to it, by TLS, with a token that is good once.
A spare room is always kept ready, as one takes seconds to start.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .. import limits
from ..errors import BadConfig, WorkerShut
from . import cluster_tls
from .cluster_forkserver import Details
from .config import Ray
from .engines import Death, Order
from .records import send_record
from .tls import Duplex, blank, show

_log = logging.getLogger(__name__)

_FOR_RAY = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")


class Cluster:
    """The engine of ``syft serve --engine ray``.

    The cluster is the one at the environment's RAY_ADDRESS; without that, one of its own on this machine.

    Args:
        worker: whose rooms these are.
        needs: what a room has to find on a machine of the cluster.

    Raises:
        BadConfig: Ray is not installed.
    """

    def __init__(self, worker: str, needs: Ray) -> None:
        if importlib.util.find_spec("ray") is None:
            raise BadConfig("rooms on Ray need it installed: pip install 'syft-pointers[ray]'")
        self._worker, self._needs = worker, needs
        self._lock = threading.Lock()
        self._rooms: dict[int, _Room] = {}  # that have not ended, by number
        self._expected: dict[bytes, _Room] = {}  # that have yet to connect, by token
        self._spare: deque[_Room] = deque()
        self._started = 0
        self._gone = False
        self._tls, self._certificate = _identity()
        self._doors = threading.BoundedSemaphore(limits.ARRIVALS)
        self._listener: socket.socket | None = None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        driver = str(Path(__file__).with_name("cluster_driver.py"))
        forkserver = f"syft-{worker}-{secrets.token_hex(8)}"
        needed = {"num_cpus": needs.room_cpus, "memory": needs.room_memory}
        bounds = {
            "store_bytes": limits.CLUSTER_STORE_BYTES,
            "message_bytes": limits.CLUSTER_MESSAGE_BYTES,
            "end_seconds": limits.CLUSTER_END_SECONDS,
            "attempts": limits.FORKSERVER_ATTEMPTS,
            "text": limits.MAX_LOGGED,
        }
        with theirs:
            self._driver = subprocess.Popen(
                [sys.executable, "-P", driver, str(theirs.fileno()), forkserver, *map(json.dumps, (needed, bounds))],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                env={name: value for name, value in os.environ.items() if name in _FOR_RAY or name.startswith("RAY_")},
                start_new_session=True,  # Ctrl-C is the gate's to handle
            )
        self.end = os.pidfd_open(self._driver.pid)

    def ready(self) -> None:
        """Wait until rooms can be opened, and start the spare ones. Raises BadConfig."""
        self._control.settimeout(limits.CLUSTER_SECONDS)
        try:
            what, said = self._hear()
        except (OSError, EOFError):
            what, said = "failed", "it says why in this node's log"
        if what != "ready":
            raise BadConfig(f"there is no Ray cluster to be had: {said}", mend="Is RAY_ADDRESS as it should be?")
        self._control.settimeout(None)
        self._listener = socket.create_server((said, 0), backlog=limits.ARRIVALS)
        threading.Thread(target=self._watch, name="Ray", daemon=True).start()
        threading.Thread(target=self._accept, name="rooms of Ray", daemon=True).start()
        with self._lock:
            self._spare.extend(self._start() for _ in range(self._needs.spare_rooms))

    def open_room(self, order: Order) -> _Room:
        """Give a spare room, or one that has yet to start. Raises WorkerShut."""
        with self._lock:
            if self._gone:
                raise WorkerShut(
                    "this node has lost its cluster", where=order.worker, mend="Tell its owner to start it anew."
                )
            self._spare.append(self._start())
            room = self._spare.popleft()
        room.begin(order)
        return room

    def close(self) -> None:
        """Let the cluster go, and with it every room; one of this node's own ends."""
        with self._lock:
            self._gone = True
        self._control.shutdown(socket.SHUT_RDWR)
        if self._listener is None:
            self._driver.kill()  # it looks for a cluster that nobody wants any more
        else:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        try:
            self._driver.wait(limits.CONNECT_SECONDS)
        except subprocess.TimeoutExpired:
            _log.warning("Ray takes its time to end; it goes on without this node")
        self._control.close()
        os.close(self.end)

    def _start(self) -> _Room:
        """Have a room started; the lock is held."""
        self._started += 1
        number, name = self._started, f"{self._worker}-{self._started}"
        room = _Room(f"Ray actor {name}", partial(self._kill, number))
        self._rooms[number] = self._expected[room.token] = room
        assert self._listener is not None
        host, port = self._listener.getsockname()[:2]
        details = msgspec.json.encode(Details(host, port, room.token, self._certificate)).decode()
        with suppress(OSError):  # _watch will tell
            self._control.send(json.dumps(["start", number, name, details]).encode())
        return room

    def _kill(self, number: int) -> None:
        with suppress(OSError):  # the cluster has gone, and the room with it
            self._control.send(json.dumps(["kill", number]).encode())

    # ---- what is heard ----

    def _hear(self) -> tuple[str, Any]:
        said = self._control.recv(limits.CLUSTER_MESSAGE_BYTES)
        if not said:
            raise EOFError
        return msgspec.json.decode(said, type=tuple[str, str | int])

    def _watch(self) -> None:
        """Note the ends of rooms, until the cluster is gone."""
        with suppress(OSError, EOFError):
            while True:
                _, number = self._hear()
                with self._lock:
                    room = self._rooms.pop(number)
                    self._expected.pop(room.token, None)
                    if room in self._spare:
                        self._spare.remove(room)
                if room.lose("Ray has ended it"):
                    _log.warning("%s: it ended before it was there; its log at the cluster may say why", room.place)
        with self._lock:
            was_expected = self._gone
            self._gone = True
            rooms, self._rooms = list(self._rooms.values()), {}
        if not was_expected:
            _log.error("the connection to the Ray cluster is lost, and all rooms with it")
        for room in rooms:
            room.lose("its cluster is gone")

    def _accept(self) -> None:
        """Let rooms in, until the listener is closed."""
        assert self._listener is not None
        while True:
            self._doors.acquire()
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if self._gone:
                    return
                self._pause(error)
                continue
            try:
                threading.Thread(target=self._let_in, args=(connection,), name="a room's arrival", daemon=True).start()
            except RuntimeError as error:  # there is no room for another thread; for the next there may be
                connection.close()
                self._pause(error)

    def _pause(self, error: Exception) -> None:
        """Wait a moment, as a room cannot be let in, and let another come in its place."""
        _log.error("a room cannot arrive: %s", error)
        time.sleep(limits.ACCEPT_PAUSE)
        self._doors.release()

    def _let_in(self, connection: socket.socket) -> None:
        try:
            encrypted, token, number = cluster_tls.greet(connection, self._tls)
            with self._lock:
                room = self._expected.get(token)
            if room is None or not room.arrive(number, encrypted):
                encrypted.close()
            elif room.is_here:
                with self._lock:
                    self._expected.pop(token, None)
        except (OSError, EOFError):
            connection.close()
        finally:
            self._doors.release()


class _Room:
    """One room, from before there is a client; see :class:`.engines.Process`."""

    pid = 0

    def __init__(self, place: str, end: Any) -> None:
        self.place = place
        self.token = secrets.token_bytes(cluster_tls.TOKEN_BYTES)
        self._end = end
        self._lock = threading.Lock()
        self._arrived: dict[int, Duplex] = {}
        self._here: Future[tuple[Duplex, Duplex]] = Future()
        self._open: Future[tuple[Duplex, Duplex]] = Future()  # and the order is given

    @property
    def is_here(self) -> bool:
        """Whether all its connections are there, or never will be."""
        return self._here.done()

    @property
    def batches(self) -> Duplex:
        return self._duplexes()[0]

    @property
    def calls(self) -> Duplex:
        return self._duplexes()[1]

    def arrive(self, number: int, connection: Duplex) -> bool:
        """Take one of its connections; tell whether it was still missing."""
        with self._lock:
            if self._here.done() or number >= cluster_tls.CONNECTIONS or number in self._arrived:
                return False
            self._arrived[number] = connection
            if len(self._arrived) == cluster_tls.CONNECTIONS:
                self._here.set_result((self._arrived[0], self._arrived[1]))
        return True

    def begin(self, order: Order) -> None:
        """Give it its order, as soon as it is there."""

        def give(here: Future[tuple[Duplex, Duplex]]) -> None:
            try:
                send_record(here.result()[0], [msgspec.msgpack.encode(order)])
            except OSError as error:
                self._open.set_exception(error)
            else:
                self._open.set_result(here.result())

        self._here.add_done_callback(give)

    def lose(self, why: str) -> bool:
        """It has ended, or will not come; tell whether it was still awaited."""
        with self._lock:
            awaited = not self._here.done()
            if awaited:
                self._here.set_exception(ConnectionError(why))
        if awaited:
            for connection in self._arrived.values():
                connection.close()
        self.hang_up()
        return awaited

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._end()
        self.lose("it was not needed any more")

    def hang_up(self) -> None:
        """End both connections."""
        for connection in self._connections():
            connection.hang_up()

    def death(self) -> Death:
        """Nobody here knows why it ended."""
        return Death("lost", "its log at the cluster may say why")

    def close(self) -> None:
        """Close both connections."""
        for connection in self._connections():
            connection.close()

    def _duplexes(self) -> tuple[Duplex, Duplex]:
        try:
            return self._open.result(limits.ROOM_START_SECONDS)
        except TimeoutError:
            if self.lose("it took too long"):
                _log.warning(
                    "%s: not there after %d s; has the cluster a place for it?", self.place, limits.ROOM_START_SECONDS
                )
            raise

    def _connections(self) -> tuple[Duplex, ...]:
        """Both, now that it has come or will not."""
        return () if self._here.exception() else self._here.result()


def _identity() -> tuple[ssl.SSLContext, str]:
    """Make a key and its certificate, for this run of the gate; return how to use them, and the certificate in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a gate, for its rooms")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .not_valid_before(now - timedelta(minutes=limits.MAX_CLOCK_SKEW_MINUTES))
        .not_valid_after(now + timedelta(days=limits.AUTHORITY_DAYS))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    tls = blank(server_side=True)
    show(tls, secret, certificate)
    return tls, certificate.decode()
