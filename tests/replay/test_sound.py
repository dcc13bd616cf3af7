"""Noises, the card without hardware, and the recording, sample by sample."""

from __future__ import annotations

import asyncio
import math
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from app import events as ev
from app.replay import recording, stopped, user
from app.replay.card import BlockSource, StoppedCard, WallCard
from app.replay.director import UserSound
from app.replay.recording import Recording
from app.replay.room import ROOMS, Echo
from app.replay.script import NOISE_KINDS, At, Line, Noise, NoiseKind
from app.replay.tap import LiveRecording
from app.replay.virtual import VirtualClock
from app.sound_ports import CardStats, Samples
from audio.errors import WavError
from audio.frame import Frame
from audio.wav import StereoWriter, read_wav


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_a_noise_has_its_level_and_length_and_comes_from_the_seed(kind: NoiseKind) -> None:
    made = [user.noise(Noise(kind, -30, 0.8), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert made[0].shape == (12_800,)
    assert 20 * np.log10(np.sqrt(np.mean(np.square(made[0])))) == pytest.approx(-30, abs=0.2)
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_a_sound_begins_and_ends_where_it_can_be_heard() -> None:
    sound = np.zeros(16_000, np.float32)
    sound[4000:8000] = np.sin(np.arange(4000)).astype(np.float32)
    first, last = user.audible(sound)
    assert first <= 4000 < first + 160
    assert last - 160 < 8000 <= last
    assert user.audible(np.zeros(100, np.float32)) == (0, 100)


class HandClock:
    """Shows what the test sets it to."""

    shows_s = 0.0

    def now_s(self) -> float:
        return self.shows_s

    async def sleep_until(self, at_s: float) -> None:
        raise AssertionError("the card's thread does not sleep on the event loop")


class Playing:
    """A loudspeaker's source that keeps the times it was asked for, and plays a sound from its first block on."""

    def __init__(self, sound: Samples | None = None) -> None:
        self._sound = np.zeros(0, np.float32) if sound is None else sound
        self.times: list[float] = []

    def read(self, out: Samples, at_s: float) -> None:
        assert out.shape == (960,)
        piece = self._sound[960 * len(self.times) :][:960]
        out[: piece.size], out[piece.size :] = piece, 0
        self.times.append(at_s)


def test_the_card_mixes_lines_in_reads_a_block_ahead_and_counts_what_was_late() -> None:
    source, clock, sound = Playing(), HandClock(), np.full(1000, 0.5, np.float32)
    card = WallCard(source, clock, seed=1)

    async def main() -> Samples:
        frames = card.frames()
        first = asyncio.ensure_future(anext(frames))
        await asyncio.sleep(0)  # it listens now
        assert card.play(sound) == 0.0
        clock.shows_s = 1.01  # fifty blocks are due at once
        taken = [await first] + [await anext(frames) for _ in range(49)]
        assert [frame.first_sample for frame in taken] == [320 * number for number in range(50)]
        assert card.stats().dropped_frames == 0
        clock.shows_s = 6.0  # nobody takes these, and a hundred may wait
        while not card.stats().dropped_frames:  # noqa: ASYNC110  # the thread sets no event
            await asyncio.sleep(0)
        return np.concatenate([frame.samples for frame in taken])

    with card:
        heard = asyncio.run(main())
    assert np.allclose(heard[:1000], 0.5, atol=0.002)
    assert 0 < np.abs(heard[1000:]).max() < 0.002
    assert np.allclose(source.times[:50], 0.041 + 0.02 * np.arange(50))
    assert card.stats().xruns >= 47


def tone(seconds: float, hz: int = 48_000) -> Samples:
    """Without clicks at its ends."""
    time_s = np.arange(round(seconds * hz)) / hz
    edge = np.clip(np.minimum(time_s, seconds - time_s) / 0.002, 0, 1)
    return (0.3 * edge * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)


def listen(card: StoppedCard, frames: int, from_s: float = 0.0) -> Samples:
    async def main() -> Samples:
        await asyncio.sleep(from_s)
        sound = card.frames()
        return np.concatenate([(await anext(sound)).samples for _ in range(frames)])

    return stopped.run(main())


def test_a_card_on_the_stopped_clock_begins_when_it_is_used_and_is_never_late() -> None:
    source = Playing()
    card = StoppedCard(source, VirtualClock(), seed=1)
    heard = listen(card, 50, from_s=2.0)
    assert heard.size == 16_000
    assert card.time_of_sample(16_000) == 3.0
    assert np.allclose(source.times, 2.041 + 0.02 * np.arange(50))
    assert card.stats() == (0, 0)
    assert np.array_equal(heard, listen(StoppedCard(Playing(), VirtualClock(), seed=1), 50))
    assert not np.array_equal(heard, listen(StoppedCard(Playing(), VirtualClock(), seed=2), 50))


def test_the_reference_is_what_the_loudspeaker_plays_when_it_plays_it() -> None:
    card = StoppedCard(Playing(tone(1.0)), VirtualClock(), seed=1)
    listen(card, 60)
    # Known for 40 ms beyond the newest frame, and the first block sounds after 41 ms.
    sound = np.concatenate([card.reference(0.02 * block, 320) for block in range(62)])
    assert not sound[: 656 - 16].any()
    assert np.allclose(sound[656 + 16 : 656 + 15_900], tone(1.0, 16_000)[16:15_900], atol=2e-3)


def test_the_room_gives_back_what_the_loudspeaker_plays_and_the_recording_leaves_it_out(tmp_path: Path) -> None:
    box = ROOMS["laptop"]
    with Recording(tmp_path / "o.wav") as recording:
        card = StoppedCard(Playing(tone(1.0)), VirtualClock(), seed=1, recording=recording, echo=Echo(box, 320))
        heard = listen(card, 60)
    bare = listen(StoppedCard(Playing(tone(1.0)), VirtualClock(), seed=1), 60)
    echo = heard - bare
    way = round((box.late_s + math.dist(box.loudspeaker, box.microphone) / 343) * 16_000)
    first = np.flatnonzero(np.abs(echo) > 1e-3)[0]
    assert first == pytest.approx(656 + way, abs=32)
    expected = through(Echo(box, 320), np.concatenate([np.zeros(656, np.float32), tone(1.0, 16_000)]))
    assert np.allclose(echo[:16_000], expected[:16_000], atol=2e-3)
    left, right = stereo(tmp_path / "o.wav")
    assert np.abs(left).max() < 0.002
    assert span_s(right) == pytest.approx((0.041, 1.041), abs=0.003)


def through(echo: Echo, sound: Samples) -> Samples:
    whole = sound[: sound.size // 320 * 320].reshape(-1, 320)
    return np.concatenate([echo.process(block) for block in whole])


def test_both_sides_lie_on_the_session_clock(tmp_path: Path) -> None:
    quiet, loud = np.zeros(320, np.float32), np.full(320, 0.5, np.float32)
    with Recording(tmp_path / "o.wav") as taken:
        for block in range(10):
            taken.add_user(loud if block == 4 else quiet, 0.1 + 0.02 * block)
            taken.add_agent(np.repeat(loud if block == 6 else quiet, 3), 0.14 + 0.02 * block)
    left, right = stereo(tmp_path / "o.wav")
    assert span_s(left) == pytest.approx((0.18, 0.20), abs=0.002)
    assert span_s(right) == (0.26, 0.28)


def test_a_recording_closes_gaps_with_silence_and_follows_no_jitter(tmp_path: Path) -> None:
    loud = np.full(960, 0.5, np.float32)
    with Recording(tmp_path / "o.wav") as taken:
        for block in range(25):
            taken.add_agent(loud, 0.02 * block + 0.005 * (block % 3))
        taken.add_agent(loud, 1.0)
        taken.add_agent(loud, 0.9)  # the device says that it went back: what was there stays
    left, right = stereo(tmp_path / "o.wav")
    assert not left.any()
    assert right[:24_000].all()
    assert not right[24_000:48_000].any()
    assert right[48_000 : 48_000 + 960].all()
    assert right.size == 48_000 + 960


def test_a_long_recording_needs_no_memory_and_no_second_side(tmp_path: Path) -> None:
    block = np.full(48_000, 0.25, np.float32)
    tracemalloc.start()
    with Recording(tmp_path / "o.wav") as taken:
        for second in range(60):
            taken.add_agent(block, float(second))
        taken.add_agent(block, 119.0)  # the device was gone for an hour, or nearly
        _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8e6  # of 23e6 that passed
    assert (tmp_path / "o.wav").stat().st_size == 44 + 120 * 48_000 * 4


def test_a_dialogue_that_fails_leaves_its_recording_and_a_full_disk_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = np.full(48_000, 0.25, np.float32)
    failing = Recording(tmp_path / "o.wav")
    failing.add_agent(second, 0.0)
    failing.__exit__(RuntimeError, RuntimeError(), None)
    assert (tmp_path / "o.wav").stat().st_size == 44 + 4 * 48_000

    def full(*_: object) -> None:
        raise WavError("it can't be written", "no space left", "make room")

    monkeypatch.setattr(StereoWriter, "write", full)
    full_disk = Recording(tmp_path / "p.wav")
    for number in range(10):
        full_disk.add_agent(second, float(number))
    with pytest.raises(WavError, match="no space"):
        full_disk.close()


class Frames:
    """A card of three seconds."""

    def __init__(self, tap: BlockSource) -> None:
        self._tap = tap

    async def frames(self) -> AsyncIterator[Frame]:
        out = np.zeros(960, np.float32)
        for block in range(150):
            self._tap.read(out, 0.04 + 0.02 * block)
            yield Frame(np.full(320, 0.25 if block == 100 else 0.0, np.float32), 320 * block)

    def time_of_sample(self, sample: int) -> float:
        return sample / 16_000

    def reference(self, at_s: float, count: int) -> Samples:
        return np.full(count, at_s, np.float32)

    def stats(self) -> CardStats:
        return CardStats(3, 4)


def test_a_live_conversation_is_recorded_as_it_passes(tmp_path: Path) -> None:
    async def main() -> None:
        with LiveRecording(tmp_path / "o.wav") as recording:
            card = recording.card(Frames(recording.tap(Playing(tone(1.0)))))
            assert len([frame async for frame in card.frames()]) == 150
            assert card.stats() == (3, 4)
            assert card.time_of_sample(8000) == 0.5
            assert card.reference(2.0, 3).tolist() == [2, 2, 2]

    asyncio.run(main())
    left, right = stereo(tmp_path / "o.wav")
    assert span_s(left) == pytest.approx((2.0, 2.02), abs=0.002)
    assert span_s(right) == pytest.approx((0.04, 1.04), abs=0.003)


def test_what_a_callback_left_and_nobody_took_in_time_is_silence(tmp_path: Path) -> None:
    with LiveRecording(tmp_path / "o.wav") as recording:
        tap, out = recording.tap(Playing(np.full(10 * 48_000, 0.5, np.float32))), np.zeros(960, np.float32)
        for block in range(500):
            tap.read(out, 0.02 * block)
    _, right = stereo(tmp_path / "o.wav")
    assert not right[: 6 * 48_000].any()
    assert right[6 * 48_000 + 960 :].all()
    assert right.size == 10 * 48_000


def test_a_virtual_dialogue_is_drawn_as_hums(tmp_path: Path) -> None:
    events: list[ev.Event] = [
        ev.PlayoutStarted(t_s=1.0, branch=1, at_s=1.0),
        ev.OutputHeld(t_s=2.0, branch=1, at_s=2.0, words=3),
        ev.OutputResumed(t_s=2.5, branch=1, at_s=2.5, words=3),
        ev.PlayoutFinished(t_s=3.0, branch=1, at_s=3.0),
        ev.OutputHeld(t_s=3.1, branch=1, at_s=3.1, words=3),
        ev.OutputHeld(t_s=3.3, branch=2, at_s=3.3, words=0),
        ev.OutputResumed(t_s=3.4, branch=2, at_s=3.4, words=0),
        ev.SessionClosed(t_s=4.0, reason="ended"),
    ]
    assert recording.loudspeaker_spans(events) == [(1.0, 2.0), (2.5, 3.0)]
    recording.draw(tmp_path / "o.wav", events, [UserSound(Line(At(0), "here", say="A"), 0.25, 0.75)])
    left, right = stereo(tmp_path / "o.wav")
    assert left.size == right.size == 4 * 48_000
    assert span_s(left) == pytest.approx((0.25, 0.75), abs=0.003)
    assert span_s(right) == pytest.approx((1.0, 3.0), abs=0.003)
    assert not right[round(2.01 * 48_000) : round(2.49 * 48_000)].any()


def stereo(path: Path) -> tuple[Samples, Samples]:
    """Both sides of a file, read by hand so that they are not averaged."""
    mono = read_wav(path, 48_000)
    both = np.frombuffer(path.read_bytes()[44:], "<i2").astype(np.float32).reshape(-1, 2) / 32768
    assert np.allclose(both.mean(axis=1), mono, atol=1e-6)
    return both[:, 0].astype(np.float32), both[:, 1].astype(np.float32)


def span_s(samples: Samples) -> tuple[float, float]:
    loud = np.flatnonzero(np.abs(samples) > 0.05)
    return float(loud[0]) / 48_000, float(loud[-1] + 1) / 48_000
