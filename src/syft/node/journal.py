"""A file of JSON lines that only grows, written by several processes, safe under a kill at any moment.

A line is one ``write`` at the end of the file, under a lock. What a kill or a full disk cut off stays
as it is: the next line begins on a new line, and readers step over the torn one. What nobody needs any more
goes when the file is written anew, under a first line of its own, by which readers know that it has been.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import msgspec

from ..errors import AuditFailed

_PRIVATE_FILE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO

_SHORTENED = b'{"shortened":'  # so begins a file that was written anew
_HEAD_BYTES = 64  # of a first line, which tell a file that was written anew from all before it

Line = TypeVar("Line", bound=msgspec.Struct)


class Torn(NamedTuple):
    """A line that is not whole: what it said is lost. ``number`` counts from 1."""

    number: int


class Place(NamedTuple):
    """How far a journal has been read: the file that begins with ``head``, up to the byte ``end``."""

    head: bytes = b""
    end: int = 0


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
        with self._locked() as fd:
            self._write(fd, content, lasting)

    def shorten(self, keep: Callable[[Line], bool]) -> None:
        """Write the file anew, with the whole lines that ``keep`` wants; a kill leaves all of one or of the other.

        Raises AuditFailed; then it is as it was.
        """
        draft = self.path.with_name(f"{self.path.name}.draft")
        with self._locked() as fd:
            with os.fdopen(fd, "rb", closefd=False) as file:
                lines = [text.rstrip(b"\n") for text in file if self._is_wanted(text, keep)]
            head = _SHORTENED + b'"%s"}' % secrets.token_hex(16).encode()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(draft, flags, _PRIVATE_FILE), "wb") as file:
                file.write(b"\n".join([head, *lines, b""]))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
            sync_folder(self.path.parent)

    def _is_wanted(self, text: bytes, keep: Callable[[Line], bool]) -> bool:
        line = self._parsed(text, 0)
        return not isinstance(line, Torn) and keep(line)

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the file while nobody else writes it. Raises AuditFailed, also for what is done with it."""
        try:
            while True:
                fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, _PRIVATE_FILE)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX)
                    if self._is_current(fd):  # else another has written it anew, which makes that the one to open
                        yield fd
                        return
                finally:
                    os.close(fd)
        except OSError as error:
            raise self._failed(error) from error

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

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
                    if not text.startswith(_SHORTENED):
                        yield self._parsed(text, number)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed(error) from error

    def read_on(self, place: Place) -> tuple[list[Line], Place]:
        """Return the whole lines from ``place`` on, and the place after them; of another ``head``, all that there are.

        A last line without an end may still be in writing: it is left for the next time. Raises AuditFailed:
        the file is not the one read before, and has not been shortened either.
        """
        try:
            with self.path.open("rb") as file:
                head = file.read(len(place.head))
                if head != place.head and head.startswith(_SHORTENED):
                    place = Place()
                elif head != place.head or file.seek(0, os.SEEK_END) < place.end:
                    raise AuditFailed(f"{self.path} has become shorter", mend="Start anew; it may only grow.")
                file.seek(place.end)
                text = file.read()
        except FileNotFoundError:
            return [], place
        except OSError as error:
            raise self._failed(error) from error
        whole = text[: text.rfind(b"\n") + 1]
        parsed = (self._parsed(line, 0) for line in whole.split(b"\n")[:-1])
        first = whole[: whole.find(b"\n") + 1][:_HEAD_BYTES]
        after = Place(place.head or first, place.end + len(whole))
        return [line for line in parsed if not isinstance(line, Torn)], after

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
