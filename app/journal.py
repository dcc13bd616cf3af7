"""The log of a conversation on disk: one event a line, JSON, in the order they happened.

Lines are written through at once, so that whatever ends the program, every event before the end is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import msgspec

from app.errors import MachineError, ScriptError
from app.events import Event, LevelsMeasured

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    """One line, without its end."""
    return _encoder.encode(event)


class Journal:
    """A sink that appends events to a file which only the user can read."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0)
        except OSError as error:
            raise MachineError(
                f"the journal {path} can't be written",
                str(error),
                "name another place: `directory` in [journal], or --events",
            ) from error
        self.path = path

    def __call__(self, event: Event) -> None:
        """Write an event. Meters are for eyes only and are left out."""
        if not isinstance(event, LevelsMeasured):
            self._file.write(encode(event) + b"\n")

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read(path: Path) -> Iterator[Event]:
    """The events of a journal.

    Raises:
        ScriptError: A line is not an event; the line number is told.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ScriptError(f"the journal {path} can't be read", str(error), "check the path") from error
    for number, line in enumerate(lines, 1):
        try:
            yield _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise ScriptError(
                f"line {number} of {path} is not an event", str(error), "use a journal of this version of backtalk"
            ) from error
