"""The reference: by time, without shaking, across jitter, drift, lost sound and a device that was opened again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import soxr

from app.sound_ports import Samples
from audio.downsample import Downsampler
from audio.frame import FRAME_SAMPLES, MIC_HZ
from audio.reference import Reference

FRAME_S = FRAME_SAMPLES / MIC_HZ


def ramp(first: int, count: int) -> Samples:
    """Samples that say where they come from."""
    return np.arange(first + 1, first + count + 1, dtype=np.float32)


def place(sound: Samples) -> int:
    """Where a piece of the ramp comes from; it must be one piece."""
    assert set(np.diff(sound)) == {1.0}
    return int(sound[0]) - 1


def play(reference: Reference, frames: int, at_s: list[float], first: int = 0) -> None:
    for frame in range(frames):
        reference.add(ramp(first + frame * FRAME_SAMPLES, FRAME_SAMPLES), at_s[frame], afresh=frame == 0 and first == 0)


def test_it_is_read_by_time_and_is_silent_where_it_is_not_known() -> None:
    reference = Reference()
    assert not reference.read(1.0, FRAME_SAMPLES).any()
    play(reference, 50, [5.0 + frame * FRAME_S for frame in range(50)])
    assert reference.known_until_s == pytest.approx(6.0)
    assert place(reference.read(5.5, FRAME_SAMPLES)) == MIC_HZ // 2
    before = reference.read(4.99, FRAME_SAMPLES)
    assert not before[:160].any()
    assert place(before[160:]) == 0
    after = reference.read(5.99, FRAME_SAMPLES)
    assert place(after[:160]) == MIC_HZ - 160
    assert not after[160:].any()


def test_what_the_clocks_say_to_the_millisecond_does_not_shake_it() -> None:
    random, reference = np.random.default_rng(0), Reference()
    jitter_s = random.normal(0, 0.002, 2000)
    places: list[int] = []
    for frame in range(2000):
        at_s = frame * FRAME_S
        reference.add(
            ramp(frame * FRAME_SAMPLES, FRAME_SAMPLES), at_s + 0.06 + float(jitter_s[frame]), afresh=frame == 0
        )
        if frame >= 10:
            places.append(place(reference.read(at_s + float(random.normal(0, 0.0002)), FRAME_SAMPLES)))
    assert set(np.diff(places)) == {FRAME_SAMPLES}
    assert places[-1] == pytest.approx((1999 * FRAME_S - 0.06) * MIC_HZ, abs=200)


@pytest.mark.parametrize("ppm", [100, -100])
def test_a_drift_between_the_clocks_is_made_up_for_sample_by_sample(ppm: int) -> None:
    reference, steps, late = Reference(), list[int](), list[float]()
    last = 0
    for frame in range(20_000):
        at_s = frame * FRAME_S
        sounds_at_s = at_s * (1 + ppm * 1e-6) + 0.06
        reference.add(ramp(frame * FRAME_SAMPLES, FRAME_SAMPLES), sounds_at_s, afresh=frame == 0)
        here = place(reference.read(at_s, FRAME_SAMPLES)) if frame >= 10 else -1
        if frame > 10:
            steps.append(here - last - FRAME_SAMPLES)
            late.append((at_s - 0.06) / (1 + ppm * 1e-6) * MIC_HZ - here)
        last = here
    assert {abs(step) for step in steps} == {0, 1}
    assert max(map(abs, late[500:])) < 0.007 * MIC_HZ
    assert abs(sum(steps)) > 0.5 * 400 * abs(ppm) * 1e-6 * MIC_HZ


def test_a_slip_of_some_milliseconds_that_lasts_is_made_up_for_at_once() -> None:
    reference, places = Reference(), list[int]()
    reference.add(ramp(0, 8 * MIC_HZ), 0.0, afresh=True)
    for frame in range(200):
        slip_s = 0.012 if frame >= 20 else 0.0
        places.append(place(reference.read(0.5 + frame * FRAME_S + slip_s, FRAME_SAMPLES)))
    steps = np.diff(places) - FRAME_SAMPLES
    assert sum(steps) == round(0.012 * MIC_HZ)
    assert max(steps) > 100, "mostly in one step"
    assert 20 < int(np.argmax(steps)) < 90, "not at the first sign"


def test_after_lost_sound_it_is_right_at_once() -> None:
    reference = Reference()
    for frame in range(100):
        gap_s = 0.15 if frame >= 50 else 0.0
        afresh = frame in (0, 50)
        reference.add(ramp(frame * FRAME_SAMPLES, FRAME_SAMPLES), frame * FRAME_S + gap_s, afresh=afresh)
    assert place(reference.read(0.98, FRAME_SAMPLES)) == 49 * FRAME_SAMPLES
    assert not reference.read(1.04, FRAME_SAMPLES).any()
    assert place(reference.read(1.65, FRAME_SAMPLES)) == 75 * FRAME_SAMPLES


def test_a_device_that_was_away_for_long_leaves_silence() -> None:
    reference = Reference()
    reference.add(ramp(0, MIC_HZ), 1.0, afresh=True)
    reference.add(ramp(MIC_HZ, MIC_HZ), 61.0, afresh=True)
    assert not reference.read(30.0, FRAME_SAMPLES).any()
    assert place(reference.read(61.5, FRAME_SAMPLES)) == MIC_HZ + MIC_HZ // 2
    assert reference.known_until_s == pytest.approx(62.0)


@pytest.mark.parametrize("hz", [48_000, 44_100, 32_000, 16_000])
def test_any_chunks_give_the_same_as_the_whole_and_as_soxr(hz: int) -> None:
    random = np.random.default_rng(hz)
    sound = random.normal(0, 0.1, 2 * hz)
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(sound.size, 1 / hz) > 5500] = 0
    sound = np.fft.irfft(spectrum, sound.size).astype(np.float32)
    whole = Downsampler(hz).process(sound)
    edges = [0, *np.cumsum(random.integers(1, 1500, 400)), sound.size]
    stream = Downsampler(hz)
    pieces = [stream.process(sound[start:end]) for start, end in pairwise(edges) if start < end]
    assert np.allclose(np.concatenate(pieces), whole, atol=1e-6)
    assert (sound.size / hz - whole.size / MIC_HZ) * 1000 < 1.0, "nothing waits for longer than a millisecond"
    true = soxr.resample(sound, hz, MIC_HZ, "VHQ")[: whole.size]
    inside = slice(200, -200)
    assert np.sqrt(np.mean((whole - true)[inside] ** 2)) < 1e-3 * np.sqrt(np.mean(true**2))


def test_what_16_khz_cannot_hold_does_not_fold_back() -> None:
    at_s = np.arange(48_000) / 48_000
    heard = Downsampler(48_000).process(np.sin(2 * np.pi * 9500 * at_s).astype(np.float32))
    assert np.abs(heard[100:-100]).max() < 1e-3
