"""The live mouth: clauses to sound on a worker thread, sound to the playout, and the playhead to words heard."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

from app.events import OutputHeld, OutputResumed, PlayoutFinished, PlayoutStarted, WordHeard
from app.ports import ClipLike, Clock, Emit, PlayheadLike, PlayoutBuffer, Spoken, Voice

_HZ = 48_000
_HEARD_SHARE = 0.6
_STEP_BACK_SAMPLES = 400 * _HZ // 1000
_LEAST_ROOM_SAMPLES = _HZ // 10
_ROOM_POLL_S = 0.1


class Word(NamedTuple):
    """A word of a reply in its branch's stream, in samples at 48 kHz."""

    text: str
    start: int
    end: int

    @property
    def heard_at(self) -> int:
        """Samples that must have left the loudspeaker for the word to count as heard: 60 % of it."""
        return self.start + max(1, math.ceil(_HEARD_SHARE * (self.end - self.start)))


def words_heard(words: Sequence[Word], heard_samples: int) -> int:
    """How many words count as heard once `heard_samples` of the stream have left the loudspeaker."""
    return next((at for at, word in enumerate(words) if word.heard_at > heard_samples), len(words))


def resume_point(words: Sequence[Word], heard_samples: int) -> int:
    """Where to go on after a hold: no word is lost, and at most one is heard twice.

    The start of the word that was cut, if it began at most 400 ms before; else the very sample where it stopped.
    """
    cut = next((word for word in words if word.start < heard_samples < word.end), None)
    if cut is not None and heard_samples - cut.start <= _STEP_BACK_SAMPLES:
        return cut.start
    return heard_samples


class _Speech:
    """What one branch says, and what has been told of it."""

    def __init__(self, branch: int) -> None:
        self.branch = branch
        self.words: list[Word] = []
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
            clip = await asyncio.get_running_loop().run_in_executor(self._worker, self._voice.synthesise, text)
            took_ms = (self._clock.now_s() - begun_s) * 1000
            if not await self._queue(branch, clip):
                return None
            return Spoken(len(clip.words), clip.samples.shape[0] / _HZ, took_ms)

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

    def stop(self, branch: int) -> None:
        """Throw away what is queued of this branch. Silent within one block."""
        if self._living(branch):
            self._speech = None
        self._playout.stop(branch)

    # ---- inside ----

    def _living(self, branch: int) -> _Speech | None:
        speech = self._speech
        return speech if speech is not None and speech.branch == branch else None

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
                speech.words += [Word(word.text, offset + word.start, offset + word.end) for word in clip.words]
                known = True
            done += piece.shape[0]
            speech.queued_samples = offset + piece.shape[0]
            self._awake.set()
            if done == clip.samples.shape[0]:
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
            speech.heard += 1
            at_s = head.last_at_s - (head.heard_samples - word.heard_at) / _HZ
            emit(WordHeard(branch=speech.branch, words=speech.heard, text=word.text, at_s=at_s))

    def _tell_hold(self, speech: _Speech, hold_at_s: float, head: PlayheadLike, emit: Emit) -> None:
        if speech.held or not head.held:
            return
        speech.held = True
        silent_from_s = hold_at_s if head.last_at_s is None else max(hold_at_s, head.last_at_s)
        emit(OutputHeld(branch=speech.branch, at_s=silent_from_s, words=speech.heard))
