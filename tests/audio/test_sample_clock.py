"""The sample clock: jitter is smoothed, drift is followed, lost sound is a jump of the index."""

from __future__ import annotations

import numpy as np
import pytest

from audio.sample_clock import SampleClock

HZ = 16_000
BLOCK = 320


def test_a_steady_device_with_jitter_keeps_its_time() -> None:
    clock = SampleClock(HZ)
    assert clock.restart(2.0, 0) == 0
    jitter = np.random.default_rng(3).normal(0.0, 0.003, 500)
    for block, off_s in enumerate(jitter):
        sample = block * BLOCK
        assert clock.observe(sample, 2.0 + sample / HZ + float(off_s)) == 0
        assert clock.time_of(sample) == pytest.approx(2.0 + sample / HZ, abs=0.003)


def test_a_crystal_that_runs_slow_is_followed() -> None:
    clock = SampleClock(HZ)
    clock.restart(0.0, 0)
    true_hz = HZ * (1 - 100e-6)
    for sample in range(0, 600 * HZ, BLOCK):
        assert clock.observe(sample, sample / true_hz) == 0
    assert clock.time_of(sample) == pytest.approx(sample / true_hz, abs=0.001)
    assert sample / true_hz - sample / HZ > 0.05, "a clock that did not follow would be off by this"


def test_lost_sound_moves_the_index_and_not_the_time() -> None:
    clock = SampleClock(HZ)
    clock.restart(1.0, 0)
    lost = 6 * BLOCK
    base = 0
    for block in range(200):
        true_sample = block * BLOCK + (lost if block >= 100 else 0)
        base += clock.observe(block * BLOCK + base, 1.0 + true_sample / HZ)
    assert base == pytest.approx(lost, abs=2)
    assert clock.time_of(200 * BLOCK + base) == pytest.approx(1.0 + (200 * BLOCK + lost) / HZ, abs=0.001)


def test_one_late_block_is_not_lost_sound() -> None:
    clock = SampleClock(HZ)
    clock.restart(0.0, 0)
    for block in range(100):
        late_s = 0.5 if block == 50 else 0.0
        assert clock.observe(block * BLOCK, block * BLOCK / HZ + late_s) == 0
    assert clock.time_of(0) == pytest.approx(0.0, abs=1e-6)


def test_after_a_device_came_back_the_index_has_a_gap_as_long_as_the_silence() -> None:
    clock = SampleClock(HZ)
    clock.restart(1.0, 0)
    assert clock.restart(5.0, 2 * HZ) == 4 * HZ
    assert clock.restart(3.0, 5 * HZ) == 5 * HZ, "an index never goes back"
