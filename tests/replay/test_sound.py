"""Noises, the card without hardware, and the recording, sample by sample."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from app import events as ev
from app.ports import Samples
from app.replay import recording, user
from app.replay.card import SimulatedCard
from app.replay.director import UserSound
from app.replay.recording import Recording
from app.replay.script import NOISE_KINDS, At, Line, Noise, NoiseKind
from audio.wav import read_wav


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


class Counting:
    """A loudspeaker's source that keeps the times it was asked for."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def read(self, out: Samples, at_s: float) -> None:
        assert out.shape == (960,)
        self.times.append(at_s)


def test_the_card_mixes_lines_in_reads_a_block_ahead_and_counts_what_was_late() -> None:
    source, clock, sound = Counting(), HandClock(), np.full(1000, 0.5, np.float32)
    card = SimulatedCard(source, clock, seed=1)

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
    assert np.allclose(source.times[:50], 0.04 + 0.02 * np.arange(50))
    assert card.stats().xruns >= 48


def test_both_sides_lie_on_the_session_clock(tmp_path: Path) -> None:
    taken = Recording()
    quiet, loud = np.zeros(320, np.float32), np.full(320, 0.5, np.float32)
    for block in range(10):
        mine = loud if block == 4 else quiet
        theirs = np.repeat(loud if block == 6 else quiet, 3)
        taken.add(mine, 0.1 + 0.02 * block, theirs, 0.14 + 0.02 * block)
    taken.write(tmp_path / "o.wav")
    left, right = stereo(tmp_path / "o.wav")
    assert span_s(left) == pytest.approx((0.18, 0.20), abs=0.002)
    assert span_s(right) == (0.26, 0.28)


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
