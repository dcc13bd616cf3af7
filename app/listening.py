"""The live ears: microphone frames to voice activity, an utterance's sound, partial and final transcripts.

The event loop cleans, cuts and scores the sound (0.5 ms a frame); the recogniser and the model that hears ends of turns
run on threads of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor

from app.decisions import Mode
from app.echo_guard import EchoGuard
from app.events import EchoMeasured, EchoNoticed, Event, LevelsMeasured, SoundTroubled, SpeechStarted, SpeechStopped
from app.ports import Emit, Listened
from app.sound_ports import (
    CardStats,
    CardStatsLike,
    EchoCanceller,
    FrameLike,
    Recogniser,
    SoundCard,
    TurnEnd,
    VoiceActivity,
)
from app.utterance import Decoder, Utterance
from audio.devices import dbfs
from audio.frame import MIC_HZ
from audio.memory import SoundMemory
from audio.reference import AHEAD_S
from audio.vad import WINDOW_SAMPLES, SpeechGate

_MEMORY_SAMPLES = 90 * MIC_HZ
_HEARD_SAMPLES = 2 * MIC_HZ
_LONGEST_GAP_SAMPLES = MIC_HZ  # a shorter loss is heard as silence, after a longer one everything starts afresh
_LEVEL_SAMPLES = MIC_HZ // 10
_TAIL_SAMPLES = MIC_HZ // 10  # the last sound of a word may be too faint for the voice activity
_RELEASE_SAMPLES = MIC_HZ // 10  # what was said when the talk key came up is still on its way from the microphone
_TURN_END_SAMPLES = 8 * MIC_HZ
_NEVER = 1 << 62


class LiveEars:
    """Satisfies `app.ports.Ears`. Begins in mode duplex.

    Args:
        card: Where the sound comes from.
        activity: Scores each 32 ms.
        recogniser: Decodes sound; called on the workers, by two of them at once.
        canceller: Takes the echo out of what decides whether the user speaks; None: there is no echo.
        gentle: Takes it out of what the recogniser reads; None: that reads the microphone.
        turn_end: Hears how an utterance ends, on a worker beside the recogniser's two; None: nobody looks.
        speech_start: Probability of speech from which on silence becomes speech.
        speech_end: Probability of speech below which speech becomes silence.
        speaker_dbfs: Asked ten times a second for the level of the loudspeaker, for the meters.
        worker: Runs the models; None for three threads, so that a final never waits for a partial under way.
    """

    def __init__(
        self,
        card: SoundCard,
        activity: VoiceActivity,
        recogniser: Recogniser,
        *,
        canceller: EchoCanceller | None = None,
        gentle: EchoCanceller | None = None,
        turn_end: TurnEnd | None = None,
        speech_start: float = 0.5,
        speech_end: float = 0.35,
        speaker_dbfs: Callable[[], float] = lambda: -120.0,
        worker: Executor | None = None,
    ) -> None:
        self._card, self._activity, self._turn_end = card, activity, turn_end
        self._speaker_dbfs = speaker_dbfs
        self._worker = worker or ThreadPoolExecutor(3, thread_name_prefix="ears")
        self._guard = EchoGuard(canceller, gentle)
        self._memory = SoundMemory(_MEMORY_SAMPLES)
        self._heard = SoundMemory(_HEARD_SAMPLES)
        self._decoder = Decoder(self._memory, recogniser, self._worker)
        self._thresholds = (speech_start, speech_end)
        self._gate = SpeechGate(speech_start, speech_end)
        self._mode: Mode = "duplex"
        self._open_until = 0
        """In mode ptt: the microphone is open up to this sample."""
        self._speaking = False
        self._turned_at = 0
        self._score = 0.0
        self._scored_end = 0
        self._level_end = 0
        self._stats: CardStatsLike = CardStats(0, 0)
        self._frame_came = asyncio.Event()
        self._emit: Emit = _to_nobody

    # ---- the port ----

    async def run(self, emit: Emit) -> None:
        """Listen until cancelled, or until the card is closed."""
        self._emit = emit
        try:
            async with asyncio.TaskGroup() as group:
                along = group.create_task(self._decoder.run(emit))
                async for frame in self._card.frames():
                    self._hear(frame)
                along.cancel()
        finally:
            self._emit = _to_nobody
            self._worker.shutdown(wait=False, cancel_futures=True)

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Collect sound from `from_s` on, as far back as it is still there; ends the utterance before it."""
        start = self._sample_at(from_s)
        self._decoder.utterance = Utterance(utterance, start, speech_from=max(start, self._turned_at))
        self._follow()

    async def transcribe(self, utterance: int, until_s: float) -> Listened:
        """What all sound of the utterance up to `until_s` said, and how the last 8 s of it sounded.

        Empty if it was not speech, or is no longer kept.
        """
        current = self._decoder.utterance
        if current is None or current.number != utterance:
            return Listened("", {})
        released = self._open_until if self._open_until < _NEVER else 0
        while self._memory.end < released:
            self._frame_came.clear()
            await self._frame_came.wait()
        until = min(max(self._sample_at(until_s) + _TAIL_SAMPLES, released), self._memory.end)
        text, acoustic = await asyncio.gather(self._decoder.final(current, until), self._listen(current, until))
        self._follow()
        return Listened(text, acoustic)

    def end_utterance(self, utterance: int) -> None:
        """Forget the utterance."""
        current = self._decoder.utterance
        if current is not None and current.number == utterance:
            self._decoder.utterance = None

    def set_mode(self, mode: Mode) -> None:
        """From the next frame on; speech under way ends."""
        self._mode = mode
        self._open_until = 0
        self._guard.set_mode(mode)
        self._listen_afresh(self._memory.end)

    def set_talk_key(self, down: bool) -> None:
        """In mode ptt: speech from the press to the release; else nothing."""
        end = self._memory.end
        if self._mode == "ptt" and down != self._speaking:
            self._open_until = _NEVER if down else end + _RELEASE_SAMPLES
            self._turn(down, end)

    # ---- hearing ----

    def _hear(self, frame: FrameLike) -> None:
        gap = frame.first_sample - self._memory.end
        if gap > _LONGEST_GAP_SAMPLES:
            self._start_afresh(frame.first_sample)
        elif gap > 0:
            self._skip_to(frame.first_sample)
        far = self._card.reference(self._card.time_of_sample(frame.first_sample) + AHEAD_S, frame.samples.size)
        is_open = frame.first_sample < self._open_until
        speech = self._score >= self._thresholds[0]
        heard, kept, rise_db = self._guard.process(frame.samples, far, key_down=is_open, speech=speech)
        if rise_db is not None:
            self._emit(EchoNoticed(rise_db=round(rise_db, 1)))
        self._heard.append(heard[max(0, -gap) :])
        self._memory.append(kept[max(0, -gap) :])
        while self._memory.end - self._scored_end >= WINDOW_SAMPLES:
            self._score_window()
        if self._memory.end - self._level_end >= _LEVEL_SAMPLES:
            self._measure()
        self._frame_came.set()
        self._follow()

    def _skip_to(self, sample: int) -> None:
        self._memory.skip_to(sample)
        self._heard.skip_to(sample)

    def _start_afresh(self, first_sample: int) -> None:
        """So much sound was lost that what came before says nothing about what follows."""
        end = self._memory.end
        self._skip_to(first_sample)
        if self._decoder.utterance is not None:
            self._decoder.utterance.lose(end, first_sample)
        self._guard.reset()
        self._listen_afresh(end)
        self._scored_end = self._turned_at = self._level_end = first_sample

    def _listen_afresh(self, end: int) -> None:
        """Nothing that was heard counts any more: speech under way ends at `end`, unless the talk key is held."""
        if self._speaking and self._open_until < _NEVER:
            self._turn(False, end)
        self._activity.reset()
        self._gate = SpeechGate(*self._thresholds)
        self._score = 0.0

    def _score_window(self) -> None:
        end = self._scored_end + WINDOW_SAMPLES
        self._score = self._activity.score(self._heard.read(self._scored_end, end))
        self._scored_end = end
        transition = self._gate.update(self._score, end)
        if transition is not None and self._mode != "ptt":
            self._turn(transition.speaking, transition.at_sample)

    def _turn(self, speaking: bool, at_sample: int) -> None:
        self._speaking, self._turned_at = speaking, at_sample
        at_s = self._card.time_of_sample(at_sample)
        self._emit(SpeechStarted(at_s=at_s) if speaking else SpeechStopped(at_s=at_s))

    def _measure(self) -> None:
        mic_dbfs = dbfs(self._heard.read(self._level_end, self._heard.end))
        self._level_end = self._heard.end
        self._emit(LevelsMeasured(mic_dbfs=mic_dbfs, speaker_dbfs=self._speaker_dbfs(), speech=self._score))
        stats = self._card.stats()
        if stats != self._stats:
            self._stats = stats
            self._emit(SoundTroubled(xruns=stats.xruns, dropped_frames=stats.dropped_frames))
        measure = self._guard.take_measure()
        if measure is not None:
            delay_ms = 1000 * (measure.delay_s - AHEAD_S)
            share = measure.residual_share
            self._emit(EchoMeasured(erle_db=measure.erle_db, delay_ms=delay_ms, residual_share=share))

    def _sample_at(self, at_s: float) -> int:
        """The sample that was captured at a session time, as far as it is there."""
        end = self._memory.end
        sample = end + round((at_s - self._card.time_of_sample(end)) * MIC_HZ)
        return min(max(sample, self._memory.first), end)

    # ---- decoding ----

    def _follow(self) -> None:
        self._decoder.follow(speaking=self._speaking, turned_at=self._turned_at)

    async def _listen(self, utterance: Utterance, until: int) -> Mapping[str, float]:
        if self._turn_end is None:
            return {}
        samples = self._memory.read(max(utterance.cuts[0], until - _TURN_END_SAMPLES), until)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._turn_end.listen, samples)


def _to_nobody(_: Event) -> None:
    """Nobody listens to the ears."""
