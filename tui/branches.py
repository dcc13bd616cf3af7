"""The branches that the conversation left and that can be taken up again: a fold of events."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from app import events as ev

_KEPT = 64
_SHOWN_CHARACTERS = 60

Key = TypeVar("Key")
Value = TypeVar("Value")


class Branch(NamedTuple):
    """Where an abandoned branch ended."""

    boundary: int
    """Serial number of its last boundary A."""
    text: str
    """What was said last: the user's turn and what was heard of the answer."""


class Branches:
    """Takes events in, and lists what was left, newest first."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._answers: dict[int | None, int] = {}
        """A turn's boundary U to the newest A that followed it."""
        self._asked: dict[int, str] = {}
        """The newest turn of the user in the order of boundaries, by its number."""
        self._left: dict[int, Branch] = {}

    def feed(self, event: ev.Event) -> None:
        """Take an event in."""
        match event:
            case ev.BoundaryTaken() if event.name.startswith("U"):
                self._asked[event.turn] = event.text
            case ev.BoundaryTaken() if event.name.startswith("A"):
                self._texts[event.boundary] = _short(f"{self._asked.get(event.turn, '')} / {event.text}")
                replaced = self._answers.get(event.parent)
                if replaced is not None:
                    self._leave(replaced)
                self._answers[event.parent] = event.boundary
                self._texts, self._asked = _newest(self._texts), _newest(self._asked)
                self._answers = _newest(self._answers)
            case ev.Moved():
                self._left.pop(event.boundary, None)
                self._leave(event.left)
            case ev.ContextTrimmed():
                self._left.clear()
            case _:
                pass

    def _leave(self, boundary: int) -> None:
        if boundary in self._texts:
            self._left[boundary] = Branch(boundary, self._texts[boundary])
            self._left = _newest(self._left)

    def abandoned(self) -> list[Branch]:
        """What can be taken up, newest first."""
        return list(reversed(self._left.values()))


def _newest(known: dict[Key, Value]) -> dict[Key, Value]:
    return dict(list(known.items())[-_KEPT:])


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
