"""Which session time a microphone sample was captured at, and which samples never came."""

from __future__ import annotations

from collections import deque

_TRACKING = 0.02  # per block: follows the drift of a crystal, not the jitter of a server
_LATE_BLOCKS = 25  # this many blocks late in a row: the sound between was lost, it is not jitter
_LATE_S = 0.1


class SampleClock:
    """Maps sample indices to session time: `time_of(i) = i / hz + offset`, with the offset slowly following the device.

    Lost sound is a jump of the index, never of the offset, so one line holds for the whole session.

    Args:
        hz: Sample rate of the indices.
    """

    def __init__(self, hz: int) -> None:
        self._hz = hz
        self._offset_s: float | None = None
        self._late_s: deque[float] = deque(maxlen=_LATE_BLOCKS)

    def time_of(self, sample: int) -> float:
        """Session time in s at which a sample was captured."""
        return (self._offset_s or 0.0) + sample / self._hz

    def sample_at(self, at_s: float) -> float:
        """The index, with a fraction, that was captured at a session time."""
        return (at_s - (self._offset_s or 0.0)) * self._hz

    def restart(self, at_s: float, next_sample: int) -> int:
        """The index of a sample captured at `at_s`, the first after the device was opened; not below `next_sample`."""
        self._late_s.clear()
        if self._offset_s is None:
            self._offset_s = at_s - next_sample / self._hz
        return max(next_sample, round((at_s - self._offset_s) * self._hz))

    def observe(self, sample: int, at_s: float) -> int:
        """Learn that the device says a sample was captured at `at_s`.

        Returns:
            How many samples were lost before it (then its index has to rise by so many); almost always 0.
        """
        error_s = at_s - self.time_of(sample)
        self._late_s.append(error_s)
        late_s = min(self._late_s)
        if len(self._late_s) == _LATE_BLOCKS and late_s > _LATE_S:
            self._late_s.clear()
            return round(late_s * self._hz)
        if error_s < _LATE_S and self._offset_s is not None:
            self._offset_s += _TRACKING * error_s
        return 0
