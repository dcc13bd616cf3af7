"""The live ears: microphone frames to voice activity, an utterance's sound, partial and final transcripts.

The event loop cuts and scores the sound (0.1 ms a window); only the recogniser runs on a thread, one decode at a time.
An utterance is decoded in pieces, so that a final costs the same however long the user has been talking.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from app.events import LevelsMeasured, PartialTranscribed, SoundTroubled, SpeechStarted, SpeechStopped
from app.ports import CardStats, CardStatsLike, Emit, FrameLike, Recogniser, Samples, SoundCard, VoiceActivity
from audio.agree import Agreement
from audio.frame import MIC_HZ
from audio.vad import WINDOW_SAMPLES, SpeechGate

_MEMORY_SAMPLES = 90 * MIC_HZ
_LONGEST_GAP_SAMPLES = MIC_HZ  # a shorter loss is heard as silence, after a longer one everything starts afresh
_LEVEL_SAMPLES = MIC_HZ // 10
_SILENT_DBFS = -120.0
_TAIL_SAMPLES = MIC_HZ // 10  # the last sound of a word may be too faint for the voice activity
_PARTIAL_SAMPLES = 4 * MIC_HZ // 10
_PIECE_SAMPLES = 12 * MIC_HZ
_LONGEST_PIECE_SAMPLES = 26 * MIC_HZ
_PAUSE_SAMPLES = 2 * MIC_HZ // 10
_CUT_SEARCH_SAMPLES = 6 * MIC_HZ
_CUT_GRAIN_SAMPLES = MIC_HZ // 50


class SoundMemory:
    """The newest sound, addressed by its sample index. What is older than the memory reads as nothing.

    Args:
        samples: How much is kept.
    """

    def __init__(self, samples: int) -> None:
        self._ring = np.zeros(samples, np.float32)
        self._first = 0
        self._end = 0

    @property
    def end(self) -> int:
        """Index after the newest sample."""
        return self._end

    @property
    def first(self) -> int:
        """Index of the oldest sample that is still there."""
        return max(self._first, self._end - self._ring.size)

    def append(self, samples: Samples) -> None:
        """Add float32[n] behind the newest sample."""
        kept = samples[-self._ring.size :]
        places = np.arange(self._end + samples.size - kept.size, self._end + samples.size) % self._ring.size
        self._ring[places] = kept
        self._end += samples.size

    def jump(self, index: int) -> None:
        """Forget everything; the next sample has this index."""
        self._first = self._end = index

    def read(self, start: int, end: int) -> Samples:
        """A copy of the samples from `start` up to `end`, as far as they are there."""
        places = np.arange(max(start, self.first), min(end, self._end))
        return self._ring[places % self._ring.size]


class _Utterance:
    """What the user says from one onset to its end, in pieces cut at pauses."""

    def __init__(self, number: int, start: int, speech_from: int) -> None:
        self.number = number
        self.cuts = [start]
        """Where each piece begins; the last one is still growing."""
        self.texts: dict[tuple[int, int], str] = {}
        """Decodes of pieces by their first sample and the one after their last."""
        self.agreement = Agreement()
        self.told: tuple[str, str] = ("", "")
        self.partial_end = speech_from

    def pieces(self, until: int) -> list[tuple[int, int]]:
        """All sound up to `until` as spans of samples."""
        edges = [cut for cut in self.cuts if cut < until] + [until]
        return list(pairwise(edges))

    def keep(self, piece: tuple[int, int], text: str) -> None:
        """Remember a decode; of the growing piece only the newest."""
        finished = set(pairwise(self.cuts))
        self.texts = {key: old for key, old in self.texts.items() if key in finished}
        self.texts[piece] = text


class LiveEars:
    """Satisfies `app.ports.Ears`.

    Args:
        card: Where the sound comes from.
        activity: Scores each 32 ms.
        recogniser: Decodes sound; called on the workers, by two of them at once.
        speaker_dbfs: Asked ten times a second for the level of the loudspeaker, for the meters.
        worker: Runs the recogniser; None for two threads, so that a final never waits for a partial under way.
    """

    def __init__(
        self,
        card: SoundCard,
        activity: VoiceActivity,
        recogniser: Recogniser,
        speaker_dbfs: Callable[[], float] = lambda: _SILENT_DBFS,
        worker: Executor | None = None,
    ) -> None:
        self._card, self._activity, self._recogniser = card, activity, recogniser
        self._speaker_dbfs = speaker_dbfs
        self._worker = worker or ThreadPoolExecutor(2, thread_name_prefix="recogniser")
        self._memory = SoundMemory(_MEMORY_SAMPLES)
        self._gate = SpeechGate()
        self._scored_end = 0
        self._turned_at = 0
        self._score = 0.0
        self._level_end = 0
        self._stats: CardStatsLike = CardStats(0, 0)
        self._utterance: _Utterance | None = None
        self._finals = 0
        self._sound_is_due = asyncio.Event()

    # ---- the port ----

    async def run(self, emit: Emit) -> None:
        """Listen until cancelled, or until the card is closed."""
        try:
            async with asyncio.TaskGroup() as group:
                along = group.create_task(self._decode_along(emit))
                async for frame in self._card.frames():
                    self._hear(frame, emit)
                along.cancel()
        finally:
            self._worker.shutdown(wait=False, cancel_futures=True)

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Collect sound from `from_s` on, as far back as it is still there; ends the utterance before it."""
        start = self._sample_at(from_s)
        self._utterance = _Utterance(utterance, start, speech_from=max(start, self._turned_at))
        self._ask_for_partial()

    async def transcribe(self, utterance: int, until_s: float) -> str:
        """The text of all sound of the utterance up to `until_s`. Empty if it was not speech, or is no longer kept."""
        current = self._utterance
        if current is None or current.number != utterance:
            return ""
        self._finals += 1
        try:
            return await self._text(current, min(self._sample_at(until_s) + _TAIL_SAMPLES, self._memory.end))
        finally:
            self._finals -= 1
            self._ask_for_partial()

    def end_utterance(self, utterance: int) -> None:
        """Forget the utterance."""
        if self._utterance is not None and self._utterance.number == utterance:
            self._utterance = None

    # ---- hearing ----

    def _hear(self, frame: FrameLike, emit: Emit) -> None:
        gap = frame.first_sample - self._memory.end
        if gap > _LONGEST_GAP_SAMPLES:
            self._start_afresh(frame.first_sample, emit)
        elif gap > 0:
            self._memory.append(np.zeros(gap, np.float32))
        self._memory.append(frame.samples[max(0, -gap) :])
        while self._memory.end - self._scored_end >= WINDOW_SAMPLES:
            self._score_window(emit)
        if self._memory.end - self._level_end >= _LEVEL_SAMPLES:
            self._measure(emit)
        self._cut()
        self._ask_for_partial()

    def _start_afresh(self, first_sample: int, emit: Emit) -> None:
        """So much sound was lost that what came before says nothing about what follows."""
        if self._gate.speaking:
            emit(SpeechStopped(at_s=self._card.time_of_sample(self._memory.end)))
        lost = (self._memory.end, first_sample)
        if first_sample - self._memory.end < _MEMORY_SAMPLES:
            self._memory.append(np.zeros(first_sample - self._memory.end, np.float32))
        else:
            self._memory.jump(first_sample)
        if self._utterance is not None:
            self._utterance.cuts += lost
            self._utterance.texts[lost] = ""
        self._activity.reset()
        self._gate = SpeechGate()
        self._scored_end = self._turned_at = self._level_end = first_sample

    def _score_window(self, emit: Emit) -> None:
        end = self._scored_end + WINDOW_SAMPLES
        self._score = self._activity.score(self._memory.read(self._scored_end, end))
        self._scored_end = end
        transition = self._gate.update(self._score, end)
        if transition is not None:
            at_s = self._card.time_of_sample(transition.at_sample)
            emit(SpeechStarted(at_s=at_s) if transition.speaking else SpeechStopped(at_s=at_s))
            self._turned_at = transition.at_sample

    def _measure(self, emit: Emit) -> None:
        mic_dbfs = dbfs(self._memory.read(self._level_end, self._memory.end))
        self._level_end = self._memory.end
        emit(LevelsMeasured(mic_dbfs=mic_dbfs, speaker_dbfs=self._speaker_dbfs(), speech=self._score))
        stats = self._card.stats()
        if stats != self._stats:
            self._stats = stats
            emit(SoundTroubled(xruns=stats.xruns, dropped_frames=stats.dropped_frames))

    def _sample_at(self, at_s: float) -> int:
        """The sample that was captured at a session time, as far as it is there."""
        end = self._memory.end
        sample = end + round((at_s - self._card.time_of_sample(end)) * MIC_HZ)
        return min(max(sample, self._memory.first), end)

    # ---- decoding ----

    def _cut(self) -> None:
        """End the growing piece in a pause once it is long, or at its quietest place before it is too long."""
        utterance, end = self._utterance, self._memory.end
        if utterance is None:
            return
        start = utterance.cuts[-1]
        if end - start >= _LONGEST_PIECE_SAMPLES:
            search_from = end - _CUT_SEARCH_SAMPLES
            utterance.cuts.append(search_from + _quietest(self._memory.read(search_from, end)))
            self._sound_is_due.set()
        elif not self._gate.speaking and end - self._turned_at >= _PAUSE_SAMPLES:
            middle = (self._turned_at + end) // 2
            if middle - start >= _PIECE_SAMPLES:
                utterance.cuts.append(middle)
                self._sound_is_due.set()

    def _ask_for_partial(self) -> None:
        utterance = self._utterance
        if utterance is None or self._finals:
            return
        # In silence a final is about to be asked for, and a partial would only be in its way.
        if self._gate.speaking and self._memory.end - utterance.partial_end >= _PARTIAL_SAMPLES:
            self._sound_is_due.set()

    async def _decode_along(self, emit: Emit) -> None:
        """Decode what the user says while they say it."""
        while True:
            await self._sound_is_due.wait()
            self._sound_is_due.clear()
            utterance = self._utterance
            if utterance is None or self._finals:
                continue
            utterance.partial_end = self._memory.end
            text = await self._text(utterance, self._memory.end)
            told = utterance.agreement.update(text)
            if utterance is self._utterance and told != utterance.told:
                utterance.told = told
                emit(PartialTranscribed(utterance=utterance.number, stable=told[0], unstable=told[1]))

    async def _text(self, utterance: _Utterance, until: int) -> str:
        """The text up to a sample; pieces that were decoded before are not decoded again."""
        texts: list[str] = []
        for piece in utterance.pieces(until):
            text = utterance.texts.get(piece)
            if text is None:
                samples = self._memory.read(*piece)
                loop = asyncio.get_running_loop()
                text = (await loop.run_in_executor(self._worker, self._recogniser.transcribe, samples)).text
                utterance.keep(piece, text)
            texts.append(text)
        return " ".join(text for text in texts if text)


def dbfs(samples: Samples) -> float:
    """Level of float32[n] in dB, 0 for a full square wave, at least -120."""
    power = float(np.mean(np.square(samples))) if samples.size else 0.0
    return max(_SILENT_DBFS, 10 * math.log10(power)) if power else _SILENT_DBFS


def _quietest(samples: Samples) -> int:
    """The middle of the quietest 100 ms, to 20 ms."""
    grains = np.square(samples[: samples.size // _CUT_GRAIN_SAMPLES * _CUT_GRAIN_SAMPLES])
    powers = grains.reshape(-1, _CUT_GRAIN_SAMPLES).sum(axis=1)
    around = np.convolve(powers, np.ones(5), "valid")
    return (int(np.argmin(around)) + 2) * _CUT_GRAIN_SAMPLES + _CUT_GRAIN_SAMPLES // 2
