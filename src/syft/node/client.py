"""The caller's side of a node: ``connect``."""

from __future__ import annotations

import atexit
import secrets
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, cast

from msgspec.structs import replace

from .. import limits, outline
from ..asking import Request as AskedFor
from ..errors import BadCertificate, Misuse, NotPermitted, WorkerShut, printable
from ..messages import (
    Answer,
    Ask,
    Asked,
    Confirm,
    Delegate,
    Delegated,
    Expect,
    Get,
    Give,
    Inquire,
    Introduce,
    Placed,
    Point,
    Put,
    Request,
    Retire,
    Value,
)
from ..wire import Reference
from ..workers import BaseWorker, forget_worker, get_worker, known_workers
from . import progress
from .callbacks import Callbacks
from .certs import AUTHORITY, Bundle
from .channel import Channel
from .config import Address, parse_address
from .connection import Connection, dial
from .link import Link
from .tls import context


class NodeWorker(BaseWorker):
    """A worker that a data owner serves from another process; what :func:`connect` gives.

    As a context manager it is left in the end.
    """

    def __init__(self, id: str, address: str, channel: Channel, door: Door) -> None:
        super().__init__(id, channel)
        self.address, self._channel, self._door = address, channel, door
        self._left = False
        self._introduced: dict[str, BaseWorker] = {}
        self._callbacks: tuple[Callbacks, Channel, str] | None = None
        self.request = self._request

    def _request(self, message: Request) -> Answer:
        if isinstance(message, Give):
            return self._give(message)
        if isinstance(message, (Put, Point)) and isinstance(message.value, Reference):
            self._introduce(message.value.worker)
        answer = self._channel.request(message)
        if isinstance(answer, Placed) and answer.target:
            self._introduce(answer.target)
        if isinstance(answer, Value) and isinstance(answer.value, Reference):
            self._check(answer.value)
        return answer

    def _check(self, reference: Reference) -> None:
        """Make sure that this node hands on a pointer to what it may use itself, and to nothing else of yours.

        Raises NotPermitted.
        """
        worker = self._introduced.get(reference.worker)
        if reference.worker == self.id:
            return
        if worker is None:
            name = printable(reference.worker)
            raise NotPermitted(f"a pointer to {name!r}, of whom you have told this node nothing", where=self.id)
        worker.request(Confirm(reference.id, self.id))

    def _give(self, message: Give) -> Answer:
        """Have the object go straight to another node; a worker of this process gets it from here."""
        there = get_worker(message.to)
        if isinstance(there, NodeWorker):
            ticket = secrets.token_hex(16)
            there._channel.request(Expect(ticket, self.id, message.as_id))
            answer = self._channel.request(replace(message, address=there.address, ticket=ticket))
            if isinstance(answer, Placed) and answer.target:
                there._introduce(answer.target)
            return answer
        value = cast(Value, self._request(Get(message.id, None, message.user)))
        put = Put(message.as_id, value.value, value.tags, value.description, value.allowed)
        placed = there.request(put)
        if message.take_as is not None:
            self._channel.request(Retire((message.id,), (message.take_as,), f"it was moved to {message.to}"))
        return placed

    def _introduce(self, worker: str) -> None:
        """Tell this node where a worker is, where it may use what it is pointed to."""
        other = get_worker(worker)
        if not isinstance(other, NodeWorker):
            introduction = Introduce(worker, "", self._called_back())
        elif worker == self.id or self._introduced.get(worker) is other:
            return
        else:
            delegated = cast(Delegated, other._channel.request(Delegate(self.id)))
            introduction = Introduce(worker, other.address, delegated.token)
        if self._introduced.get(worker) is not other:
            self._channel.request(introduction)
            self._introduced[worker] = other

    def _called_back(self) -> str:
        """Hear the calls of this node to workers in this process, over a session of their own; return its token."""
        if self._callbacks is None:
            delegated = cast(Delegated, self._channel.request(Delegate(self._door.caller)))
            callbacks = Callbacks(self.id)
            link = self._door.open(delegated.token)
            channel = Channel(self.id, link, called=callbacks.called)
            link.listen(channel.arrived, channel.lose, channel.expects)
            callbacks.start(channel)
            self._callbacks = callbacks, channel, delegated.token
        return self._callbacks[2]

    def ask(self, id: int, reason: str) -> AskedFor:
        """Ask the node's owner to let you get an object."""
        (asked,) = cast(Asked, self._channel.request(Ask(id, reason))).requests
        return AskedFor(self, asked)

    def requests(self) -> list[AskedFor]:
        """Return what you have asked the node's owner for, oldest first, in whichever of your rooms."""
        return [AskedFor(self, asked) for asked in cast(Asked, self._channel.request(Inquire())).requests]

    @property
    def known_name(self) -> str:
        """The name by which other workers find this one. Raises Misuse: another connection to the node has it."""
        if not self._left and self not in known_workers():
            raise Misuse(
                f"you have connected to {self.id} again, and workers find that connection by the name, not this one",
                where=self.id,
                mend=f"Use the later one: sy.get_worker({self.id!r}); or name this one: worker.add_worker(worker).",
            )
        return self.id

    def shut(self) -> None:
        """Leave the node; what you have there is freed."""
        self._left = True
        atexit.unregister(self._channel.close)
        if self._callbacks is not None:
            callbacks, channel, _ = self._callbacks
            callbacks.close()
            channel.close()
        self._channel.close()
        if self in known_workers():
            forget_worker(self.id)

    def __enter__(self) -> NodeWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shut()

    def __repr__(self) -> str:
        return f"<NodeWorker id:{self.id} at {self.address}>"


class Door(NamedTuple):
    """How a caller gets in at a node: the name in its certificate, and what opens a connection."""

    caller: str
    address: str
    dial: Callable[[], Connection]

    def open(self, session: str) -> Link:
        """Begin a session. Raises WorkerShut."""
        return Link(self.address, self.dial, session)


def connect(address: str, certs: str | Path, id: str | None = None) -> NodeWorker:
    """Connect to the node at ``address``, and return it as a worker, which has a room of its own there.

    Args:
        address: host and port, as ``127.0.0.1:7101``.
        certs: the folder of your own bundle, as ``syft certs issue`` made it.
        id: whose node it has to be; without it, that of whoever your authority has certified and who answers there.

    Raises:
        BadCertificate: your bundle, or the node's certificate, is not valid, or it is another's node.
        Misuse: this is no address.
        WorkerShut: no node answers there.
    """
    try:
        place = parse_address(address)
    except ValueError as error:
        raise Misuse(str(error), mend="Ask the node's owner for its address.") from error
    bundle = Bundle.load(certs)
    outline.start_warming()
    tls = context(bundle, server_side=False)
    name = _name_at(place, tls, certs)
    if id not in (None, name):
        raise BadCertificate(f"the node at {address} is {name}'s, not {id}'s", mend="Ask its owner for its address.")
    door = Door(bundle.name, address, lambda: dial(place, tls, name))
    link = door.open(secrets.token_hex(16))
    channel = Channel(name, link, most=link.most, wait=lambda answer: progress.wait(answer, link.traffic, name))
    link.listen(channel.arrived, channel.lose, channel.expects)
    atexit.register(channel.close)
    return NodeWorker(name, address, channel, door)


_ADVICE = "Is it up, and is this its address? Its owner's syft serve says: ready at HOST:PORT"


def _reason(error: OSError | ValueError) -> str:
    """Say why there is no connection."""
    match error:
        case socket.gaierror() | UnicodeError():
            return f"no machine of that name is known: {error}"
        case ConnectionRefusedError():
            return "the connection was refused, so nothing listens there"
        case TimeoutError():
            return f"it said nothing for {limits.CONNECT_SECONDS} s"
    return str(error)


def _name_at(address: Address, tls: ssl.SSLContext, certs: str | Path) -> str:
    """Ask the node at ``address`` for its certificate, and return the name in it; connections are then held to it."""
    try:
        connection = dial(address, tls)
    except (OSError, ValueError) as error:
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):  # that is a connection cut
            raise BadCertificate(
                f"the node at {address} has no certificate of your authority, {Path(certs) / AUTHORITY}: {error}",
                mend="The two of you need bundles of one authority; ask its owner which.",
            ) from error
        raise WorkerShut(f"no node answers at {address}: {_reason(error)}", mend=_ADVICE) from error
    connection.close()
    return connection.peer
