"""A ring of samples between a sound callback and one other thread: one writes, one reads, nobody waits."""

from __future__ import annotations

import numpy as np

from audio.frame import Samples


class Ring:
    """Single producer, single consumer, no locks. The writer always gets through; a slow reader loses the oldest.

    Each sample has a position, counted from 0 as it was written. Safe under CPython because each counter has one writer
    and is replaced in one step.

    Args:
        capacity: float32 samples, allocated here and never again.
    """

    def __init__(self, capacity: int) -> None:
        self._sound = np.zeros(capacity, np.float32)
        self._capacity = capacity
        self._claimed = 0  # the writer is at work up to here
        self._written = 0
        self._read = 0
        self._lost = 0

    @property
    def written(self) -> int:
        """Position after the newest sample."""
        return self._written

    @property
    def position(self) -> int:
        """Position of the sample that `read` gives next, unless it is overrun first."""
        return self._read

    @property
    def waiting(self) -> int:
        """Samples that are there to read."""
        return min(self._written - self._read, self._capacity)

    @property
    def lost(self) -> int:
        """Samples that were overwritten before they were read."""
        return self._lost

    def write(self, samples: Samples) -> None:
        """Add float32[n], n <= capacity. For the producer only."""
        start = self._written
        end = start + samples.shape[0]
        self._claimed = end
        at = start % self._capacity
        head = min(samples.shape[0], self._capacity - at)
        self._sound[at : at + head] = samples[:head]
        self._sound[: samples.shape[0] - head] = samples[head:]
        self._written = end

    def read(self, out: Samples) -> int:
        """Fill the front of float32[n] with the oldest samples and return how many. For the consumer only.

        What was overwritten is skipped and counted in `lost`, so `position` before the call need not be the position of
        the first sample: that is `position` after the call less the number returned.
        """
        while True:
            self._skip()
            start = self._read
            count = min(out.shape[0], self._written - start)
            at = start % self._capacity
            head = min(count, self._capacity - at)
            out[:head] = self._sound[at : at + head]
            out[head:count] = self._sound[: count - head]
            if self._claimed - self._capacity <= start:
                self._read = start + count
                return count

    def _skip(self) -> None:
        oldest = self._claimed - self._capacity
        if oldest > self._read:
            oldest = min(oldest, self._written)
            self._lost += oldest - self._read
            self._read = oldest
