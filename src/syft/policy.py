"""Who may get or move a value.

A policy is the set of users who may, or None where anyone may. What is computed from several values
may be had only by those who may have all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

from .errors import GetNotPermitted, NotPermitted, SendNotPermitted

Policy = frozenset[str] | None


def join(policies: Iterable[Policy]) -> Policy:
    """Return the policy of something computed from values of these policies."""

    def both(one: Policy, other: Policy) -> Policy:
        return other if one is None else one if other is None else one & other

    return reduce(both, policies, None)


def permit_get(policy: Policy, user: str, where: str) -> None:
    """Raise GetNotPermitted unless ``user`` may get a value of this policy."""
    _permit(policy, user, where, GetNotPermitted, "get")


def permit_send(policy: Policy, user: str, where: str) -> None:
    """Raise SendNotPermitted unless ``user`` may send a value of this policy on."""
    _permit(policy, user, where, SendNotPermitted, "send")


def _permit(policy: Policy, user: str, where: str, error: type[NotPermitted], verb: str) -> None:
    if policy is not None and user not in policy:
        who = f"the user {user!r}" if user else "a caller who names no user"
        raise error(
            f"this value is private, and {who} is not among those who may {verb} it",
            where=where,
            mend=f"Say who asks, x.{verb}(user=...), or ask the owner of the data.",
        )
