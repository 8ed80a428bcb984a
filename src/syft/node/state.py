"""What a node goes by when it decides: its owner's data and limits, the audit log, requests; and its status."""

from __future__ import annotations

import fcntl
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import msgspec

from .. import limits
from ..errors import AuditFailed, BadConfig, Misuse
from .audit import AuditLog
from .config import Config
from .data import Offer
from .requests import Requests
from .walls import standing

_AUDIT, _STATUS, _LOCK = "audit.jsonl", "status.json", "node.lock"
_PRIVATE_FOLDER = 0o700


class Tenant(msgspec.Struct, frozen=True):
    """One client's room: its process (0: elsewhere), since when, and the private data that entered it, owner/data."""

    room: str
    client: str
    pid: int
    place: str
    since: datetime
    entered: tuple[str, ...]


class Status(msgspec.Struct, frozen=True):
    """What a node is doing, as its owner's commands read it."""

    worker: str
    pid: int
    address: str
    since: datetime
    offers: tuple[str, ...]
    walls: tuple[str, ...]
    tenants: tuple[Tenant, ...]


class NodeState:
    """The owner's papers, in the folder ``config.state``, which only one node uses at a time.

    Raises BadConfig: the folder cannot be made, or another node uses it.
    """

    def __init__(self, config: Config, load: Callable[[Config], list[Offer]]) -> None:
        self.config = config
        self.owner, self.limits = config.owner, config.limits
        self._lock, self._showing = _locked(config.state), threading.Lock()
        self.audit = audit_log(config.state)
        self.requests = Requests(config.state, config.owner)
        self.requests.sweep()
        self.offers = load(config)
        self._failures: Counter[str] = Counter()
        self._address, self._since = "", datetime.now(UTC)

    def tells_failures(self, client: str, more: int = 0) -> bool:
        """Count ``more`` failed calls of a client who may see no shapes; tell whether it may still hear of any."""
        with self._showing:
            self._failures[client] += more
            return self._failures[client] <= limits.FAILURES_TOLD

    def address_of(self, worker: str, told: str) -> str:
        """Return where a worker is dialled; itself, a node dials where it listens. Raises NotPermitted, Misuse."""
        return self._address if worker == self.owner else str(self.config.address_of(worker, told))

    def opened(self, address: str) -> None:
        """Callers may connect at ``address``."""
        self._address = address
        self.show(())

    def show(self, tenants: Iterable[Tenant]) -> None:
        """Have the owner's commands show these rooms. Raises AuditFailed."""
        offers = tuple(offer.name for offer in self.offers)
        status = Status(self.owner, os.getpid(), self._address, self._since, offers, standing(), tuple(tenants))
        path = self.config.state / _STATUS
        draft = path.with_suffix(".draft")
        try:
            with self._showing:
                draft.write_bytes(msgspec.json.encode(status))
                draft.chmod(0o600)
                draft.replace(path)
        except OSError as error:
            raise AuditFailed(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """The node has ended."""
        (self.config.state / _STATUS).unlink(missing_ok=True)
        self._lock.close()


def audit_log(state: Path) -> AuditLog:
    """Return the audit log of the node whose papers are in ``state``."""
    return AuditLog(state / _AUDIT)


def read_status(state: Path) -> Status:
    """Return what the node whose papers are in ``state`` is doing. Raises Misuse: none is."""
    try:
        with (state / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        try:
            return msgspec.json.decode((state / _STATUS).read_bytes(), type=Status)
        except FileNotFoundError:
            raise Misuse("the node is not ready yet", mend="Try again in a moment.") from None
    except FileNotFoundError:
        pass
    raise Misuse(f"no node is running on {state}", mend="Start it: syft serve ...")


def memory_of(pid: int) -> int:
    """Return how many bytes of memory a process has to itself; 0 if it is gone."""
    try:
        _, resident, shared, *_ = Path(f"/proc/{pid}/statm").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def cpu_of(pid: int) -> float:
    """Return how many seconds of processor time a process has used; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _locked(state: Path) -> IO[str]:
    """Make the folder and take hold of it. Raises BadConfig."""
    try:
        state.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
        lock = (state / _LOCK).open("w")
    except OSError as error:
        raise BadConfig(f"the folder {state} cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise BadConfig(f"another node uses {state}", mend="Stop it, or choose another folder: state = ...") from error
    return lock
