"""Journals: what was acknowledged is there, after kills, full disks and rotation."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.json import Decoder

from syft.errors import AuditFailed
from syft.node.journal import Journal, Place, Torn

from ..helpers import until

pytestmark = pytest.mark.in_process


class Note(msgspec.Struct, frozen=True):
    """A line of these tests."""

    number: int
    text: str = ""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.jsonl"


@pytest.fixture
def journal(path: Path) -> Journal[Note]:
    return Journal(path, Decoder(Note))


def filled(journal: Journal[Note], count: int) -> list[Note]:
    notes = [Note(i, f"line\n{i}") for i in range(count)]
    for note in notes:
        journal.append(note, lasting=False)
    return notes


def test_lines_are_read_as_they_were_written(journal: Journal[Note], path: Path) -> None:
    assert list(journal.read()) == []
    notes = filled(journal, 3)
    assert list(journal.read()) == notes
    assert path.read_bytes().count(b"\n") == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["\x1b[2J", "\u2028", "a\r\nb", '"}', "\x00", "é😀"])
def test_no_text_breaks_a_line(journal: Journal[Note], text: str) -> None:
    journal.append(Note(1, text), lasting=False)
    journal.append(Note(2), lasting=False)
    assert list(journal.read()) == [Note(1, text), Note(2)]


def test_every_way_to_cut_the_last_line_is_mended(journal: Journal[Note], path: Path) -> None:
    notes = filled(journal, 2)
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for end in range(start + 1, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert list(journal.read()) == [notes[0], Torn(2)]
        journal.append(Note(9), lasting=True)
        assert list(journal.read()) == [notes[0], Torn(2), Note(9)]
    path.write_bytes(whole[:-1])
    journal.append(Note(9), lasting=False)
    assert list(journal.read()) == [*notes, Note(9)]


@given(st.binary(max_size=300))
def test_no_content_keeps_later_lines_from_being_read(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("journal") / "notes.jsonl"
    path.write_bytes(content)
    path.chmod(0o600)
    journal = Journal(path, Decoder(Note))
    journal.append(Note(1), lasting=False)
    assert list(journal.read())[-1] == Note(1)
    assert journal.read_on(Place())[0][-1] == Note(1)


def test_reading_on_leaves_what_is_still_being_written(journal: Journal[Note], path: Path) -> None:
    assert journal.read_on(Place()) == ([], Place())
    notes = filled(journal, 2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    first, position = journal.read_on(Place())
    assert first == notes[:1]
    path.write_bytes(whole)
    lines, end = journal.read_on(position)
    assert lines == notes[1:] and end.end == len(whole)
    assert journal.read_on(end) == ([], end)
    for other in (b"", whole[:-5], b"x" * 100):
        path.write_bytes(other)
        with pytest.raises(AuditFailed, match="has become shorter"):
            journal.read_on(end)


def test_what_is_taken_out_is_gone_for_all_who_read(journal: Journal[Note], path: Path) -> None:
    notes = filled(journal, 6)
    _, late = journal.read_on(Place())
    with path.open("ab") as file:
        file.write(b"torn")
    for kept in (notes[3:], notes[4:]):
        journal.shorten(lambda note, kept=kept: note in kept)  # type: ignore[misc]
        assert list(journal.read()) == kept and stat.S_IMODE(path.stat().st_mode) == 0o600
        lines, late = journal.read_on(late)
        assert lines == kept
        assert journal.read_on(late) == ([], late)
    journal.append(Note(9), lasting=False)
    assert journal.read_on(late)[0] == [Note(9)]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_anew_stays_as_it_is(
    journal: Journal[Note], path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    filled(journal, 6)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, step, fail)
        with pytest.raises(AuditFailed, match="No space"):
            journal.shorten(lambda note: note.number > 3)
    assert path.read_bytes() == before
    journal.shorten(lambda note: note.number > 3)
    assert [line.number for line in journal.read() if isinstance(line, Note)] == [4, 5]


def test_no_line_is_lost_to_who_writes_the_file_anew(journal: Journal[Note], path: Path) -> None:
    """It waits for the lock of a file that is another's place by then."""
    filled(journal, 1)
    thread = threading.Thread(target=journal.append, args=(Note(7),), kwargs={"lasting": False})
    anew = path.with_suffix(".anew")
    anew.touch(0o600)
    with path.open("ab") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        thread.start()
        waits = rf"-> FLOCK .*:{path.stat().st_ino} "
        until(lambda: re.search(waits, Path("/proc/locks").read_text()) is not None)
        anew.replace(path)
    thread.join()
    assert list(journal.read()) == [Note(7)]


def test_a_file_that_was_moved_away_is_begun_anew(journal: Journal[Note], path: Path) -> None:
    filled(journal, 2)
    path.rename(path.with_suffix(".1"))
    journal.append(Note(7), lasting=True)
    assert list(journal.read()) == [Note(7)]


def test_a_line_waits_for_the_line_of_another_process(journal: Journal[Note], path: Path) -> None:
    filled(journal, 1)
    thread = threading.Thread(target=journal.append, args=(Note(2),), kwargs={"lasting": False})
    with path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and len(list(journal.read())) == 1
    thread.join()
    assert len(list(journal.read())) == 2


WRITER = """
import itertools, sys
from pathlib import Path
from tests.node.test_journal import Decoder, Journal, Note
journal = Journal(Path(sys.argv[1]), Decoder(Note))
for i in itertools.count(int(sys.argv[2])):
    journal.append(Note(i, "x" * 5000), lasting=False)
    print(i, flush=True)
"""


def test_what_was_acknowledged_is_there_after_kill_9(journal: Journal[Note], path: Path) -> None:
    acknowledged: list[int] = []
    for run in range(3):
        command = [sys.executable, "-c", WRITER, str(path), str(run * 1_000_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            seen = [int(writer.stdout.readline()) for _ in range(50)]
            writer.send_signal(signal.SIGKILL)
            acknowledged += seen + [int(line) for line in writer.stdout.read().splitlines()]
    kept = [line.number for line in journal.read() if isinstance(line, Note)]
    assert set(acknowledged) <= set(kept)
    assert kept == sorted(kept) and len(kept) <= len(acknowledged) + 3


def test_many_writers_do_not_disturb_one_another(journal: Journal[Note], path: Path) -> None:
    def write(start: int) -> None:
        own = Journal(path, Decoder(Note))
        for i in range(start, start + 100):
            own.append(Note(i, "y" * 3000), lasting=False)

    threads = [threading.Thread(target=write, args=(k * 100,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [line.number for line in journal.read() if isinstance(line, Note)]
    assert sorted(lines) == list(range(400))
    assert all([n for n in lines if n // 100 == k] == list(range(k * 100, k * 100 + 100)) for k in range(4))


FULL = """
import resource, sys
from pathlib import Path
from syft.errors import AuditFailed
from tests.node.test_journal import Decoder, Journal, Note
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
journal = Journal(Path(sys.argv[1]), Decoder(Note))
for i in range(100):
    try:
        journal.append(Note(i, "z" * 90), lasting=False)
    except AuditFailed as error:
        print(i, error.what.split(": ")[-1])
"""


def test_a_full_disk_is_an_error_each_time_and_spoils_nothing(journal: Journal[Note], path: Path) -> None:
    result = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    failed = [int(line.split()[0]) for line in result.stdout.splitlines()]
    assert path.stat().st_size == 1000
    assert failed[0] > 5 and failed == list(range(failed[0], 100))
    assert "took only" in result.stdout and "File too large" in result.stdout
    journal.append(Note(100), lasting=True)
    lines = list(journal.read())
    assert lines == [*(Note(i, "z" * 90) for i in range(failed[0])), Torn(failed[0] + 1), Note(100)]


def test_files_that_cannot_be_written_are_an_error(journal: Journal[Note], path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditFailed, match="Too many levels of symbolic links"):
        journal.append(Note(1), lasting=False)
    path.unlink()
    path.mkdir()
    with pytest.raises(AuditFailed, match="Is a directory"):
        journal.append(Note(1), lasting=False)
    with pytest.raises(AuditFailed, match="Is a directory"):
        list(journal.read())
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(AuditFailed, match="not a file that only its owner can read"):
        journal.append(Note(1), lasting=False)
    with pytest.raises(AuditFailed, match="No such file"):
        Journal(tmp_path / "none" / "notes", Decoder(Note)).append(Note(1), lasting=False)


def test_a_file_that_others_can_read_is_refused(journal: Journal[Note], path: Path) -> None:
    filled(journal, 1)
    path.chmod(0o644)
    with pytest.raises(AuditFailed, match="only its owner can read\nRun: chmod 600"):
        journal.append(Note(2), lasting=False)
    assert len(list(journal.read())) == 1


def test_only_lasting_lines_wait_for_the_disk(journal: Journal[Note], monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
    journal.append(Note(0), lasting=False)
    assert synced == [True]  # a new file's name has to reach the disk, whatever its first line
    journal.append(Note(1), lasting=False)
    assert synced == [True]
    journal.append(Note(2), lasting=True)
    assert synced == [True, False]

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(AuditFailed, match="Input/output error"):
        journal.append(Note(3), lasting=True)
