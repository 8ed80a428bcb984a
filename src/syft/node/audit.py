"""What was asked to leave a node, and the answer: one line each, written before anything leaves."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from .. import limits
from ..errors import AuditFailed
from .journal import Journal, Torn
from .release import Decision, Movement, Release, ShapeToCaller, ToWorker


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line: at ``time``, ``client`` asked ``what`` in ``room``, of ``object``, for it to go ``to``.

    ``what`` is a kind of release (get, move, shape) or whatever else was refused (connect, ticket ...);
    ``policies`` are those it was judged by; ``request`` is the approved request that it rests on.
    """

    time: datetime
    client: str
    what: str
    allowed: bool
    reason: str
    room: str = ""
    object: int | None = None
    to: str = ""
    sealed: bool = False
    policies: tuple[str, ...] = ()
    request: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """Which entries a reader wants; None is all. ``data`` is the name of a data set, with or without its owner."""

    client: str | None = None
    room: str | None = None
    what: str | None = None
    to: str | None = None
    data: str | None = None
    allowed: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    def __contains__(self, entry: Entry) -> bool:
        same = ("client", "room", "what", "to", "allowed")
        return (
            all(getattr(self, name) in (None, getattr(entry, name)) for name in same)
            and (self.data is None or any(self.data in (name, name.partition("/")[2]) for name in entry.policies))
            and (self.since is None or self.since <= entry.time)
            and (self.until is None or entry.time < self.until)
        )


EVERYTHING: Final = Wanted()

_NEVER: Final = threading.Event()


class Pace:
    """How fast each client may have entries written: a token bucket, as the generic cell rate algorithm keeps it.

    Algorithm: ITU-T I.371, virtual scheduling.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full: dict[str, float] = {}  # when a client's bucket will be full again, if it asks for nothing

    def owed(self, client: str) -> float:
        """Take a token of the client's; return for how many seconds it has to wait, which is 0 while some are left.

        Who waits keeps a thread, of which a client has only so many: so it is never long.
        """
        now = time.monotonic()
        with self._lock:
            full = self._full[client] = max(now, self._full.get(client, now)) + 1 / limits.AUDIT_RATE
        return max(0.0, full - now - limits.AUDIT_BURST / limits.AUDIT_RATE)


class AuditLog:
    """The audit log in the file ``path``: it only grows, and only its owner can read it.

    Attributes:
        failures: entries that it could not take since it was opened.
    """

    def __init__(self, path: Path) -> None:
        self._journal = Journal(path, msgspec.json.Decoder(Entry))
        self._pace = Pace()
        self._counts = threading.Lock()
        self._counted: Counter[tuple[str, bool]] = Counter()
        self.failures = 0

    def note(
        self, client: str, room: str, release: Release, decision: Decision, ended: threading.Event = _NEVER
    ) -> None:
        """Write down a release and its answer; to be called before anything leaves.

        When this returns, an allowed release from a room that private data entered would survive a power
        cut, and all else a kill of this process.

        It waits as :meth:`append` does. Raises AuditFailed: it could not be written, so nothing may leave.
        """
        self.append(
            Entry(
                time=datetime.now(UTC),
                client=client,
                what=str(release.__struct_config__.tag),
                allowed=decision.allowed,
                reason=decision.reason,
                room=room,
                object=None if isinstance(release, ShapeToCaller) else release.object,
                to=release.to if isinstance(release, ToWorker) else client,
                sealed=isinstance(release, ToWorker) and release.how is Movement.SEALED,
                policies=decision.policies,
                request=decision.request,
            ),
            ended,
        )

    def append(self, entry: Entry, ended: threading.Event = _NEVER) -> None:
        """Write down any entry, when its client's turn has come, or ``ended`` is set. Raises AuditFailed."""
        ended.wait(self._pace.owed(entry.client))
        try:
            self._journal.append(entry, lasting=entry.allowed and bool(entry.policies))
        except AuditFailed:
            with self._counts:
                self.failures += 1
            raise
        with self._counts:
            self._counted[entry.what, entry.allowed] += 1

    def counted(self) -> dict[tuple[str, bool], int]:
        """Return how many entries of each kind and answer this process has written."""
        with self._counts:
            return dict(self._counted)

    def read(self, wanted: Wanted = EVERYTHING) -> Iterator[Entry | Torn]:
        """Yield the wanted entries, oldest first, and every line that a kill or a full disk cut off.

        Texts in entries come from clients: whoever shows them on a terminal takes control characters
        out. Raises AuditFailed: the file cannot be read.
        """
        return (line for line in self._journal.read() if isinstance(line, Torn) or line in wanted)
