"""The log of a conversation on disk: one event a line, JSON, in the order they happened.

Lines are written through at once, so that whatever ends the program, every event before the end is there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from app.errors import MachineError, ScriptError
from app.events import Event, LevelsMeasured

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_CREATE = os.O_WRONLY | os.O_CREAT
_LONGEST_LINE_BYTES = 1 << 20


def encode(event: Event) -> bytes:
    """One line, without its end."""
    return _encoder.encode(event)


class Journal:
    """A sink that appends events to a file which only the user can read.

    Attributes:
        path: The file that is written.
    """

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        """
        Args:
            path: The file; its directory is made.
            fresh: Take the first of NAME, NAME-2, NAME-3, ... that is not there; else a file that is there is emptied.

        Raises:
            MachineError: It can't be written. Calls and `close` raise it too.
        """
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._create() if fresh else os.open(path, _CREATE | os.O_TRUNC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error

    def __call__(self, event: Event) -> None:
        """Write an event. Meters are for eyes only and are left out."""
        if not isinstance(event, LevelsMeasured):
            left = memoryview(encode(event) + b"\n")
            try:
                while left:
                    left = left[os.write(self._file, left) :]
            except OSError as error:
                raise self._unwritable(error) from error

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        try:
            os.fsync(self._file)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a terminal, which has no disk
                raise self._unwritable(error) from error
        finally:
            os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _create(self) -> int:
        name = self.path.stem
        for number in itertools.count(2):
            with contextlib.suppress(FileExistsError):
                return os.open(self.path, _CREATE | os.O_EXCL, 0o600)
            self.path = self.path.with_stem(f"{name}-{number}")
        raise AssertionError("numbers never end")

    def _unwritable(self, error: OSError) -> MachineError:
        return MachineError(
            f"the journal {self.path} can't be written",
            str(error),
            "make room, or name another place: `directory` in [journal], or --events",
        )


def read(path: Path) -> Iterator[Event]:
    """The events of a journal, in order; the n-th is on line n.

    A program that is killed may leave the last line without its end. Such a line is passed over.

    Raises:
        ScriptError: A line is not an event; the line number is told.
    """
    try:
        with path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline(_LONGEST_LINE_BYTES)
                if not line:
                    return
                try:
                    yield _decoder.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    if number > 1 and not line.endswith(b"\n") and not file.read(1):
                        return
                    raise ScriptError(
                        f"line {number} of {path} is not an event",
                        str(error),
                        "use a journal of this version of backtalk",
                    ) from error
    except OSError as error:
        raise ScriptError(f"the journal {path} can't be read", str(error), "check the path") from error
