"""Whether something may leave a room: a decision without I/O, no by default.

What leaves a room can be any function of everything in it. So a release is judged by the policies of
*all* private data that entered the room, whatever the value is said to be; one that says no is enough.
Where nothing private entered, all is the caller's own and may leave.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from .. import limits

Name = Annotated[str, msgspec.Meta(max_length=limits.MAX_NODE_NAME_LENGTH, pattern=rf"\A{limits.NODE_NAME}\Z")]
User = Annotated[str, msgspec.Meta(max_length=limits.MAX_NODE_NAME_LENGTH, pattern=rf"\A(?:\*|{limits.NODE_NAME})\Z")]
Users = Annotated[tuple[User, ...], msgspec.Meta(max_length=limits.MAX_USERS)]

ANYONE: Final = "*"


class Movement(StrEnum):
    """How results arrive at another worker."""

    OPEN = "open"  # as objects that the caller computes with there; they bring their policies along
    SEALED = "sealed"  # for vetted aggregates only


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the owner of one data set allows. It travels with the data; what is not named is denied.

    ``use``, ``get`` and ``shapes`` name users, ``"*"`` stands for anyone with a valid certificate:
    who may compute with the data, get results, and see shapes that depend on values (who may get may
    see them too). ``move`` names workers and how results may arrive there; open includes sealed. To
    the owner's own worker they may always return.
    """

    owner: Name
    data: Name
    use: Users = ()
    get: Users = ()
    move: Annotated[dict[Name, Movement], msgspec.Meta(max_length=limits.MAX_USERS)] = {}
    shapes: Users = ()

    def __hash__(self) -> int:
        return hash((self.owner, self.data, self.use, self.get, self.shapes, tuple(sorted(self.move))))

    @property
    def name(self) -> str:
        """The data set, with its owner: owner/data."""
        return f"{self.owner}/{self.data}"

    def lets_use(self, user: str) -> bool:
        """Tell whether this data may enter a room of ``user``."""
        return _among(user, self.use)


#: Of what comes from another node, or is already in a room.
Policies = Annotated[tuple[Policy, ...], msgspec.Meta(max_length=limits.MAX_POLICIES)]


class ToCaller(msgspec.Struct, frozen=True, tag="get"):
    """The values of an object, be it one number, go to the caller: a get."""

    object: int


class ToWorker(msgspec.Struct, frozen=True, tag="move"):
    """An object goes to the worker ``to``: a move."""

    object: int
    to: Name
    how: Movement


class ShapeToCaller(msgspec.Struct, frozen=True, tag="shape"):
    """The caller learns a shape that depends on values."""


Release = ToCaller | ToWorker | ShapeToCaller


class Approval(msgspec.Struct, frozen=True):
    """An owner's yes, by hand, to a request of ``user`` for one object of one room.

    It is for the value as it was when the request was made: a caller can write anything into the
    object afterwards. So whoever releases on an approval gives the value kept with the request, never
    what the room holds by then, nor does it compare the two.
    """

    request: str
    owner: Name
    user: Name
    room: str
    object: int


class Decision(msgspec.Struct, frozen=True):
    """The answer: whether, why, by which policies, and on which approved request it rests, if on one."""

    allowed: bool
    reason: str
    policies: tuple[str, ...] = ()
    request: str = ""


def judge(
    release: Release, user: str, room: str, entered: Collection[Policy], approvals: Iterable[Approval] = ()
) -> Decision:
    """Decide whether ``release`` may leave the ``room`` of ``user``.

    Args:
        entered: the policies of all private data that ever entered the room.
        approvals: what owners said yes to by hand. Each counts for its owner's data only; where it
            takes several owners, all have to approve the same request, and so the same value.
    """
    policies = sorted(entered, key=lambda policy: policy.name)
    names = tuple(dict.fromkeys(policy.name for policy in policies))
    if not policies:
        return Decision(True, "nothing private entered the room", names)
    refusals = [(policy, refusal) for policy in policies if (refusal := _refusal(policy, release, user))]
    if not refusals:
        return Decision(True, "every policy allows it", names)
    owners = {policy.owner for policy, _ in refusals}
    if all(policy.lets_use(user) for policy, _ in refusals):
        for request, approved_by in _approved(approvals, release, user, room).items():
            if owners <= approved_by:
                return Decision(True, f"approved by hand: {request}", names, request)
    policy, refusal = refusals[0]
    return Decision(False, f"{policy.name}: {refusal}", names)


def owners_to_ask(user: str, entered: Collection[Policy]) -> set[str]:
    """Return the owners who all have to say yes by hand before ``user`` gets a value of such a room."""
    return {policy.owner for policy in entered if _refusal(policy, ToCaller(0), user)}


def _approved(approvals: Iterable[Approval], release: Release, user: str, room: str) -> dict[str, set[str]]:
    """Return the requests that are for this release, the latest first, and the owners who approved each."""
    owners: dict[str, set[str]] = {}
    if isinstance(release, ToCaller):
        for approval in reversed(list(approvals)):
            if (approval.user, approval.room, approval.object) == (user, room, release.object):
                owners.setdefault(approval.request, set()).add(approval.owner)
    return owners


def _refusal(policy: Policy, release: Release, user: str) -> str:
    """Return why ``policy`` refuses, or nothing."""
    if not policy.lets_use(user):
        return f"{user} may not use it"
    match release:
        case ToCaller():
            return "" if _among(user, policy.get) else f"{user} may not get results"
        case ShapeToCaller():
            seen = _among(user, policy.get) or _among(user, policy.shapes)
            return "" if seen else f"{user} may not see shapes that depend on values"
        case ToWorker(to=to) if to == policy.owner:
            return ""  # it goes home
        case ToWorker(to=to, how=how):
            allowed = policy.move.get(to)
            if allowed is None:
                return f"results may not move to {to}"
            return "" if how in (allowed, Movement.SEALED) else f"results may move to {to} only sealed"


def _among(user: str, users: Users) -> bool:
    return user in users or ANYONE in users
