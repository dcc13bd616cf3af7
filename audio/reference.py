"""What the loudspeaker plays, by session time: the reference of an echo canceller."""

from __future__ import annotations

import math

import numpy as np

from audio.frame import MIC_HZ, Samples
from audio.memory import SoundMemory
from audio.sample_clock import SampleClock

AHEAD_S = 0.04
"""How far before its echo a canceller should get the reference. One that comes after its echo is worthless (20 ms late:
3 to 13 dB instead of 27 to 50), one that is too early only costs a little of the filter's reach; and drivers err by
some 10 ms in what they say of their delays."""
_KEPT_S = 10  # a consumer of frames may be 5 s behind
_SMOOTHING = 0.02  # a read: the times of single blocks jitter by some ms
_SLACK_SAMPLES = 5 * MIC_HZ // 1000
_SLIP_SAMPLES = 20 * MIC_HZ // 1000
_LASTING_SLIP_SAMPLES = 8 * MIC_HZ // 1000


class Reference:
    """Sound that comes in order and can be asked for by time. One thread adds, another reads.

    A canceller can follow a slow drift, and it can learn a new delay; what it can't stand is a reference that shakes.
    So consecutive reads are consecutive samples, whatever the clocks of the devices say about some ms: a drift is made
    up for by a sample at a time, and a slip (20 ms, or 8 ms that last) at once.
    """

    def __init__(self) -> None:
        self._memory = SoundMemory(_KEPT_S * MIC_HZ)
        self._clock = SampleClock(MIC_HZ)
        self._next = 0
        self._late = 0.0

    @property
    def known_until_s(self) -> float:
        """Session time of the end of what was added."""
        return self._clock.time_of(self._memory.end) if self._memory.end else -math.inf

    def add(self, sound: Samples, at_s: float, *, afresh: bool) -> None:
        """Add float32[n] at 16 kHz behind the newest.

        Args:
            sound: What the loudspeaker plays.
            at_s: When its first sample becomes audible, as the driver says.
            afresh: The device was opened, or sound was lost: what came before says nothing about the time of this.
        """
        end = self._memory.end
        lost_to = self._clock.restart(at_s, end) if afresh else end + self._clock.observe(end, at_s)
        self._memory.skip_to(lost_to)
        self._memory.append(sound)

    def read(self, at_s: float, count: int) -> Samples:
        """float32[count] that sounds from `at_s` on, zeros where that is not known."""
        wanted = self._clock.sample_at(at_s)
        late = wanted - self._next
        self._late += _SMOOTHING * (late - self._late)
        lasts = abs(self._late) > _SLACK_SAMPLES
        if abs(late) > _SLIP_SAMPLES or (lasts and abs(late) > _LASTING_SLIP_SAMPLES):
            self._next, self._late = round(wanted), 0.0
        elif lasts:
            step = 1 if self._late > 0 else -1
            self._next += step
            self._late -= step
        start, self._next = self._next, self._next + count
        sound = np.zeros(count, np.float32)
        there = max(start, self._memory.first)
        known = self._memory.read(there, self._next)
        sound[there - start : there - start + known.size] = known
        return sound
