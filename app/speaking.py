"""The live mouth: clauses to sound on a worker thread, sound to the playout, and the playhead to words heard.

The sound of a clause is kept until its last word was heard, so that the rest of a reply that was cut off can be played
as it is. The playout's buffer bounds how much that is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from app.events import OutputHeld, OutputResumed, PlayoutFinished, PlayoutStarted, WordHeard
from app.heard import SPEAKER_HZ, Word, resume_point, words_heard
from app.ports import Clock, Emit, Spoken
from app.sound_ports import ClipLike, PlayheadLike, PlayoutBuffer, Samples, Voice

_LEAST_ROOM_SAMPLES = SPEAKER_HZ // 10
_ROOM_POLL_S = 0.1
_FADE_IN = np.linspace(0.0, 1.0, 5 * SPEAKER_HZ // 1000, dtype=np.float32)


class Clip(NamedTuple):
    """The end of a clip, from a word on."""

    samples: Samples
    words: Sequence[Word]


def clip_from(clip: ClipLike, word: int) -> ClipLike:
    """A clip from a word on: the same samples, but for a fade-in of 5 ms where no gap was before the word."""
    if word == 0:
        return clip
    start = clip.words[word].start
    samples = clip.samples[start:]
    if clip.words[word - 1].end == start:
        samples = samples.copy()
        ramp = _FADE_IN[: samples.shape[0]]
        samples[: ramp.shape[0]] *= ramp
    return Clip(samples, [Word(text, begin - start, end - start) for text, begin, end in _spans(clip)[word:]])


def _spans(clip: ClipLike) -> list[Word]:
    return [Word(word.text, word.start, word.end) for word in clip.words]


class _Said(NamedTuple):
    """A clause that was queued."""

    clip: ClipLike
    words: int
    """Of the branch, up to its end."""


class _Speech:
    """What one branch says, and what has been told of it."""

    def __init__(self, branch: int) -> None:
        self.branch = branch
        self.words: list[Word] = []
        self.clauses = 0
        """Queued whole."""
        self.unheard: dict[int, _Said] = {}
        """Clauses by their number, as far as a word of them is not told as heard."""
        self.queued_samples = 0
        self.started = False
        self.heard = 0
        """Words told as heard. Never goes down: what was heard stays heard."""
        self.ending = False
        self.finished = False
        self.hold_at_s: float | None = None
        """When the gate was asked to shut; None while it is open."""
        self.held = False
        self.resuming = False

    def add(self, clip: ClipLike) -> None:
        """A clause is queued whole."""
        self.unheard[self.clauses] = _Said(clip, len(self.words))
        self.clauses += 1

    def hear(self) -> None:
        """One more word is told as heard."""
        self.heard += 1
        self.unheard = {number: said for number, said in self.unheard.items() if said.words > self.heard}

    def quiet(self, head: PlayheadLike) -> bool:
        """Whether nothing can happen until somebody calls."""
        if self.hold_at_s is not None:
            return self.held
        if self.resuming:
            return False
        return self.finished or (head.heard_samples >= self.queued_samples and not self.ending)


class LiveMouth:
    """Satisfies `app.ports.Mouth`.

    Args:
        voice: Called on the worker only.
        playout: What the sound card reads.
        clock: Session time.
        block_ms: How often the playhead is looked at while sound plays.
        worker: Runs the voice, one clause at a time; None for a thread of its own.
    """

    def __init__(
        self, voice: Voice, playout: PlayoutBuffer, clock: Clock, block_ms: int = 20, worker: Executor | None = None
    ) -> None:
        self._voice, self._playout, self._clock = voice, playout, clock
        self._block_s = block_ms / 1000
        self._worker = worker or ThreadPoolExecutor(1, thread_name_prefix="voice")
        self._in_turn = asyncio.Lock()
        self._awake = asyncio.Event()
        self._speech: _Speech | None = None
        self._kept: dict[int, dict[int, _Said]] = {}
        """Unheard clauses of stopped branches."""
        self._prepared: tuple[str, ClipLike] | None = None

    # ---- the port ----

    async def run(self, emit: Emit) -> None:
        """Report the playhead until cancelled. Sleeps without a timer while nothing plays."""
        try:
            while True:
                await self._awake.wait()
                if self._report(emit):
                    await self._clock.sleep_until(self._clock.now_s() + self._block_s)
                else:
                    self._awake.clear()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def begin(self, branch: int) -> None:
        """From now on only sound of this branch is played; the gate is open."""
        self._speech = _Speech(branch)
        self._playout.begin(branch)

    async def say(self, branch: int, text: str) -> Spoken | None:
        """Synthesise a clause and queue it behind the branch's others. None: the branch is dead."""
        async with self._in_turn:
            if self._living(branch) is None:
                return None
            begun_s = self._clock.now_s()
            clip = await self._clip_of(text)
            return await self._say(branch, clip, (self._clock.now_s() - begun_s) * 1000)

    async def say_rest(self, branch: int, source: int, clause: int, from_word: int) -> Spoken | None:
        """Queue the kept sound of a clause of a stopped branch, from a word on. None: this branch is dead."""
        async with self._in_turn:
            if self._living(branch) is None:
                return None
            return await self._say(branch, clip_from(self._kept[source][clause].clip, from_word), 0.0)

    async def prepare(self, text: str) -> None:
        """Make a line into sound; the one before it is forgotten."""
        async with self._in_turn:
            self._prepared = (text, await self._clip_of(text))

    def finish(self, branch: int) -> None:
        """No more clauses will come; PlayoutFinished follows the last sample."""
        if speech := self._living(branch):
            speech.ending = True
            self._playout.finish(branch)
            self._awake.set()

    def duck(self) -> None:
        """Lower the level."""
        self._playout.duck()

    def unduck(self) -> None:
        """Back to full level."""
        self._playout.unduck()

    def hold(self) -> None:
        """Silence from the next block on, playhead frozen. OutputHeld follows."""
        if (speech := self._speech) and speech.hold_at_s is None:
            speech.hold_at_s, speech.held, speech.resuming = self._clock.now_s(), False, False
            self._playout.hold()
            self._awake.set()

    def resume(self) -> None:
        """Go on from the start of a word, at most 400 ms before the hold. OutputResumed follows."""
        speech = self._speech
        if speech is None or speech.hold_at_s is None:
            return
        head = self._playout.playhead(self._clock.now_s())
        if head is not None:
            self._playout.resume(resume_point(speech.words, head.heard_samples))
        speech.hold_at_s, speech.held, speech.resuming = None, False, True
        self._awake.set()

    def stop(self, branch: int, *, keep: bool = False) -> None:
        """Throw away what is queued of this branch, or keep what was not heard of it. Silent within one block."""
        if speech := self._living(branch):
            self._speech = None
            if keep:
                self._kept[branch] = speech.unheard
        self._playout.stop(branch)

    def forget(self, branch: int) -> None:
        """The kept sound of a branch is no longer needed."""
        self._kept.pop(branch, None)

    # ---- inside ----

    def _living(self, branch: int) -> _Speech | None:
        speech = self._speech
        return speech if speech is not None and speech.branch == branch else None

    async def _clip_of(self, text: str) -> ClipLike:
        if self._prepared and self._prepared[0] == text:
            return self._prepared[1]
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._voice.synthesise, text)

    async def _say(self, branch: int, clip: ClipLike, took_ms: float) -> Spoken | None:
        if not await self._queue(branch, clip):
            return None
        return Spoken(len(clip.words), clip.samples.shape[0] / SPEAKER_HZ, took_ms)

    async def _queue(self, branch: int, clip: ClipLike) -> bool:
        """Hand a clip to the playout, as it finds room; whether the branch lived to the end of it."""
        done, known = 0, False
        while speech := self._living(branch):
            room = self._playout.room_samples()
            piece = clip.samples[done : done + room]
            if done + piece.shape[0] < clip.samples.shape[0] and room < _LEAST_ROOM_SAMPLES:
                await self._clock.sleep_until(self._clock.now_s() + _ROOM_POLL_S)
                continue
            offset = self._playout.enqueue(branch, piece)
            if offset is None:
                return False
            if not known:
                speech.words += [Word(text, offset + start, offset + end) for text, start, end in _spans(clip)]
                known = True
            done += piece.shape[0]
            speech.queued_samples = offset + piece.shape[0]
            self._awake.set()
            if done == clip.samples.shape[0]:
                speech.add(clip)
                return True
        return False

    def _report(self, emit: Emit) -> bool:
        """Tell what has happened since the last look; whether to look again soon."""
        speech = self._speech
        now_s = self._clock.now_s()
        head = self._playout.playhead(now_s)
        if speech is None or head is None or head.branch != speech.branch:
            return False
        if not speech.started and head.started_at_s is not None:
            speech.started = True
            emit(PlayoutStarted(branch=speech.branch, at_s=head.started_at_s))
        if speech.resuming and not head.held:
            speech.resuming = False
            emit(OutputResumed(branch=speech.branch, at_s=now_s, words=speech.heard))
        self._tell_words(speech, head, emit)
        if speech.hold_at_s is not None:
            self._tell_hold(speech, speech.hold_at_s, head, emit)
        elif speech.ending and not speech.finished and head.done and self._speech is speech:
            speech.finished = True
            at_s = now_s if head.last_at_s is None else head.last_at_s
            emit(PlayoutFinished(branch=speech.branch, at_s=at_s))
        return self._speech is not speech or not speech.quiet(head)

    def _tell_words(self, speech: _Speech, head: PlayheadLike, emit: Emit) -> None:
        for word in speech.words[speech.heard : words_heard(speech.words, head.heard_samples)]:
            assert head.last_at_s is not None
            if self._speech is not speech:
                return  # what was told ended the branch
            speech.hear()
            at_s = head.last_at_s - (head.heard_samples - word.heard_at) / SPEAKER_HZ
            emit(WordHeard(branch=speech.branch, words=speech.heard, text=word.text, at_s=at_s))

    def _tell_hold(self, speech: _Speech, hold_at_s: float, head: PlayheadLike, emit: Emit) -> None:
        if speech.held or not head.held:
            return
        speech.held = True
        silent_from_s = hold_at_s if head.last_at_s is None else max(hold_at_s, head.last_at_s)
        emit(OutputHeld(branch=speech.branch, at_s=silent_from_s, asked_s=hold_at_s, words=speech.heard))
