"""Ears and brain without sound and models, for virtual time: pure coroutines with the times of the real ones.

They are stricter than the real ones: a boundary that is not there, a rollback during a decode, or two replies at once
is an assertion, not a wrong answer. The brain keeps the text that its state holds, so that a test can compare it with
what was heard.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app import events as ev
from app.ports import BoundaryMark, Clock, Emit, RollbackReport
from app.replay.director import UserSound
from app.replay.script import Line


class Times(NamedTuple):
    """How long things take, s; near what the real parts take on two cores."""

    user_word: float = 0.33
    onset_late: float = 0.048
    """Voice activity tells of speech so long after it began,"""
    onset_error: float = 0.016
    """and places its beginning so long after the true one."""
    offset_late: float = 0.080
    offset_error: float = 0.032
    partial: float = 0.15
    final: float = 0.12
    read_word: float = 0.004
    first_token: float = 0.03
    token: float = 0.02
    rollback: float = 0.0002
    synthesis: float = 0.06
    synthesis_word: float = 0.01
    spoken_word: float = 0.30
    clause_pause: float = 0.12
    device: float = 0.04
    block: float = 0.02


class Jitter:
    """Lateness drawn from a seed: each time is stretched by up to `share` of itself. A share of 0 draws nothing."""

    def __init__(self, seed: int, share: float) -> None:
        self._random = np.random.default_rng(seed)
        self._share = share

    def __call__(self, seconds: float) -> float:
        """`seconds`, stretched, in whole microseconds."""
        if self._share == 0:
            return seconds
        return round(seconds * (1 + self._share * float(self._random.random())), 6)


# ---- ears ----


@dataclass(slots=True)
class _Hearing:
    """One sound of the user, and the words in it."""

    start_s: float
    end_s: float
    words: list[str]

    def words_in(self, from_s: float, until_s: float) -> list[str]:
        """Words of which most lies between the two times."""
        step_s = (self.end_s - self.start_s) / max(1, len(self.words))
        middles = [self.start_s + (number + 0.6) * step_s for number in range(len(self.words))]
        return [word for word, middle_s in zip(self.words, middles, strict=True) if from_s <= middle_s <= until_s]


class ScriptedEars:
    """Satisfies `app.ports.Ears`; `perform` satisfies `director.Perform`."""

    def __init__(self, clock: Clock, times: Times, jitter: Jitter) -> None:
        self._clock, self._times, self._jitter = clock, times, jitter
        self._sounds: list[_Hearing] = []
        self._performed: asyncio.Queue[_Hearing] = asyncio.Queue()
        self._talking = 0
        self._utterance = 0
        self._from_s = 0.0
        self._told = ("", "")

    def perform(self, line: Line) -> UserSound:
        """The user makes this sound from now on."""
        heard = (line.hears if line.hears is not None else line.say or "").split()
        seconds = line.seconds or (line.noise.seconds if line.noise else self._times.user_word * max(1, len(heard)))
        start_s = self._clock.now_s()
        sound = _Hearing(start_s, round(start_s + seconds, 6), heard)
        if line.noise is None or line.noise.kind != "white":  # steady noise is nothing to voice activity
            self._sounds.append(sound)
            self._performed.put_nowait(sound)
        return UserSound(line, sound.start_s, sound.end_s)

    async def run(self, emit: Emit) -> None:
        """Tell of sounds as they are performed."""
        async with asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._tell(await self._performed.get(), emit))

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Sound from `from_s` on belongs to this utterance."""
        assert utterance > self._utterance, "utterances are numbered upwards"
        self._sounds = [sound for sound in self._sounds if sound.end_s > from_s]
        self._utterance, self._from_s, self._told = utterance, from_s, ("", "")

    async def transcribe(self, utterance: int, until_s: float) -> str:
        """All words of the utterance up to `until_s`."""
        from_s, current = self._from_s, utterance == self._utterance
        await asyncio.sleep(self._jitter(self._times.final))
        return " ".join(self._words(from_s, until_s + self._times.offset_error)) if current else ""

    def end_utterance(self, utterance: int) -> None:
        """Nothing more is told of this utterance."""
        if utterance == self._utterance:
            self._from_s = self._clock.now_s()

    async def _tell(self, sound: _Hearing, emit: Emit) -> None:
        """What the ears make of one sound, each thing at its time."""
        times, jitter = self._times, self._jitter
        step_s = (sound.end_s - sound.start_s) / max(1, len(sound.words))
        ends = [sound.start_s + number * step_s for number in range(1, len(sound.words) + 1)]
        told: list[tuple[float, Callable[[_Hearing, Emit], None]]] = [
            (sound.start_s + jitter(times.onset_late), self._tell_start),
            *((end_s + jitter(times.partial), self._tell_partial) for end_s in ends),
            (sound.end_s + jitter(times.offset_late), self._tell_stop),
        ]
        for at_s, tell in sorted(told, key=lambda one: one[0]):
            await self._clock.sleep_until(at_s)
            tell(sound, emit)

    def _tell_start(self, sound: _Hearing, emit: Emit) -> None:
        self._talking += 1
        if self._talking == 1:
            emit(ev.SpeechStarted(at_s=round(sound.start_s + self._times.onset_error, 6)))

    def _tell_stop(self, sound: _Hearing, emit: Emit) -> None:
        self._talking -= 1
        if self._talking == 0:
            emit(ev.SpeechStopped(at_s=round(sound.end_s + self._times.offset_error, 6)))

    def _tell_partial(self, _: _Hearing, emit: Emit) -> None:
        """The newest word may still change; those before it are stable."""
        words = self._words(self._from_s, self._clock.now_s() - self._times.partial)
        told = (" ".join(words[:-1]), " ".join(words[-1:]))
        if words and told != self._told:
            self._told = told
            emit(ev.PartialTranscribed(utterance=self._utterance, stable=told[0], unstable=told[1]))

    def _words(self, from_s: float, until_s: float) -> list[str]:
        return [word for sound in self._sounds for word in sound.words_in(from_s, until_s)]


# ---- brain ----

USER, AGENT, END = "<user>", "<agent>", "<end>"
CUT = "—"
_PIECE = re.compile(r"\s*\S{1,5}|\s+$")


class Said(NamedTuple):
    """A turn as it stands in the model's state."""

    role: str
    text: str


class ScriptedBrain:
    """Satisfies `app.ports.Brain` with a list of pieces for a state.

    Args:
        times: How long reading and decoding take.
        jitter: How irregularly.
        replies: The answer to turn n is the n-th, or the last.
        context_pieces: Room for pieces; when it runs short only the newest turns are kept.
    """

    def __init__(self, times: Times, jitter: Jitter, replies: Sequence[str], context_pieces: int = 100_000) -> None:
        assert replies, "a scripted model needs its replies"
        self._times, self._jitter = times, jitter
        self._replies = replies
        self._context_pieces = context_pieces
        self._state: list[str] = []
        self._pending: str | None = None
        self._decoding = False
        self._moving = False
        self._boundaries: dict[int, tuple[str, ...]] = {}
        self._taken = 0

    @property
    def said(self) -> list[Said]:
        """The turns in the state."""
        text = "".join(self._state)
        return [
            Said("user" if mark == USER else "agent", words)
            for mark, words in re.findall(f"({USER}|{AGENT})(.*?)(?=<user>|<agent>|<end>|$)", text, re.DOTALL)
        ]

    @property
    def live_boundaries(self) -> int:
        """Boundaries that were not forgotten."""
        return len(self._boundaries)

    async def open(self) -> BoundaryMark:
        """The persona is one piece."""
        self._state = ["<persona>"]
        return self._take()

    async def read_user(self, text: str) -> BoundaryMark:
        """Append the user's turn."""
        self._begin_move()
        await asyncio.sleep(self._jitter(self._times.read_word * len(text.split())))
        self._state += [USER, *_PIECE.findall(text), AGENT]
        return self._end_move()

    async def reply(self, turn: int) -> AsyncGenerator[str, None]:
        """Decode the scripted reply piece by piece."""
        self._assert_still()
        self._decoding = True
        wait_s = self._times.first_token
        try:
            for piece in _PIECE.findall(self._replies[min(turn, len(self._replies)) - 1].strip()):
                await asyncio.sleep(self._jitter(wait_s))
                wait_s = self._times.token
                self._feed_pending()
                self._pending = piece
                yield piece
            await asyncio.sleep(self._jitter(wait_s))
            self._feed_pending()
        finally:
            self._decoding = False
            self._pending = None

    async def mark_clause(self) -> BoundaryMark:
        """The boundary before the newest piece."""
        return self._take()

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Restore, and feed what was heard."""
        self._begin_move()
        fed = _PIECE.findall(heard)
        await asyncio.sleep(self._jitter(self._times.rollback + self._times.read_word * len(fed)))
        self._state = [*self._boundaries[handle], *fed]
        assert "".join(fed) == heard, "pieces joined are the text"
        if cut:
            self._state += [CUT, END]
        return RollbackReport(len(fed) + cut, round(self._times.rollback * 1e6, 3), self._end_move())

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn."""
        self._begin_move()
        self._state.append(END)
        return self._end_move()

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries that are there."""
        for handle in handles:
            del self._boundaries[handle]

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """Keep the newest two turns if less than a quarter of the context is free."""
        if len(self._state) < self._context_pieces * 3 / 4:
            return None
        starts = [place for place, piece in enumerate(self._state) if piece == USER]
        self._state = [self._state[0], *self._state[starts[-2] if len(starts) > 1 else starts[-1] :]]
        self._boundaries.clear()
        return min(2, len(starts)), self._take()

    def _feed_pending(self) -> None:
        if self._pending is not None:
            self._state.append(self._pending)
            self._pending = None

    def _assert_still(self) -> None:
        assert not self._decoding, "one caller at a time moves the state"
        assert not self._moving, "one caller at a time moves the state"

    def _begin_move(self) -> None:
        self._assert_still()
        self._moving = True

    def _end_move(self) -> BoundaryMark:
        self._moving = False
        return self._take()

    def _take(self) -> BoundaryMark:
        self._taken += 1
        self._boundaries[self._taken] = tuple(self._state)
        return BoundaryMark(len(self._state), 0, self._taken)
