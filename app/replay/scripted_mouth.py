"""A mouth without sound and models, for virtual time: a voice of a known pace and a loudspeaker that takes blocks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from app import events as ev
from app.ports import Clock, Emit, Spoken
from app.replay.paces import Jitter, Times

# Sound that may wait for the loudspeaker before `say` waits.
_BUFFER_S = 8.0
# A word counts as heard once so much of it has left the loudspeaker.
_HEARD_SHARE = 0.6
_STEP_BACK_S = 0.4
# Sound is kept of the reply that was cut off last, and of those that are only now being cut off.
_MOST_KEPT = 4


class _Word(NamedTuple):
    """A word at its place in a stream, s from the stream's start."""

    start_s: float
    end_s: float
    text: str

    @property
    def heard_s(self) -> float:
        """The place from which on the word counts as heard."""
        return round(self.start_s + _HEARD_SHARE * (self.end_s - self.start_s), 6)


@dataclass(slots=True)
class _Stream:
    """The sound of one branch."""

    branch: int
    words: list[_Word] = field(default_factory=list[_Word])
    clauses: list[list[str]] = field(default_factory=list[list[str]])
    """Words of each clause that was queued."""
    queued_s: float = 0.0
    played_s: float = 0.0
    """Handed to the loudspeaker."""
    audible: bool = False
    finished: bool = False
    done: bool = False
    """Its last block was handed over."""
    told: int = 0
    """Words told of as heard. What was heard stays heard."""


class ScriptedMouth:
    """Satisfies `app.ports.Mouth`: a voice of a known pace, and a loudspeaker that takes a block at a time."""

    def __init__(self, clock: Clock, times: Times, jitter: Jitter) -> None:
        self._clock, self._times, self._jitter = clock, times, jitter
        self._stream: _Stream | None = None
        self._kept: dict[int, list[list[str]]] = {}
        """Clauses of branches that were stopped, as words."""
        self._prepared = ""
        self._hold_asked_s: float | None = None
        """When the gate was asked to shut; None: it is open."""
        self._tell_held = False
        self._lost = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._facts: deque[tuple[float, ev.Event]] = deque()
        self._sounding = False
        self.on_sounding: Callable[[bool], None] = _nobody
        self.ducked = False
        """The level is lowered."""

    @property
    def kept(self) -> list[int]:
        """Branches whose sound is kept."""
        return list(self._kept)

    def lately(self, seconds: float) -> list[str]:
        """What the live branch said in its last `seconds`, word by word."""
        stream = self._stream
        if stream is None:
            return []
        return [word.text for word in stream.words[: stream.told] if word.end_s > stream.played_s - seconds]

    async def run(self, emit: Emit) -> None:
        """Play blocks as long as there is something to play or to tell."""
        while True:
            now_s = self._clock.now_s()
            if not self._lost:
                while self._facts and self._facts[0][0] <= now_s + 1e-9:
                    emit(self._facts.popleft()[1])
                self._play_block(now_s)
            await asyncio.sleep(self._times.block)
            if not self._must_run():
                self._changed.clear()
                await self._changed.wait()

    # ---- the port ----

    def begin(self, branch: int) -> None:
        """Only this branch is played from now on, and the gate is open."""
        self._stream = _Stream(branch)
        self._hold_asked_s, self._tell_held = None, False
        self._wake()

    async def say(self, branch: int, text: str) -> Spoken | None:
        """Make words of a text, one after the other, and queue them."""
        words = text.split()
        took_s = 0.0
        if text != self._prepared:
            took_s = await self._jitter.take(self._synthesis_s(words))
        return await self._queue(branch, words, took_s)

    async def say_rest(self, branch: int, source: int, clause: int, from_word: int) -> Spoken | None:
        """Queue words of a clause that was kept."""
        words = self._kept[source][clause]
        assert 0 <= from_word < len(words), "there is a word to begin with"
        return await self._queue(branch, words[from_word:], 0.0)

    async def prepare(self, text: str) -> None:
        """Make a line into sound; one is kept."""
        await self._jitter.take(self._synthesis_s(text.split()))
        self._prepared = text

    def finish(self, branch: int) -> None:
        """No more clauses will come."""
        if stream := self._live(branch):
            stream.finished = True
            self._wake()

    def duck(self) -> None:
        """Lower the level."""
        self.ducked = True

    def unduck(self) -> None:
        """Back to full level."""
        self.ducked = False

    def hold(self) -> None:
        """Shut the gate."""
        assert self._stream is not None, "only a reply is held"
        if self._hold_asked_s is None:
            self._hold_asked_s, self._tell_held = self._clock.now_s(), True
            self._wake()

    def resume(self) -> None:
        """Open the gate at the start of the word that was cut, if it is not far back."""
        stream = self._stream
        if stream is None or self._hold_asked_s is None:
            return
        self._hold_asked_s, self._tell_held = None, False
        cut_s = next((word.start_s for word in stream.words if word.start_s < stream.played_s < word.end_s), None)
        if cut_s is not None and stream.played_s - cut_s <= _STEP_BACK_S:
            stream.played_s = cut_s
        at_s = round(self._clock.now_s() + self._times.device, 6)
        self._tell(at_s, ev.OutputResumed(branch=stream.branch, at_s=at_s, words=stream.told))
        self._wake()

    def stop(self, branch: int, *, keep: bool = False) -> None:
        """Silent from the next block on."""
        stream = self._live(branch)
        assert stream or not keep, "only what is queued can be kept"
        if stream:
            if keep:
                self._kept[branch] = stream.clauses
                assert len(self._kept) <= _MOST_KEPT, f"sound of branches {self.kept} is kept for nobody"
            self._stream = None
            self._facts.clear()
            self._hold_asked_s, self._tell_held = None, False
            self._sound(False)
            self._wake()

    def forget(self, branch: int) -> None:
        """Drop sound that was kept."""
        del self._kept[branch]

    # ---- the voice ----

    def _synthesis_s(self, words: list[str]) -> float:
        return self._times.synthesis + self._times.synthesis_word * len(words)

    async def _queue(self, branch: int, words: list[str], took_s: float) -> Spoken | None:
        while (stream := self._live(branch)) and stream.queued_s - stream.played_s > _BUFFER_S:
            self._room.clear()
            await self._room.wait()
        if stream is None:
            return None
        assert not stream.finished, "nothing is said after finish"
        begin_s = stream.queued_s
        for word in words:
            start_s = stream.queued_s
            stream.queued_s = round(start_s + self._times.spoken_word, 6)
            stream.words.append(_Word(start_s, stream.queued_s, word))
        stream.queued_s = round(stream.queued_s + self._times.clause_pause, 6)
        stream.clauses.append(words)
        self._wake()
        return Spoken(len(words), round(stream.queued_s - begin_s, 6), round(took_s * 1000, 3))

    # ---- the loudspeaker ----

    def lose(self, lost: bool) -> None:
        """The sound card is gone, and with it the playhead, or it is back."""
        self._lost = lost
        self._sound(self._sounding and not lost)
        self._wake()

    def _live(self, branch: int) -> _Stream | None:
        return self._stream if self._stream is not None and self._stream.branch == branch else None

    def _wake(self) -> None:
        self._changed.set()
        self._room.set()

    def _must_run(self) -> bool:
        stream = self._stream
        if self._lost:
            return False
        if self._facts or self._tell_held:
            return True
        if stream is None or stream.done or self._hold_asked_s is not None:
            return False
        return stream.finished or stream.played_s < stream.queued_s

    def _tell(self, at_s: float, fact: ev.Event) -> None:
        """Tell of something once it is true."""
        self._facts.append((at_s, fact))

    def _sound(self, sounding: bool) -> None:
        if sounding != self._sounding:
            self._sounding = sounding
            self.on_sounding(sounding)

    def _play_block(self, now_s: float) -> None:
        """Hand one block over: what is in it sounds `device` later."""
        stream = self._stream
        if stream is None:
            return
        sounds_s = round(now_s + self._times.device, 6)
        if self._hold_asked_s is not None:
            if self._tell_held:
                self._tell_held = False
                self._sound(False)
                asked_s = round(self._hold_asked_s, 6)
                self._tell(
                    sounds_s,
                    ev.OutputHeld(branch=stream.branch, at_s=sounds_s, asked_s=asked_s, words=stream.told),
                )
            return
        if stream.played_s < stream.queued_s:
            if not stream.audible:
                stream.audible = True
                self._tell(sounds_s, ev.PlayoutStarted(branch=stream.branch, at_s=sounds_s))
            self._sound(True)
            from_s = stream.played_s
            stream.played_s = round(min(from_s + self._times.block, stream.queued_s), 6)
            self._tell_words(stream, sounds_s - from_s)
            self._room.set()
        else:
            self._sound(False)
        if stream.finished and not stream.done and stream.played_s >= stream.queued_s:
            stream.done = True
            self._sound(False)
            end_s = round(sounds_s + self._times.block, 6)
            self._tell(end_s, ev.PlayoutFinished(branch=stream.branch, at_s=end_s))

    def _tell_words(self, stream: _Stream, sounds_at_0_s: float) -> None:
        while stream.told < len(stream.words) and stream.words[stream.told].heard_s <= stream.played_s:
            word = stream.words[stream.told]
            stream.told += 1
            at_s = round(sounds_at_0_s + word.heard_s, 6)
            self._tell(at_s, ev.WordHeard(branch=stream.branch, words=stream.told, text=word.text, at_s=at_s))


def _nobody(_: bool) -> None:
    """Takes the word of a loudspeaker that nobody listens to."""
