"""The newest sound, addressed by its sample index."""

from __future__ import annotations

import numpy as np

from audio.frame import Samples


class SoundMemory:
    """A row of samples without gaps. What is older than the memory reads as nothing.

    One thread may append while another reads what is not about to be overwritten.

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
        self._end += samples.size  # last: from here on the samples count

    def skip_to(self, index: int) -> None:
        """The next sample has this index; silence is put in between, or everything forgotten if that fills it."""
        if index - self._end < self._ring.size:
            self.append(np.zeros(index - self._end, np.float32))
        else:
            self._first = self._end = index

    def read(self, start: int, end: int) -> Samples:
        """A copy of the samples from `start` up to `end`, as far as they are there."""
        places = np.arange(max(start, self.first), min(end, self._end))
        return self._ring[places % self._ring.size]
