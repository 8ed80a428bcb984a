"""The audit log: every release and its answer, and how it is read."""

from __future__ import annotations

import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from syft import limits
from syft.errors import AuditFailed
from syft.node.audit import AuditLog, Entry, Wanted
from syft.node.journal import Torn
from syft.node.release import Approval, Movement, Policy, ShapeToCaller, ToCaller, ToWorker, judge

pytestmark = pytest.mark.in_process

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
heart = Policy("bob", "heart", use=("*",), get=("carol",), move={"agg": Movement.SEALED})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def log(path: Path) -> AuditLog:
    return AuditLog(path)


def entry(hour: int, client: str, *, allowed: bool = True, to: str = "", data: str = "bob/heart") -> Entry:
    time = NOON + timedelta(hours=hour)
    return Entry(time, client, "move" if to else "get", allowed, "why", f"room-{client}", 1, to, policies=(data,))


def test_a_release_and_its_answer_are_one_line(log: AuditLog, path: Path) -> None:
    for release in (ToCaller(5), ToWorker(6, "agg", Movement.SEALED), ShapeToCaller()):
        log.note("dave", "room-1", release, judge(release, "dave", "room-1", [heart]))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(
        abs(datetime.fromisoformat(line.pop("time")) - datetime.now(UTC)) < timedelta(minutes=1) for line in lines
    )
    common = {"client": "dave", "room": "room-1", "policies": ["bob/heart"]}
    refusal = "bob/heart: dave may not "
    shape = "see shapes that depend on values"
    assert lines == [
        {**common, "what": "get", "object": 5, "to": "dave", "allowed": False, "reason": f"{refusal}get results"},
        {
            **common, "what": "move", "object": 6, "to": "agg", "sealed": True,
            "allowed": True, "reason": "every policy allows it",
        },
        {**common, "what": "shape", "to": "dave", "allowed": False, "reason": refusal + shape},
    ]  # fmt: skip


def test_a_release_on_an_approval_names_the_request(log: AuditLog) -> None:
    decision = judge(ToCaller(5), "dave", "room-1", [heart], [Approval("r1", "bob", "dave", "room-1", 5)])
    log.note("dave", "room-1", ToCaller(5), decision)
    (only,) = log.read()
    assert isinstance(only, Entry) and only.request == "r1" and only.allowed


def test_what_leaves_of_private_data_is_on_the_disk_first(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(entry(0, "carol"))
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    log.note("dave", "room-1", ToCaller(5), judge(ToCaller(5), "dave", "room-1", [heart]))
    log.note("dave", "room-1", ToCaller(5), judge(ToCaller(5), "dave", "room-1", []))
    assert len(synced) == 0
    log.note("carol", "room-2", ToCaller(5), judge(ToCaller(5), "carol", "room-2", [heart]))
    assert len(synced) == 1
    assert len(list(log.read())) == 4


def test_a_log_that_cannot_be_written_is_an_error(log: AuditLog, path: Path) -> None:
    path.mkdir()
    for entered in ([heart], []):
        with pytest.raises(AuditFailed, match=r"audit\.jsonl"):
            log.note("carol", "room-1", ToCaller(5), judge(ToCaller(5), "carol", "room-1", entered))


class Waits(list[float]):
    """An event that is waited for in no time: a list of for how long."""

    wait = list[float].append


def test_a_client_has_so_many_entries_written_and_then_waits(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUDIT_BURST", 3)
    monkeypatch.setattr(limits, "AUDIT_RATE", 2)
    clock, waits = [100.0], Waits()
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for seconds, client in [*[(0.0, "dave")] * 5, (0.0, "carol"), (1.0, "dave"), (9.0, "dave")]:
        clock[0] += seconds
        log.append(entry(0, client), cast(threading.Event, waits))
    log.note("dave", "room-1", ToCaller(5), judge(ToCaller(5), "dave", "room-1", []), cast(threading.Event, waits))
    assert waits == [0, 0, 0, 0.5, 1, 0, 0.5, 0, 0]
    assert len(list(log.read())) == len(waits)


ENTRIES = [
    entry(0, "carol"),
    entry(1, "dave", allowed=False),
    entry(2, "carol", to="agg", data="bob/lung"),
    entry(3, "eve", allowed=False, data="alice/heart"),
]


@pytest.mark.parametrize(
    ("wanted", "hours"),
    [
        (Wanted(), [0, 1, 2, 3]),
        (Wanted(client="carol"), [0, 2]),
        (Wanted(room="room-dave"), [1]),
        (Wanted(what="get"), [0, 1, 3]),
        (Wanted(to="agg"), [2]),
        (Wanted(data="bob/heart"), [0, 1]),
        (Wanted(data="heart"), [0, 1, 3]),
        (Wanted(data="bob"), []),
        (Wanted(allowed=False), [1, 3]),
        (Wanted(since=NOON + timedelta(hours=1), until=NOON + timedelta(hours=3)), [1, 2]),
        (Wanted(client="carol", what="get"), [0]),
        (Wanted(client="nobody"), []),
    ],
)
def test_filters(log: AuditLog, wanted: Wanted, hours: list[int]) -> None:
    for each in ENTRIES:
        log.append(each)
    assert list(log.read(wanted)) == [ENTRIES[hour] for hour in hours]


def test_torn_lines_are_shown_whatever_is_wanted(log: AuditLog, path: Path) -> None:
    log.append(ENTRIES[0])
    with path.open("ab") as file:
        file.write(b'{"time":"2030-')
    log.append(ENTRIES[1])
    assert list(log.read(Wanted(client="dave"))) == [Torn(2), ENTRIES[1]]
    assert list(log.read()) == [ENTRIES[0], Torn(2), ENTRIES[1]]
