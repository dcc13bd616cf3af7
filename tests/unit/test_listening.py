"""LiveEars on a scripted card: sound in which every word can be told from every other, so none can be lost or doubled.

A word is 240 ms of a level of its own; the scripted recogniser reads levels back and calls a word that was cut through
"half". The worker runs at once, or step by step where order matters. Nothing sleeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, Future
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soxr

from app import events
from app.listening import LiveEars, dbfs
from app.sound_ports import CardStats, Samples
from audio.asr import Whisper
from audio.frame import FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ, Frame
from audio.memory import SoundMemory
from audio.tts import PiperVoice
from audio.vad import SileroVad

ZERO_S = 5.0  # session time of sample 0
WORD = int(0.24 * MIC_HZ)
BREAK = int(0.12 * MIC_HZ)
PAUSE = int(0.6 * MIC_HZ)


def silence(samples: int) -> Samples:
    return np.zeros(samples, np.float32)


def say(first: int, count: int) -> Samples:
    """Words `first`, `first + 1`, ... with short breaks behind them."""
    parts = [np.append(np.full(WORD, 0.1 + 0.001 * k, np.float32), silence(BREAK)) for k in range(first, first + count)]
    return np.concatenate(parts).astype(np.float32)


def text_of(first: int, count: int) -> str:
    return " ".join(f"w{k}" for k in range(first, first + count))


class Read(NamedTuple):
    text: str


class LevelReader:
    """Reads the words back, and keeps account of how much sound it was given."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def transcribe(self, samples: Samples) -> Read:
        self.seconds.append(samples.size / MIC_HZ)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], samples > 0.05, [0]]).astype(int)))
        words: list[str] = []
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            levels = samples[start:end]
            assert np.ptp(levels) < 1e-6, "two words without the break between them"
            words.append(f"w{round((float(levels[0]) - 0.1) * 1000)}" if end - start == WORD else "half")
        return Read(" ".join(words))


class LevelActivity:
    """Speech where the level is up, and for 160 ms after it."""

    def __init__(self) -> None:
        self.quiet_windows, self.resets = 99, 0

    def score(self, window: Samples) -> float:
        assert window.shape == (512,)
        self.quiet_windows = 0 if window.max() > 0.05 else self.quiet_windows + 1
        return 0.9 if self.quiet_windows <= 5 else 0.1

    def reset(self) -> None:
        self.quiet_windows, self.resets = 99, self.resets + 1


class AtOnce(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


class StepByStep(Executor):
    """Jobs wait until the test runs them."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    async def step(self) -> None:
        future, job = self.jobs.pop(0)
        if future.set_running_or_notify_cancel():
            future.set_result(job())
        await settle()


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


Step = Callable[["Rig"], Awaitable[None] | None]


class Rig:
    """Ears on a card that plays sound, and runs a step when its sample has been heard."""

    def __init__(self, sound: Samples, steps: dict[int, Step] | None = None, worker: Executor | None = None) -> None:
        self.sound, self.steps = sound, dict(sorted((steps or {}).items()))
        self.lost: set[int] = set()
        self.skip_at, self.skip = -1, 0
        self.counted = CardStats(0, 0)
        self.reader, self.activity = LevelReader(), LevelActivity()
        self.log: list[events.Event] = []
        self.ears = LiveEars(self, self.activity, self.reader, worker=worker or AtOnce())

    async def frames(self) -> AsyncIterator[Frame]:
        shift = 0
        for number, at in enumerate(range(0, self.sound.size - FRAME_SAMPLES + 1, FRAME_SAMPLES)):
            shift += self.skip if number == self.skip_at else 0
            if number not in self.lost:
                yield Frame(self.sound[at : at + FRAME_SAMPLES], at + shift)
            await settle()
            for due in [sample for sample in self.steps if sample <= at + FRAME_SAMPLES]:
                done = self.steps.pop(due)(self)
                if done is not None:
                    await done

    def time_of_sample(self, sample: int) -> float:
        return ZERO_S + sample / MIC_HZ

    def reference(self, at_s: float, count: int) -> Samples:
        return silence(count)

    def stats(self) -> CardStats:
        return self.counted

    def run(self) -> None:
        asyncio.run(self.ears.run(self.log.append))

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.log if isinstance(event, kind)]


def start(from_sample: int, utterance: int = 1) -> Step:
    return lambda rig: rig.ears.start_utterance(utterance, rig.time_of_sample(from_sample))


def finish(into: list[str], until_sample: int, utterance: int = 1) -> Step:
    async def step(rig: Rig) -> None:
        into.append((await rig.ears.transcribe(utterance, rig.time_of_sample(until_sample))).text)

    return step


def test_speech_is_reported_with_its_true_edges() -> None:
    begin, words = MIC_HZ, say(0, 4)
    rig = Rig(np.concatenate([silence(begin), words, silence(MIC_HZ)]))
    rig.run()
    (started,), (stopped,) = rig.of(events.SpeechStarted), rig.of(events.SpeechStopped)
    assert started.at_s == pytest.approx(ZERO_S + begin / MIC_HZ, abs=0.05)
    hang_s = 6 * 0.032  # the scripted activity's own
    assert stopped.at_s == pytest.approx(ZERO_S + (begin + words.size - BREAK) / MIC_HZ + hang_s - 0.08, abs=0.05)


def test_partials_come_while_the_user_talks_and_their_stable_words_stay() -> None:
    begin = MIC_HZ // 2
    rig = Rig(np.concatenate([silence(begin), say(0, 10), silence(MIC_HZ)]), {begin + 1600: start(begin)})
    rig.run()
    partials = rig.of(events.PartialTranscribed)
    assert partials[0].unstable.startswith("w0") or "half" in partials[0].unstable
    assert 5 <= len(partials) <= 10
    for before, after in pairwise(partials):
        assert after.stable.startswith(before.stable)
    assert partials[-1].stable.split()[:8] == text_of(0, 8).split()
    assert rig.reader.seconds[0] == pytest.approx(0.4, abs=0.07)
    assert np.diff(rig.reader.seconds).min() >= 0.4 - 1e-9


def test_silence_after_the_words_is_not_decoded_again_and_again() -> None:
    begin = MIC_HZ // 2
    rig = Rig(np.concatenate([silence(begin), say(0, 3), silence(8 * MIC_HZ)]), {begin + 1600: start(begin)})
    rig.run()
    assert max(rig.reader.seconds) < 2.5


def test_the_final_holds_what_was_said_up_to_its_time() -> None:
    begin, finals = MIC_HZ // 2, list[str]()
    first, second = say(0, 5), say(5, 3)
    sound = np.concatenate([silence(begin), first, silence(PAUSE), second, silence(PAUSE)])
    middle, end = begin + first.size, begin + first.size + PAUSE + second.size
    steps = {begin + 1600: start(begin), middle + 3200: finish(finals, middle), end + 3200: finish(finals, end)}
    Rig(sound, steps).run()
    assert finals == [text_of(0, 5), text_of(0, 8)]


@pytest.mark.parametrize(("words", "pause_every"), [(500, 9), (300, 10_000), (300, 31)])
def test_minutes_of_speech_lose_and_double_no_word_and_cost_the_same(words: int, pause_every: int) -> None:
    begin, finals = MIC_HZ // 2, list[str]()
    chunks = [say(k, min(pause_every, words - k)) for k in range(0, words, pause_every)]
    sound = np.concatenate([silence(begin), *(np.append(chunk, silence(PAUSE)) for chunk in chunks), silence(PAUSE)])
    end = sound.size - 2 * FRAME_SAMPLES
    rig = Rig(sound.astype(np.float32), {begin + 1600: start(begin), end: finish(finals, end)})
    rig.run()
    assert finals == [text_of(0, words)]
    assert max(rig.reader.seconds) <= 26.1
    if pause_every == 9:
        assert max(rig.reader.seconds) < 12 + 9 * (WORD + BREAK) / MIC_HZ + 1


def test_the_check_has_teeth_a_cut_through_a_word_is_seen() -> None:
    assert LevelReader().transcribe(say(7, 2)[100:]).text == "half w8"


def test_a_final_is_decoded_beside_a_partial_and_reuses_no_stale_sound() -> None:
    begin, finals, worker = MIC_HZ // 2, list[str](), StepByStep()
    words = say(0, 6)
    end = begin + words.size

    async def ask(rig: Rig) -> None:
        assert len(worker.jobs) == 1, "one partial is under way, and further ones wait for it"
        async with asyncio.TaskGroup() as group:
            group.create_task(finish(finals, end)(rig))
            await settle()
            assert len(worker.jobs) == 2, "the final does not wait for the partial"
            await worker.step()
            await worker.step()
        assert finals == [text_of(0, 6)]

    Rig(
        np.concatenate([silence(begin), words, silence(PAUSE)]), {begin + 1600: start(begin), end + 3200: ask}, worker
    ).run()
    assert finals


def test_a_cancelled_final_leaves_the_ears_working() -> None:
    begin, finals, worker = MIC_HZ // 2, list[str](), StepByStep()
    words = say(0, 2)
    end = begin + words.size

    async def cancel_one(rig: Rig) -> None:
        one = asyncio.ensure_future(rig.ears.transcribe(1, rig.time_of_sample(end)))
        await settle()
        one.cancel()
        await settle()
        async with asyncio.TaskGroup() as group:
            group.create_task(finish(finals, end)(rig))
            await settle()
            while worker.jobs:
                await worker.step()

    Rig(
        np.concatenate([silence(begin), words, silence(PAUSE)]),
        {begin + 1600: start(begin), end + 3200: cancel_one},
        worker,
    ).run()
    assert finals == [text_of(0, 2)]


def test_an_utterance_ends_the_one_before_and_a_forgotten_one_has_no_text() -> None:
    begin, finals = MIC_HZ // 2, list[str]()
    first, second = say(0, 3), say(3, 3)
    again = begin + first.size + PAUSE
    sound = np.concatenate([silence(begin), first, silence(PAUSE), second, silence(PAUSE)])
    steps: dict[int, Step] = {
        begin + 1600: start(begin),
        again: start(again - 1600, utterance=2),
        again + second.size: finish(finals, again + second.size, utterance=1),
        again + second.size + 1600: finish(finals, again + second.size, utterance=2),
        again + second.size + 3200: lambda rig: rig.ears.end_utterance(2),
        again + second.size + 4800: finish(finals, again + second.size, utterance=2),
    }
    Rig(sound, steps).run()
    assert finals == ["", text_of(3, 3), ""]


def test_a_short_gap_is_silence_and_keeps_time() -> None:
    begin, finals = MIC_HZ // 2, list[str]()
    words = say(0, 8)
    end = begin + words.size
    rig = Rig(
        np.concatenate([silence(begin), words, silence(PAUSE)]),
        {begin + 1600: start(begin), end + 3200: finish(finals, end)},
    )
    rig.lost = {(begin + 3 * (WORD + BREAK)) // FRAME_SAMPLES + 2}  # inside the fourth word
    rig.run()
    assert finals == ["w0 w1 w2 half half w4 w5 w6 w7"]
    assert rig.activity.resets == 0


@pytest.mark.parametrize(("gap_s", "heard"), [(30, text_of(0, 6)), (120, text_of(2, 4))])
def test_a_long_gap_ends_the_speech_and_starts_afresh(gap_s: int, heard: str) -> None:
    begin, finals = MIC_HZ // 2, list[str]()
    words = say(0, 6)
    end = begin + words.size
    steps = {begin + 1600: start(begin), end + 3200: finish(finals, end + gap_s * MIC_HZ)}
    rig = Rig(np.concatenate([silence(begin), words, silence(PAUSE)]), steps)
    rig.skip_at, rig.skip = (begin + 2 * (WORD + BREAK)) // FRAME_SAMPLES, gap_s * MIC_HZ
    rig.run()
    assert finals == [heard]  # sound from before a gap is kept as long as any sound is
    assert rig.activity.resets == 1
    edges = (events.SpeechStarted, events.SpeechStopped)
    times = [round(event.at_s, 1) for event in rig.log if isinstance(event, edges)]
    assert times == sorted(times)
    assert len(times) == 4
    assert times[2] - times[1] == pytest.approx(gap_s, abs=0.2)


def test_levels_come_ten_times_a_second_and_trouble_when_a_counter_rises() -> None:
    def count(rig: Rig) -> None:
        rig.counted = CardStats(2, 1)

    rig = Rig(np.full(2 * MIC_HZ, 0.1, np.float32), {MIC_HZ: count})
    rig.run()
    levels = rig.of(events.LevelsMeasured)
    assert len(levels) == 20
    assert {round(level.mic_dbfs) for level in levels} == {-20}
    assert rig.of(events.SoundTroubled) == [events.SoundTroubled(xruns=2, dropped_frames=1)]
    assert dbfs(silence(10)) == -120


def test_the_memory_keeps_the_newest_and_reads_the_rest_as_nothing() -> None:
    memory = SoundMemory(1000)
    sound = np.arange(2600, dtype=np.float32)
    for at in range(0, 2600, 325):
        memory.append(sound[at : at + 325])
    assert (memory.first, memory.end) == (1600, 2600)
    assert np.array_equal(memory.read(1700, 2000), sound[1700:2000])
    assert np.array_equal(memory.read(0, 9999), sound[1600:])
    memory.skip_to(2610)
    assert np.array_equal(memory.read(2590, 9999), np.append(sound[2590:], silence(10)))
    memory.skip_to(50_000)
    memory.append(sound[:10])
    assert np.array_equal(memory.read(0, 60_000), sound[:10])


@pytest.mark.models
def test_real_parts_hear_a_real_sentence_and_no_words_in_noise(asr_path: Path, voice_path: Path) -> None:
    clip = PiperVoice(voice_path).synthesise("Could you tell me something about the moon?")
    speech = soxr.resample(clip.samples, SPEAKER_HZ, MIC_HZ)
    begin, finals = MIC_HZ, list[str]()
    end = begin + round(clip.words[-1].end * MIC_HZ / SPEAKER_HZ)
    sound = np.concatenate([silence(begin), speech, silence(2 * MIC_HZ)])
    sound += np.random.default_rng(0).normal(0, 1e-3, sound.size).astype(np.float32)
    quiet = end + MIC_HZ
    steps = {
        begin + 3200: start(begin - 3200),
        end + 3200: finish(finals, end),
        quiet: start(quiet - 8000, utterance=2),
        quiet + 1600: finish(finals, quiet, utterance=2),
    }
    rig = Rig(sound, steps)
    rig.ears = LiveEars(rig, SileroVad(), Whisper(asr_path), worker=AtOnce())
    rig.run()
    assert finals == ["Could you tell me something about the moon?", ""]
    assert rig.of(events.SpeechStarted)[0].at_s == pytest.approx(rig.time_of_sample(begin), abs=0.06)
    assert rig.of(events.SpeechStopped)[-1].at_s == pytest.approx(rig.time_of_sample(end), abs=0.1)
    partials = rig.of(events.PartialTranscribed)
    assert partials[-1].stable.startswith("Could you tell me")
