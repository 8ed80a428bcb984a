"""Every error syft raises, one tree.

SyftError
├── NotCollocated            operands are not all in one place
├── ObjectGone               the worker has no such object (any more)
├── NotPermitted             the policy of the data says no
│   ├── GetNotPermitted
│   └── SendNotPermitted
├── WorkerNotFound           no worker of that name is known here
├── WorkerShut               the worker has been shut
├── OperatorNotAllowed       the operator is not in the table of operators
├── OperatorFailed           torch refused the operator (shapes, dtypes, indices ...)
│   ├── OperatorIndexFailed  ... also an IndexError
│   └── OperatorValueFailed  ... also a ValueError
├── MalformedMessage         bytes or a message that break the protocol
├── LimitExceeded            a bound of ``syft.limits`` is passed
├── NodeError                what an owner set up does not hold
│   ├── BadCertificate       a certificate or key that is missing, unsafe or not valid
│   ├── BadConfig            a node's config, or a data set it names, is wrong
│   └── AuditFailed          what has to be written down cannot be
└── Misuse                   a call that cannot mean anything, whatever the data
    └── IdInUse              the worker already has an object of that id

Each says what happened, where, and what to do about it.
"""

from __future__ import annotations

import linecache
from pathlib import Path
from typing import ClassVar, NamedTuple, Self


def printable(text: str) -> str:
    """Return a text of another party without what would command a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


class CallSite(NamedTuple):
    """A line of a program."""

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.file, self.number).strip()
        return f"{Path(self.file).name}:{self.number}, in {self.function}" + (f":\n    {source}" if source else "")


class SyftError(Exception):
    """Base of every error of syft.

    ``what`` happened, at which worker (``where``, may be empty) and how to ``mend`` it (may be
    empty); ``code`` is the error's name on the wire. Where the call that failed was made before the
    one that raises, ``asked_at`` is its line; a worker knows it as the number of a message.
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, *, where: str = "", mend: str = "", asked_at: CallSite | int = 0) -> None:
        self.what, self.where, self.mend, self.asked_at = what, where, mend, asked_at
        place = f" (at {where})" if where else ""
        call = f"\nThe call that failed is at {asked_at}" if isinstance(asked_at, CallSite) else ""
        advice = f"\n{mend}" if mend else ""
        super().__init__(f"{what}{place}{call}{advice}")

    def again(self, most: int | None = None) -> Self:
        """Return the same error, to be raised once more; without a traceback, whose frames hold on to operands.

        ``most``: characters of each of its texts, which are cut there.
        """
        return type(self)(self.what[:most], where=self.where[:most], mend=self.mend[:most], asked_at=self.asked_at)


class NotCollocated(SyftError, RuntimeError):
    """The operands of one operator are not all at one worker."""

    code = "not-collocated"


class ObjectGone(SyftError, LookupError):
    """The worker has no object of that id: it was taken, deleted, or never there."""

    code = "object-gone"


class NotPermitted(SyftError, PermissionError):
    """The owner of the data does not allow this."""

    code = "not-permitted"


class GetNotPermitted(NotPermitted):
    """The caller is not among those who may get this value."""

    code = "get-not-permitted"


class SendNotPermitted(NotPermitted):
    """The caller is not among those who may send this value on."""

    code = "send-not-permitted"


class WorkerNotFound(SyftError, LookupError):
    """No worker of that name is known here."""

    code = "worker-not-found"


class WorkerShut(SyftError, ConnectionError):
    """The worker has been shut; its objects are gone."""

    code = "worker-shut"


class OperatorNotAllowed(SyftError, RuntimeError):
    """The operator is not in the table of operators that a worker runs."""

    code = "operator-not-allowed"


class OperatorFailed(SyftError, RuntimeError):
    """Torch refused the operator; in process the text is torch's own."""

    code = "operator-failed"


class OperatorIndexFailed(OperatorFailed, IndexError):
    """Torch refused an index."""

    code = "operator-index-failed"


class OperatorValueFailed(OperatorFailed, ValueError):
    """Torch refused a value."""

    code = "operator-value-failed"


class MalformedMessage(SyftError, ValueError):
    """Bytes or a message that are not of the protocol."""

    code = "malformed-message"


class LimitExceeded(SyftError, ValueError):
    """A bound of :mod:`syft.limits` is passed."""

    code = "limit-exceeded"


class NodeError(SyftError):
    """What the owner of a node, or a person, has set up does not hold."""

    code = "node-error"


class BadCertificate(NodeError):
    """A certificate or key is missing, readable by others, expired, or not of the authority."""

    code = "bad-certificate"


class BadConfig(NodeError, ValueError):
    """A node's config, or a data set that it names, is wrong; the text names file and key."""

    code = "bad-config"


class AuditFailed(NodeError):
    """The audit log, or the list of requests, cannot be written; so nothing is released."""

    code = "audit-failed"


class Misuse(SyftError, ValueError):
    """A call that cannot mean anything, whatever the data."""

    code = "misuse"


class IdInUse(Misuse):
    """The worker already has an object of that id."""

    code = "id-in-use"


def _tree(cls: type[SyftError]) -> list[type[SyftError]]:
    return [cls, *(leaf for child in cls.__subclasses__() for leaf in _tree(child))]


BY_CODE: dict[str, type[SyftError]] = {cls.code: cls for cls in _tree(SyftError)}


def refusal_of(error: Exception, where: str = "") -> OperatorFailed:
    """Return what torch raised when it refused an operator as an error of this tree, in torch's own words."""
    kind = (
        OperatorIndexFailed if isinstance(error, IndexError)
        else OperatorValueFailed if isinstance(error, ValueError)
        else OperatorFailed
    )  # fmt: skip
    return kind(str(error), where=where)
