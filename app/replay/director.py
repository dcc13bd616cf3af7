"""Gives the user's side its cues: watches the event log and performs each line of the script when its time has come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from app import events as ev
from app.ports import Clock, Emit
from app.replay.cues import At
from app.replay.moments import Moments
from app.replay.moments import UserSound as UserSound
from app.replay.script import Line, Script

# How long nothing must happen until the dialogue is over: longer than any silence that ends a turn, and a decode.
QUIET_S = 2.0
# What a line and the reply to it may take at most; a dialogue that lasts longer hangs.
_LINE_LIMIT_S = 60.0


Perform = Callable[[Line], UserSound]
"""Makes a line sound from now on; tells when it really starts and ends."""


class Director:
    """Performs a script. It is a sink of the session's events, and `run` is its task.

    Args:
        script: What to perform.
        clock: The session's clock.
        perform: Makes a line sound, or breaks what it says.
        idle: Whether neither side is doing anything; asked on the event loop.
        press: Takes what the user asks for by key or by text. Not needed where no line does.
    """

    def __init__(
        self, script: Script, clock: Clock, perform: Perform, idle: Callable[[], bool], press: Emit | None = None
    ) -> None:
        self._clock = clock
        self._perform = perform
        self._idle = idle
        self._press = press
        self._waiting = list(script.lines)
        self._speech = script.speech()
        last_at_s = max((line.cue.at_s for line in script.lines if isinstance(line.cue, At)), default=0.0)
        self._limit_s = last_at_s + _LINE_LIMIT_S * (1 + len(script.lines))
        self._moments = Moments()
        self._busy: set[int] = set()
        self._last_s = 0.0
        self._happened = asyncio.Event()
        self._opened = asyncio.Event()
        self.sounds: list[UserSound] = []
        """What was performed so far, in order of time."""
        self.faults: list[UserSound] = []
        """What was broken so far, and when."""
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
                    self._do(line)
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
        return max([self._last_s, *(sound.end_s for sound in [*self.sounds, *self.faults])]) + QUIET_S

    def _due_s(self, line: Line) -> float | None:
        """When a line is due; None while that is not known."""
        if line.take_up is not None and self._moments.boundary(line.take_up) is None:
            return None
        return self._moments.of(line.cue, self._speech, self.sounds)

    def _do(self, line: Line) -> None:
        asked = line.ask
        if line.take_up is not None and (boundary := self._moments.boundary(line.take_up)) is not None:
            asked = ev.BranchChosen(boundary=boundary)
        if asked is not None:
            assert self._press is not None, "somebody takes what is asked for"
            self._press(asked)
            return
        (self.faults if line.fault else self.sounds).append(self._perform(line))

    def _note(self, event: ev.Event) -> None:
        self._moments.feed(event)
        match event:
            case ev.SessionOpened():
                self._opened.set()
            case ev.TurnCommitted() | ev.CheckedIn():
                self._busy.add(event.branch)
            case ev.ReplyCommitted() | ev.ReplyFailed():
                self._busy.discard(event.branch)
            case ev.RolledBack() if event.boundary.startswith("A"):
                self._busy.discard(event.branch)
            case _:
                pass
