"""The playout: what `read` wrote, sample by sample, against what the playhead says was heard."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from audio.playout import Playhead, Playout

HZ = 48_000
BLOCK = 960
FADE_OUT = 240
FADE_IN = 960


def ramp(count: int, first: int = 1) -> NDArray[np.float32]:
    """Samples that say which they are, exact in float32."""
    return np.arange(first, first + count, dtype=np.float32) / 2**22


def head_at(playout: Playout, now_s: float) -> Playhead:
    head = playout.playhead(now_s)
    assert head is not None
    return head


class Device:
    """Reads block after block; a block becomes audible `delay_s` after it was asked for."""

    def __init__(self, playout: Playout, delay_s: float = 0.06) -> None:
        self.playout, self.delay_s = playout, delay_s
        self.now_s = 0.0
        self.air = np.zeros(0, np.float32)

    def run(self, blocks: int) -> NDArray[np.float32]:
        """The sound of the next blocks."""
        new = np.full(blocks * BLOCK, np.nan, np.float32)
        for block in range(blocks):
            self.playout.read(new[block * BLOCK :][:BLOCK], self.now_s + self.delay_s)
            self.now_s += BLOCK / HZ
        self.air = np.concatenate([self.air, new])
        return new

    def heard(self) -> int:
        return head_at(self.playout, self.now_s).heard_samples


@pytest.fixture
def playout() -> Playout:
    return Playout(seconds=4.0)


def test_a_stream_is_played_bit_for_bit_across_the_ends_of_the_ring(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    sent, total = 0, 10 * HZ
    while sent < total:
        count = min(playout.room_samples(), total - sent, 12_345)
        assert playout.enqueue(1, ramp(count, 1 + sent)) == sent
        sent += count
        device.run(5)
    playout.finish(1)
    device.run(200)
    assert np.array_equal(device.air[:total], ramp(total))
    assert not device.air[total:].any()
    head = head_at(playout, device.now_s)
    assert head.done
    assert head.heard_samples == total
    assert head.started_at_s == pytest.approx(device.delay_s)
    assert head.last_at_s == pytest.approx(device.delay_s + (total - 1) / HZ)
    assert playout.starved == 0


def test_what_the_device_has_not_made_audible_yet_is_not_heard(playout: Playout) -> None:
    device = Device(playout, delay_s=0.06)
    playout.begin(1)
    playout.enqueue(1, ramp(HZ))
    device.run(3)
    head = head_at(playout, 0.0599)
    assert head.heard_samples == 0
    assert head.started_at_s is None
    assert head_at(playout, 0.06 + 100.5 / HZ).heard_samples == 101
    assert head_at(playout, 9.0).heard_samples == 3 * BLOCK, "handed out is all that can be heard"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 30), st.integers(0, 9000))
def test_hold_freezes_the_playhead_at_the_last_sample_that_sounded(before: int, during: int, back: int) -> None:
    playout = Playout(seconds=4.0)
    device = Device(playout)
    playout.begin(7)
    playout.enqueue(7, ramp(2 * HZ))
    device.run(before)
    playout.hold()
    quiet = device.run(during)
    device.run(4)  # until the last sound has left
    expected = before * BLOCK + (FADE_OUT if before else 0)
    assert device.heard() == expected
    assert head_at(playout, device.now_s).held
    assert not quiet[FADE_OUT:].any(), "silent but for the fade"
    assert np.count_nonzero(device.air) == max(0, expected - (1 if before else 0)), "the fade ends at 0"
    start = max(0, expected - back)
    playout.resume(start)
    again = device.run(3)
    fade = np.linspace(0.0, 1.0, FADE_IN, dtype=np.float32)
    assert np.array_equal(again[:FADE_IN], ramp(3 * BLOCK, 1 + start)[:FADE_IN] * fade)
    assert np.array_equal(again[FADE_IN:], ramp(3 * BLOCK, 1 + start)[FADE_IN:])
    device.run(4)
    playout.hold()
    device.run(5)
    assert device.heard() == start + 7 * BLOCK + FADE_OUT


def test_held_is_not_said_before_the_last_sound_has_left(playout: Playout) -> None:
    device = Device(playout, delay_s=0.1)
    playout.begin(1)
    playout.enqueue(1, ramp(HZ))
    device.run(10)
    playout.hold()
    assert not head_at(playout, device.now_s).held, "the callback has not even seen it"
    device.run(1)
    last_s = device.now_s - BLOCK / HZ + 0.1 + (FADE_OUT - 1) / HZ
    assert not head_at(playout, last_s - 1e-6).held
    assert head_at(playout, last_s + 1e-6).held


def test_hold_without_a_device_is_silence_too(playout: Playout) -> None:
    playout.begin(1)
    playout.hold()
    assert head_at(playout, 0.0).held
    device = Device(playout)
    playout.resume(0)
    playout.enqueue(1, ramp(HZ))
    device.run(2)
    playout.hold()
    assert not head_at(playout, device.now_s).held
    assert head_at(playout, device.now_s + 1.0).held, "the card was unplugged meanwhile"


def test_a_dead_branch_is_silent_within_a_block_and_takes_no_sound(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    playout.enqueue(1, ramp(HZ))
    device.run(2)
    playout.begin(2)
    assert playout.enqueue(1, ramp(10)) is None
    assert playout.enqueue(2, -ramp(BLOCK)) == 0
    air = device.run(2)
    assert (air[: FADE_OUT - 1] > 0).all(), "the old one fades"
    assert np.array_equal(air[FADE_OUT:][:BLOCK], -ramp(BLOCK)), "the new one follows at once"
    playout.stop(1)
    assert playout.playhead(device.now_s) is not None, "it was no longer the living one"
    playout.stop(2)
    assert playout.playhead(device.now_s) is None
    assert playout.enqueue(2, ramp(10)) is None
    assert not device.run(2)[FADE_OUT:].any()


def test_orders_between_two_blocks_add_up_to_the_last(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    playout.enqueue(1, ramp(HZ))
    device.run(5)
    playout.hold()
    playout.resume(3 * BLOCK)
    air = device.run(1)
    assert air[FADE_OUT - 1] == 0.0
    fade = np.linspace(0.0, 1.0, FADE_IN, dtype=np.float32)[: BLOCK - FADE_OUT]
    assert np.array_equal(air[FADE_OUT:], ramp(BLOCK - FADE_OUT, 1 + 3 * BLOCK) * fade)


def test_one_can_step_back_a_second_however_full_the_buffer_is(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    sent = 0
    for _ in range(100):
        count = playout.room_samples()
        playout.enqueue(1, ramp(count, 1 + sent))
        sent += count
        device.run(2)
    playout.hold()
    device.run(5)
    farthest = device.heard()
    playout.enqueue(1, ramp(playout.room_samples(), 1 + sent))
    playout.resume(0)
    air = device.run(3)[FADE_IN:]
    first = farthest - HZ
    assert np.array_equal(air, ramp(air.size, 1 + first + FADE_IN))
    with pytest.raises(AssertionError):
        playout.enqueue(1, ramp(playout.room_samples() + 1))


def test_ducking_ramps_to_its_level_and_back(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    playout.enqueue(1, np.ones(2 * HZ, np.float32))
    device.run(2)
    playout.duck()
    down = device.run(2)
    level = 10 ** (-15 / 20)
    ramp_samples = 15 * HZ // 1000
    assert down[ramp_samples:] == pytest.approx(level, abs=1e-6)
    assert (np.diff(down[:ramp_samples]) < 0).all()
    assert np.abs(np.diff(down)).max() < 2 * (1 - level) / ramp_samples, "no step that clicks"
    playout.unduck()
    up = device.run(2)
    assert (np.diff(up[: ramp_samples - 2]) > 0).all()
    assert (up[ramp_samples:] == 1.0).all(), "bit for bit at full level"
    assert device.heard() == 6 * BLOCK - round(device.delay_s * HZ) + 1


def test_a_gap_between_clauses_is_counted_once_and_heals(playout: Playout) -> None:
    device = Device(playout)
    playout.begin(1)
    playout.enqueue(1, ramp(BLOCK + 100))
    device.run(6)
    assert playout.starved == 1
    assert playout.enqueue(1, ramp(BLOCK, 1 + BLOCK + 100)) == BLOCK + 100
    playout.finish(1)
    assert np.array_equal(device.run(1), ramp(BLOCK, 1 + BLOCK + 100))
    device.run(6)
    assert playout.starved == 1, "the end is no gap"
    assert head_at(playout, device.now_s).done


def test_reading_allocates_no_arrays(playout: Playout) -> None:
    out = np.zeros(BLOCK, np.float32)
    playout.begin(1)
    playout.enqueue(1, ramp(2 * HZ))

    def play(extra: bool) -> int:
        tracemalloc.start()
        try:
            base = tracemalloc.get_traced_memory()[0]
            for block in range(20):
                if block == 5:
                    playout.duck()
                if block == 10:
                    playout.hold()
                if block == 15:
                    playout.resume(3000)
                playout.read(out, block * 0.02)
                if extra:
                    _ = out.copy()
            return tracemalloc.get_traced_memory()[1] - base
        finally:
            tracemalloc.stop()

    play(False)  # Python's own caches
    assert play(False) < out.nbytes / 2
    assert play(True) >= out.nbytes, "one block copied would show"


def test_the_level_is_that_of_the_newest_block(playout: Playout) -> None:
    device = Device(playout)
    assert playout.level_dbfs == -120.0
    playout.begin(1)
    playout.enqueue(1, np.full(2 * BLOCK, 0.1, np.float32))
    device.run(1)
    assert playout.level_dbfs == pytest.approx(-20.0, abs=0.01)
    device.run(2)
    assert playout.level_dbfs == -120.0
