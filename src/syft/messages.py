"""The whole protocol between a caller and a worker, on one screen.

A caller sends one request and gets one answer. Results are named by the caller, so that it need not
wait for an answer to go on. A request that fails changes nothing at the worker.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import msgspec

from . import limits
from .wire import Id, Meta, Name

Tag = Annotated[str, msgspec.Meta(max_length=limits.MAX_TAG_LENGTH)]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=limits.MAX_TAGS)]
Description = Annotated[str, msgspec.Meta(max_length=limits.MAX_DESCRIPTION_LENGTH)]
Reason = Annotated[str, msgspec.Meta(max_length=limits.MAX_DESCRIPTION_LENGTH, pattern=r"\S")]
SeedNumber = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_SEED)]
Results = Annotated[tuple[Id, ...], msgspec.Meta(max_length=limits.MAX_RESULTS)]


class State(StrEnum):
    """Where a request to an owner stands. Denied and withdrawn are final; what was approved may be denied later."""

    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"


class Message(msgspec.Struct, tag=str.lower, array_like=True, gc=False):
    """Base of all messages."""


# ---- requests -------------------------------------------------------------------------------


class Run(Message):
    """Run an operator; store its fresh tensors as ``results``. -> Ran"""

    operator: Name
    args: list[Any]
    kwargs: dict[Name, Any]
    results: Results


class Put(Message):
    """Store a tensor, or a pointer (``Reference``), as ``id``. -> Placed"""

    id: Id
    value: Any
    tags: Tags = ()
    description: Description = ""
    allowed: tuple[Name, ...] | None = None


class Get(Message):
    """Give the value of ``id``; if it is a pointer, for the worker ``to``, or for the caller. -> Value

    With ``take_as`` there is no ``id`` any more: until the caller lets go, what its graph still
    needs lives on, unlisted, under that name.
    """

    id: Id
    take_as: Id | None = None
    user: Name = ""
    to: Name = ""


class Give(Message):
    """Send ``id`` straight to the worker ``to`` as ``as_id``; ``take_as`` as in Get. -> Placed

    Between processes, ``to`` is at ``address`` and has been told to expect ``ticket``.
    """

    id: Id
    to: Name
    as_id: Id
    take_as: Id | None = None
    user: Name = ""
    address: Name = ""
    ticket: Name = ""


class Point(Message):
    """Put a pointer (``Reference``) in the place of ``id``, for all its owners. -> Placed"""

    id: Id
    value: Any


class Fetch(Message):
    """Put in the place of the pointer ``id`` what it points to. -> Placed"""

    id: Id
    user: Name = ""


class Retire(Message):
    """Take ``ids`` as the names ``take_as``, as Get and Give do one by one; ``fate`` says why. -> Done"""

    ids: Results
    take_as: Results
    fate: Description


class Retain(Message):
    """Add one owner to ``id``: the worker ``to``, where that is another than the caller; it may use it. -> Done"""

    id: Id
    to: Name = ""


class Confirm(Message):
    """Say whether the worker ``worker`` may use ``id``: NotPermitted if not. -> Done"""

    id: Id
    worker: Name


class Release(Message):
    """Take one owner from each of ``ids``; what has none left is freed. -> Done"""

    ids: tuple[Id, ...]


class Describe(Message):
    """Give ``id`` these tags and this description. -> Done"""

    id: Id
    tags: Tags
    description: Description


class Search(Message):
    """List the objects whose tags or description hold every word of ``query``. -> Found"""

    query: Tags


class List(Message):
    """List every object. -> Found"""


class Seed(Message):
    """Have random numbers start anew from ``seed``. -> Done"""

    seed: SeedNumber


class Expect(Message):
    """Take the one object that ``sender`` delivers with ``ticket``, and store it as ``id``. -> Done"""

    ticket: Name
    sender: Name
    id: Id


class Delegate(Message):
    """Let the worker ``to`` use the caller's objects here, for its chains. -> Delegated"""

    to: Name


class Introduce(Message):
    """The worker ``worker`` is at ``address``, and takes the bearer of ``token`` for the caller's delegate. -> Done

    Without an address it is in the caller's process, which hears calls in the session ``token``.
    """

    worker: Name
    address: Name
    token: Name


class Ask(Message):
    """Ask the owner of a node to let the caller get ``id`` as it is now. -> Asked"""

    id: Id
    reason: Reason


class Inquire(Message):
    """Say where the caller's requests to the owner stand: all that are known, or the one of this name. -> Asked"""

    request: Name = ""


class Collect(Message):
    """Give the value that the owner let the caller have. -> Value"""

    request: Name


class Withdraw(Message):
    """Take a request back, and forget its value. -> Done"""

    request: Name


class Clear(Message):
    """Forget every object. -> Done"""


# ---- answers --------------------------------------------------------------------------------


class Done(Message):
    """It is done."""


class Ran(Message):
    """One entry for each tensor the operator gave: its metadata, or None where it gave none.

    In process the entries are the tensors themselves.
    """

    outputs: tuple[Meta | None, ...]


class Value(Message):
    """A tensor, or a pointer as a ``Reference``, its labels, and who may have it: whoever stores it keeps to that."""

    value: Any
    allowed: tuple[Name, ...] | None = None
    tags: Tags = ()
    description: Description = ""


class Placed(Message):
    """The metadata of an object, in process the tensor itself; and the worker ``target`` that it points to, if any."""

    meta: Meta
    target: Name = ""


class Delegated(Message):
    """What a delegate shows to be let in."""

    token: Name


class Asked(Message):
    """Requests to the owner, oldest first: (name, time in ISO 8601, reason, state, the owner's note) each."""

    requests: Annotated[
        tuple[tuple[Name, Name, Description, State, Description], ...], msgspec.Meta(max_length=limits.MAX_REQUESTS)
    ]


class Found(Message):
    """What was found or is listed: (id, metadata, tags, description) each."""

    objects: tuple[tuple[Id, Meta, Tags, Description], ...]


class Failure(Message):
    """The request failed and changed nothing; ``asked_at`` is the number of the message that failed first, or 0."""

    code: Name
    what: str
    where: str
    mend: str
    asked_at: Id = 0


class Called(Message):
    """No answer, but a batch of requests to ``worker``, which is in the caller's process; a Reply answers it."""

    worker: Name
    batch: bytes


Answer = Done | Ran | Value | Placed | Delegated | Asked | Found | Failure | Called


class Reply(Message):
    """The answer to the ``seq``-th message of those that came for ``worker``. -> Done"""

    worker: Name
    seq: Id
    answer: Answer


Request = (
    Run | Put | Get | Give | Point | Fetch | Retire | Retain | Confirm | Release | Describe | Search | List
    | Seed | Clear | Expect | Delegate | Introduce | Ask | Inquire | Collect | Withdraw | Reply
)  # fmt: skip

#: What answers a request that has not failed. A node that may not tell what an object is like there says Done.
ANSWERS: dict[type[Message], tuple[type[Message], ...]] = {
    Run: (Ran,),
    Put: (Placed, Done),
    Get: (Value,),
    Give: (Placed, Done),
    Point: (Placed, Done),
    Fetch: (Placed, Done),
    Retire: (Done,),
    Retain: (Done,),
    Confirm: (Done,),
    Release: (Done,),
    Describe: (Done,),
    Search: (Found,),
    List: (Found,),
    Seed: (Done,),
    Clear: (Done,),
    Expect: (Done,),
    Delegate: (Delegated,),
    Introduce: (Done,),
    Ask: (Asked,),
    Inquire: (Asked,),
    Collect: (Value,),
    Withdraw: (Done,),
    Reply: (Done,),
}
