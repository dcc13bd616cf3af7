"""What the user asks for by key, by text or through a socket. Part of the log; app/events.py gathers all events."""

from __future__ import annotations

from app.decisions import Mode
from app.fact import Fact


class TextTyped(Fact, frozen=True, tag=True, kw_only=True):
    """The user typed a turn instead of saying it."""

    text: str


class StopPressed(Fact, frozen=True, tag=True, kw_only=True):
    """The user pressed the stop key: be quiet now, and wait."""


class GoOnPressed(Fact, frozen=True, tag=True, kw_only=True):
    """The user wants to hear the rest of the reply that was cut off last."""


class UndoPressed(Fact, frozen=True, tag=True, kw_only=True):
    """The user takes the last exchange back."""


class RegeneratePressed(Fact, frozen=True, tag=True, kw_only=True):
    """The user wants another answer to the last turn."""


class BranchChosen(Fact, frozen=True, tag=True, kw_only=True):
    """The user takes up an abandoned branch where it ended."""

    boundary: int
    """Serial number of a boundary A."""


class TalkPressed(Fact, frozen=True, tag=True, kw_only=True):
    """The talk key went down: the user has the word, whatever the agent does."""


class TalkReleased(Fact, frozen=True, tag=True, kw_only=True):
    """The talk key came up: the turn is over."""


class ModeChosen(Fact, frozen=True, tag=True, kw_only=True):
    """The user chose how microphone and loudspeaker share the air."""

    mode: Mode
