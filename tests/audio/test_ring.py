"""The ring: every sample comes out once and in order, or is counted as lost."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from audio.ring import Ring

CAPACITY = 16


@given(st.lists(st.tuples(st.booleans(), st.integers(1, CAPACITY)), max_size=60))
def test_samples_come_out_in_order_and_losses_are_counted(steps: list[tuple[bool, int]]) -> None:
    ring = Ring(CAPACITY)
    row = np.zeros(CAPACITY, np.float32)
    written, expected, taken = 0, 0, 0
    for writes, count in steps:
        if writes:
            ring.write(np.arange(written, written + count, dtype=np.float32))
            written += count
        else:
            oldest = max(expected, written - CAPACITY)
            got = ring.read(row[:count])
            assert row[:got].tolist() == list(range(oldest, oldest + got))
            assert got == min(count, written - oldest)
            expected = oldest + got
            taken += got
            assert ring.position == expected
    taken += ring.read(row)
    assert ring.waiting == 0
    assert taken + ring.lost == ring.written == written


def test_an_overrun_loses_the_oldest_and_says_how_many() -> None:
    ring = Ring(8)
    for start in (0, 4, 8):
        ring.write(np.arange(start, start + 4, dtype=np.float32))
    row = np.zeros(8, np.float32)
    assert ring.read(row) == 8
    assert row.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert ring.lost == 4


def test_two_threads_never_see_a_torn_or_repeated_sample() -> None:
    ring = Ring(1024)
    total = 100_000
    going = threading.Event()

    def write() -> None:
        going.wait()
        for start in range(0, total, 100):
            ring.write(np.arange(start, start + 100, dtype=np.float32))

    writer = threading.Thread(target=write)
    writer.start()
    going.set()
    row = np.zeros(333, np.float32)
    got = 0
    while ring.position < total:
        count = ring.read(row)
        first = ring.position - count
        assert np.array_equal(row[:count], np.arange(first, first + count, dtype=np.float32))
        got += count
    writer.join()
    assert got + ring.lost == total
