"""Gives the user's side its cues: watches the event log and performs each line of the script when its time has come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from app import events as ev
from app.ports import Clock
from app.replay.script import AfterHeard, AfterReply, AfterTurn, At, Line, Script

# How long nothing must happen until the dialogue is over: longer than any silence that ends a turn, and a decode.
QUIET_S = 2.0
# What a line and the reply to it may take at most; a dialogue that lasts longer hangs.
_LINE_LIMIT_S = 60.0


class UserSound(NamedTuple):
    """A line of the script as it was performed; its true first and last audible sample, s on the session clock."""

    line: Line
    start_s: float
    end_s: float


Perform = Callable[[Line], UserSound]
"""Makes a line sound from now on; tells when it really starts and ends."""


@dataclass(slots=True)
class _Reply:
    """A reply that became audible."""

    branch: int
    words: int = 0
    heard_at_s: dict[int, float] = field(default_factory=dict[int, float])
    """Word count to when it was reached first."""
    silent_s: float | None = None
    ended_s: float | None = None


class Director:
    """Performs a script. It is a sink of the session's events, and `run` is its task.

    Args:
        script: What to perform.
        clock: The session's clock.
        perform: Makes a line sound.
        idle: Whether neither side is doing anything; asked on the event loop.
    """

    def __init__(self, script: Script, clock: Clock, perform: Perform, idle: Callable[[], bool]) -> None:
        self._clock = clock
        self._perform = perform
        self._idle = idle
        self._waiting = list(script.lines)
        self._speech = script.speech()
        last_at_s = max((line.cue.at_s for line in script.lines if isinstance(line.cue, At)), default=0.0)
        self._limit_s = last_at_s + _LINE_LIMIT_S * (1 + len(script.lines))
        self._replies: list[_Reply] = []
        self._busy: set[int] = set()
        self._last_s = 0.0
        self._happened = asyncio.Event()
        self._opened = asyncio.Event()
        self.sounds: list[UserSound] = []
        """What was performed so far, in order of time."""
        self.hung = False
        """The dialogue had to be ended because it would not end by itself."""

    @property
    def unspoken(self) -> list[Line]:
        """Lines whose cue has not come."""
        return list(self._waiting)

    def __call__(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        if isinstance(event, ev.LevelsMeasured):
            return
        self._note(event)
        self._last_s = event.t_s
        self._happened.set()

    async def run(self) -> None:
        """Perform all lines once the session is open; return when the dialogue is over."""
        await self._opened.wait()
        while True:
            now_s = self._clock.now_s()
            dues = [(due_s, line) for line in self._waiting if (due_s := self._due_s(line)) is not None]
            for due_s, line in dues:
                if due_s <= now_s:
                    self._waiting.remove(line)
                    self.sounds.append(self._perform(line))
            wake_s = min([due_s for due_s, _ in dues if due_s > now_s], default=None)
            if wake_s is None:
                wake_s = self._over_s()
                if wake_s <= now_s and self._idle() and not self._busy:
                    return
            if now_s >= self._limit_s:
                self.hung = True
                return
            await self._pause(now_s, wake_s)

    async def _pause(self, now_s: float, wake_s: float) -> None:
        """Sleep until something happens, or `wake_s`; a cue that is late by a microsecond does not spin."""
        self._happened.clear()
        longest_s = max(self._limit_s - now_s, 0.001)
        wait_s = min(max(wake_s - now_s, 0.001), longest_s) if wake_s > now_s else longest_s
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._happened.wait()

    def _over_s(self) -> float:
        return max([self._last_s, *(sound.end_s for sound in self.sounds)]) + QUIET_S

    def _due_s(self, line: Line) -> float | None:
        """When a line is due; None while that is not known."""
        match line.cue:
            case At(at_s):
                return at_s
            case AfterTurn(turn, end_s):
                wanted = self._speech[turn - 1]
                return next((sound.end_s + end_s for sound in self.sounds if sound.line is wanted), None)
            case AfterHeard(reply, words):
                return self._replies[reply - 1].heard_at_s.get(words) if reply <= len(self._replies) else None
            case AfterReply(reply, end_s):
                ended_s = self._replies[reply - 1].ended_s if reply <= len(self._replies) else None
                return None if ended_s is None else ended_s + end_s

    def _note(self, event: ev.Event) -> None:
        match event:
            case ev.SessionOpened():
                self._opened.set()
            case ev.TurnCommitted():
                self._busy.add(event.branch)
            case ev.PlayoutStarted():
                self._replies.append(_Reply(event.branch, heard_at_s={0: event.at_s}))
            case ev.WordHeard():
                reply = self._reply(event.branch)
                for words in range(reply.words + 1, event.words + 1):
                    reply.heard_at_s.setdefault(words, event.at_s)
                reply.words = max(reply.words, event.words)
            case ev.OutputHeld() | ev.PlayoutFinished():
                for reply in self._of(event.branch):
                    reply.silent_s = event.at_s
            case ev.ReplyCommitted() | ev.RolledBack() | ev.ReplyFailed():
                for reply in self._of(event.branch):
                    reply.ended_s = event.t_s if reply.silent_s is None else reply.silent_s
                if not isinstance(event, ev.RolledBack) or event.boundary.startswith("A"):
                    self._busy.discard(event.branch)
            case _:
                pass

    def _of(self, branch: int) -> list[_Reply]:
        return [reply for reply in self._replies if reply.branch == branch]

    def _reply(self, branch: int) -> _Reply:
        return self._of(branch)[0]
