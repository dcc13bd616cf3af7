"""A mouth without sound and models, for virtual time: a voice of a known pace and a loudspeaker that takes blocks."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from app import events as ev
from app.ports import Clock, Emit, Spoken
from app.replay.scripted import Jitter, Times

# Sound that may wait for the loudspeaker before `say` waits.
_BUFFER_S = 8.0
# A word counts as heard once so much of it has left the loudspeaker.
_HEARD_SHARE = 0.6
_STEP_BACK_S = 0.4


@dataclass(slots=True)
class _Stream:
    """The sound of one branch: words at places in it, in s from its start."""

    branch: int
    words: list[tuple[float, float, str]] = field(default_factory=list[tuple[float, float, str]])
    queued_s: float = 0.0
    played_s: float = 0.0
    """Handed to the loudspeaker."""
    audible: bool = False
    finished: bool = False
    done: bool = False
    """Its last block was handed over."""
    told: int = 0
    """Words told of as heard. What was heard stays heard."""

    def heard_from(self, word: int) -> float:
        """The place in the stream from which on a word counts as heard."""
        start, end, _ = self.words[word]
        return round(start + _HEARD_SHARE * (end - start), 6)


class ScriptedMouth:
    """Satisfies `app.ports.Mouth`: a voice of a known pace, and a loudspeaker that takes a block at a time."""

    def __init__(self, clock: Clock, times: Times, jitter: Jitter) -> None:
        self._clock, self._times, self._jitter = clock, times, jitter
        self._stream: _Stream | None = None
        self._held = False
        self._tell_held = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._facts: deque[tuple[float, ev.Event]] = deque()
        self.ducked = False
        """The level is lowered."""

    async def run(self, emit: Emit) -> None:
        """Play blocks as long as there is something to play or to tell."""
        while True:
            now_s = self._clock.now_s()
            while self._facts and self._facts[0][0] <= now_s + 1e-9:
                emit(self._facts.popleft()[1])
            self._play_block(now_s)
            await asyncio.sleep(self._times.block)
            if not self._must_run():
                self._changed.clear()
                await self._changed.wait()

    def begin(self, branch: int) -> None:
        """Only this branch is played from now on, and the gate is open."""
        self._stream = _Stream(branch)
        self._held = self._tell_held = False
        self._wake()

    async def say(self, branch: int, text: str) -> Spoken | None:
        """Make words of a text, one after the other, and queue them."""
        words = text.split()
        took_s = self._jitter(self._times.synthesis + self._times.synthesis_word * len(words))
        await asyncio.sleep(took_s)
        while (stream := self._live(branch)) and stream.queued_s - stream.played_s > _BUFFER_S:
            self._room.clear()
            await self._room.wait()
        if stream is None:
            return None
        assert not stream.finished, "nothing is said after finish"
        for word in words:
            start_s = stream.queued_s
            stream.queued_s = round(start_s + self._times.spoken_word, 6)
            stream.words.append((start_s, stream.queued_s, word))
        stream.queued_s = round(stream.queued_s + self._times.clause_pause, 6)
        self._wake()
        seconds = round(self._times.spoken_word * len(words) + self._times.clause_pause, 6)
        return Spoken(len(words), seconds, round(took_s * 1000, 3))

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
        if not self._held:
            self._held = self._tell_held = True
            self._wake()

    def resume(self) -> None:
        """Open the gate at the start of the word that was cut, if it is not far back."""
        stream = self._stream
        if stream is None or not self._held:
            return
        self._held = self._tell_held = False
        cut = next((start for start, end, _ in stream.words if start < stream.played_s < end), None)
        if cut is not None and stream.played_s - cut <= _STEP_BACK_S:
            stream.played_s = cut
        at_s = round(self._clock.now_s() + self._times.device, 6)
        self._tell(at_s, ev.OutputResumed(branch=stream.branch, at_s=at_s, words=stream.told))
        self._wake()

    def stop(self, branch: int) -> None:
        """Silent from the next block on."""
        if self._live(branch):
            self._stream = None
            self._facts.clear()
            self._wake()

    # ---- the loudspeaker ----

    def _live(self, branch: int) -> _Stream | None:
        return self._stream if self._stream is not None and self._stream.branch == branch else None

    def _wake(self) -> None:
        self._changed.set()
        self._room.set()

    def _must_run(self) -> bool:
        stream = self._stream
        if self._facts or self._tell_held:
            return True
        if stream is None or stream.done or self._held:
            return False
        return stream.finished or stream.played_s < stream.queued_s

    def _tell(self, at_s: float, fact: ev.Event) -> None:
        """Tell of something once it is true."""
        self._facts.append((at_s, fact))

    def _play_block(self, now_s: float) -> None:
        """Hand one block over: what is in it sounds `device` later."""
        stream = self._stream
        if stream is None:
            return
        sounds_s = round(now_s + self._times.device, 6)
        if self._held:
            if self._tell_held:
                self._tell_held = False
                self._tell(sounds_s, ev.OutputHeld(branch=stream.branch, at_s=sounds_s, words=stream.told))
            return
        if stream.played_s < stream.queued_s:
            if not stream.audible:
                stream.audible = True
                self._tell(sounds_s, ev.PlayoutStarted(branch=stream.branch, at_s=sounds_s))
            from_s = stream.played_s
            stream.played_s = round(min(from_s + self._times.block, stream.queued_s), 6)
            self._tell_words(stream, sounds_s - from_s)
            self._room.set()
        if stream.finished and not stream.done and stream.played_s >= stream.queued_s:
            stream.done = True
            end_s = round(sounds_s + self._times.block, 6)
            self._tell(end_s, ev.PlayoutFinished(branch=stream.branch, at_s=end_s))

    def _tell_words(self, stream: _Stream, sounds_at_0_s: float) -> None:
        while stream.told < len(stream.words) and stream.heard_from(stream.told) <= stream.played_s:
            at_s = round(sounds_at_0_s + stream.heard_from(stream.told), 6)
            text = stream.words[stream.told][2]
            stream.told += 1
            self._tell(at_s, ev.WordHeard(branch=stream.branch, words=stream.told, text=text, at_s=at_s))
