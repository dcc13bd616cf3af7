"""When the moments that a script names have come: a fold of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from app import events as ev
from app.replay.cues import AfterHeard, AfterReply, AfterTurn, At, Cue
from app.replay.script import Line


class UserSound(NamedTuple):
    """A line of the script as it was performed; its true first and last audible sample, s on the session clock."""

    line: Line
    start_s: float
    end_s: float


@dataclass(slots=True)
class _Reply:
    """A reply that became audible."""

    branch: int
    words: int = 0
    heard_at_s: dict[int, float] = field(default_factory=dict[int, float])
    """Word count to when it was reached first."""
    silent_s: float | None = None
    ended_s: float | None = None
    boundary: int | None = None
    """Where its turn was closed."""


class Moments:
    """Feed it every event; ask it for moments."""

    def __init__(self) -> None:
        self._replies: list[_Reply] = []
        self._newest_boundary = 0

    def feed(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        match event:
            case ev.PlayoutStarted():
                self._replies.append(_Reply(event.branch, heard_at_s={0: event.at_s}))
            case ev.WordHeard():
                for reply in self._of(event.branch):
                    for words in range(reply.words + 1, event.words + 1):
                        reply.heard_at_s.setdefault(words, event.at_s)
                    reply.words = max(reply.words, event.words)
            case ev.OutputHeld() | ev.PlayoutFinished():
                for reply in self._of(event.branch):
                    reply.silent_s = event.at_s
            case ev.BoundaryTaken():
                self._newest_boundary = event.boundary
            case ev.ReplyCommitted() | ev.RolledBack() | ev.ReplyFailed():
                for reply in self._of(event.branch):
                    reply.ended_s = event.t_s if reply.silent_s is None else reply.silent_s
                    if isinstance(event, ev.ReplyCommitted):
                        reply.boundary = self._newest_boundary
            case _:
                pass

    def of(self, cue: Cue, speech: Sequence[Line], sounds: Sequence[UserSound]) -> float | None:
        """When a cue comes, s on the session clock; None while that is not known.

        Args:
            cue: The cue.
            speech: The script's lines of speech.
            sounds: Lines that were performed.
        """
        match cue:
            case At(at_s):
                return at_s
            case AfterTurn(turn, end_s):
                wanted = speech[turn - 1]
                return next((sound.end_s + end_s for sound in sounds if sound.line is wanted), None)
            case AfterHeard(number, words):
                reply = self._nth(number)
                return reply.heard_at_s.get(words) if reply else None
            case AfterReply(number, end_s):
                reply = self._nth(number)
                return reply.ended_s + end_s if reply and reply.ended_s is not None else None

    def boundary(self, reply: int) -> int | None:
        """Serial number of the boundary at the end of the n-th audible reply; None while there is none."""
        found = self._nth(reply)
        return found.boundary if found else None

    def _nth(self, reply: int) -> _Reply | None:
        return self._replies[reply - 1] if reply <= len(self._replies) else None

    def _of(self, branch: int) -> list[_Reply]:
        return [reply for reply in self._replies if reply.branch == branch]
