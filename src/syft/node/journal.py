"""A file of JSON lines that only grows, written by several processes, safe under a kill at any moment.

A line is one ``write`` at the end of the file, under a lock. What a kill or a full disk cut off stays
as it is: the next line begins on a new line, and readers step over the torn one.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from ..errors import AuditFailed

_PRIVATE_FILE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

Line = TypeVar("Line", bound=msgspec.Struct)


class Torn(NamedTuple):
    """A line that is not whole: what it said is lost. ``number`` counts from 1."""

    number: int


class Journal(Generic[Line]):
    """Lines of one type, or of several that their tags tell apart, in the file ``path``.

    The file is opened anew for each line, so that it may be moved away (rotated) at any time.
    """

    def __init__(self, path: Path, decoder: msgspec.json.Decoder[Line]) -> None:
        self.path = path
        self._decoder = decoder

    def append(self, line: Line, *, lasting: bool) -> None:
        """Write one line; with ``lasting`` return only when it would survive a power cut.

        Raises AuditFailed; then what was to be noted must not happen.
        """
        content = msgspec.json.encode(line) + b"\n"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE_FILE)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                self._write(fd, content, lasting)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._failed(error) from error

    def _write(self, fd: int, content: bytes, lasting: bool) -> None:
        state = os.fstat(fd)
        if not stat.S_ISREG(state.st_mode) or state.st_mode & _OTHERS:
            raise AuditFailed(
                f"{self.path} is not a file that only its owner can read", mend=f"Run: chmod 600 {self.path}"
            )
        if state.st_size and os.pread(fd, 1, state.st_size - 1) != b"\n":
            content = b"\n" + content
        written = os.write(fd, content)
        if written != len(content):
            raise AuditFailed(f"{self.path} took only {written} of {len(content)} bytes", mend="Make room on the disk.")
        if lasting:
            os.fsync(fd)
        if not state.st_size:
            sync_folder(self.path.parent)

    def read(self) -> Iterator[Line | Torn]:
        """Yield all lines, oldest first. A file that is not there has none.

        Raises AuditFailed: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                for number, text in enumerate(file, 1):
                    yield self._parsed(text, number)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from error

    def read_on(self, start: int) -> tuple[list[Line], int]:
        """Return the whole lines from byte ``start`` on, and the byte after them.

        A last line without an end may still be in writing: it is left for the next time. A file that
        is shorter than ``start`` is not the one read before. Raises AuditFailed.
        """
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < start:
                    raise AuditFailed(f"{self.path} has become shorter", mend="Start anew; it may only grow.")
                file.seek(start)
                text = file.read()
        except FileNotFoundError:
            return [], start
        except OSError as error:
            raise self._failed(error) from error
        whole = text[: text.rfind(b"\n") + 1]
        parsed = (self._parsed(line, 0) for line in whole.split(b"\n")[:-1])
        return [line for line in parsed if not isinstance(line, Torn)], start + len(whole)

    def _parsed(self, text: bytes, number: int) -> Line | Torn:
        try:
            return self._decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Torn(number)

    def _failed(self, error: OSError) -> AuditFailed:
        return AuditFailed(f"{self.path}: {error.strerror}", mend="Nothing is released until it can be written.")


def sync_folder(folder: Path) -> None:
    """Make the names of files in ``folder`` survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
