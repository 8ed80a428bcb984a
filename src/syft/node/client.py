"""The caller's side of a node: ``connect``."""

from __future__ import annotations

import atexit
import secrets
import socket
import ssl
from pathlib import Path
from typing import Any, cast

import grpc
from msgspec.structs import replace

from .. import limits
from ..errors import BadCertificate, WorkerNotFound, WorkerShut
from ..ids import new_id
from ..messages import (
    Answer,
    Ask,
    Asked,
    Delegate,
    Delegated,
    Expect,
    Get,
    Give,
    Introduce,
    Lend,
    Placed,
    Put,
    Request,
    Retire,
    Value,
)
from ..wire import Meta, Reference
from ..workers import BaseWorker, forget_worker, get_worker, known_workers
from .certs import AUTHORITY, CERTIFICATE, KEY, Bundle, name_in, tls_name
from .channel import Channel
from .link import CALLER_OPTIONS, Link


class NodeWorker(BaseWorker):
    """A worker that a data owner serves from another process; what :func:`connect` gives."""

    def __init__(self, id: str, address: str, channel: Channel) -> None:
        super().__init__(id, channel)
        self.address, self._channel = address, channel
        self._introduced: set[str] = set()
        self.request = self._request

    def _request(self, message: Request) -> Answer:
        if isinstance(message, Give):
            return self._give(message)
        if isinstance(message, Lend):
            return self._lend(message)
        if isinstance(message, Put) and isinstance(message.value, Reference):
            self._introduce(message.value.worker)
        return self._channel.request(message)

    def _give(self, message: Give) -> Answer:
        """Have the object go straight to another node; a worker of this process gets it from here."""
        there = get_worker(message.to)
        if isinstance(there, NodeWorker):
            ticket = secrets.token_hex(16)
            there._channel.request(Expect(ticket, self.id, message.as_id))
            return self._channel.request(replace(message, address=there.address, ticket=ticket))
        value = cast(Value, self._channel.request(Get(message.id, None, message.user)))
        put = Put(message.as_id, value.value, value.tags, value.description, value.allowed)
        placed = there.request(put)
        if message.take_as is not None:
            self._channel.request(Retire((message.id,), (message.take_as,), f"it was moved to {message.to}"))
        return placed

    def _lend(self, message: Lend) -> Answer:
        """Give the object away, and put a pointer to where it is now in its place."""
        placed = cast(Placed, self._give(Give(message.id, message.to, message.as_id, new_id(), message.user)))
        there = Reference(message.to, message.as_id, Meta.of(cast(Any, placed.meta)))
        return self._request(Put(message.id, there))

    def _introduce(self, worker: str) -> None:
        """Tell this node where ``worker`` is, and let it use your objects there."""
        other = get_worker(worker)
        if worker == self.id or worker in self._introduced:
            return
        if not isinstance(other, NodeWorker):
            raise WorkerNotFound(
                f"the node {self.id} cannot reach {worker}, which lives in your process",
                where=self.id,
                mend="Send the object itself, or have both be nodes.",
            )
        delegated = cast(Delegated, other._channel.request(Delegate(self.id)))
        self._channel.request(Introduce(worker, other.address, delegated.token))
        self._introduced.add(worker)

    def ask(self, id: int, reason: str) -> str:
        """Ask the node's owner to let you get an object."""
        return cast(Asked, self._channel.request(Ask(id, reason))).request

    def shut(self) -> None:
        """Leave the node; what you have there is freed."""
        atexit.unregister(self._channel.close)
        self._channel.close()
        if self in known_workers():
            forget_worker(self.id)

    def __repr__(self) -> str:
        return f"<NodeWorker id:{self.id} at {self.address}>"


def connect(address: str, certs: str | Path) -> NodeWorker:
    """Connect to the node at ``address``, and return it as a worker.

    Args:
        address: host and port, as ``127.0.0.1:7101``.
        certs: the folder of your own bundle, as ``syft certs issue`` made it.

    Raises:
        BadCertificate: your bundle, or the node's certificate, is not valid.
        WorkerShut: no node answers there.
    """
    bundle = Bundle.load(certs)
    name = _name_at(address, certs)
    credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.cert)
    options = [*CALLER_OPTIONS, ("grpc.ssl_target_name_override", tls_name(name))]
    connection = grpc.secure_channel(address, credentials, options)
    channel = Channel(name)
    channel.carrier = Link(address, connection, secrets.token_hex(16), channel.arrived, channel.lose)
    atexit.register(channel.close)
    return NodeWorker(name, address, channel)


def _name_at(address: str, certs: str | Path) -> str:
    """Ask the node at ``address`` for its certificate, and return the name in it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # its name is what we ask for; the connection that follows is held to it
    context.load_verify_locations(Path(certs) / AUTHORITY)
    context.load_cert_chain(Path(certs) / CERTIFICATE, Path(certs) / KEY)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=limits.CONNECT_SECONDS) as plain,
            context.wrap_socket(plain) as secure,
        ):
            certificate = secure.getpeercert(binary_form=True)
    except ssl.SSLError as error:
        raise BadCertificate(
            f"the node at {address} has no certificate of your authority: {error}",
            mend="Ask its owner which authority issued it.",
        ) from error
    except (OSError, ValueError) as error:
        raise WorkerShut(
            f"no node answers at {address}: {error}", mend="Is it up? syft serve --listen HOST:PORT"
        ) from error
    return name_in(certificate or b"")
