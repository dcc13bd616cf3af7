"""Device rates to 16 kHz at once: the streams of soxr deliver in lumps, up to 40 ms late."""

from __future__ import annotations

import math

import numpy as np

from audio.frame import MIC_HZ, Samples

_ZERO_CROSSINGS = 12  # of the sinc on each side
_PASSED = 0.92  # of the band below 8 kHz


class Downsampler:
    """Streaming: sample n of what comes out sounded with sample n * from_hz / 16000 of what went in.

    A sinc under a Kaiser window (beta 8: 80 dB), a row of taps for each place between two samples. What comes out ends
    0.75 ms before what went in.

    Args:
        from_hz: Rate of what goes in, at least 16 kHz.
    """

    def __init__(self, from_hz: int) -> None:
        assert from_hz >= MIC_HZ
        common = math.gcd(from_hz, MIC_HZ)
        self._up, self._down = MIC_HZ // common, from_hz // common
        self._half = math.ceil(_ZERO_CROSSINGS * from_hz / MIC_HZ)
        self._reach = np.arange(1 - self._half, self._half + 1)
        distance = self._reach - np.arange(self._up)[:, None] / self._up
        cutoff = _PASSED * MIC_HZ / from_hz
        window = np.i0(8.0 * np.sqrt(np.maximum(0.0, 1 - (distance / self._half) ** 2))) / np.i0(8.0)
        taps = cutoff * np.sinc(cutoff * distance) * window
        self._taps = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        self._waiting = np.zeros(self._half - 1, np.float32)
        self._first = 1 - self._half
        """Index of the first sample that waits."""
        self._next = 0

    def process(self, sound: Samples) -> Samples:
        """float32[n] at the rate of the device -> all at 16 kHz that can be told by now."""
        if self._up == self._down:
            return sound
        waiting = np.concatenate([self._waiting, sound])
        last = self._first + waiting.size - 1 - self._half
        stop = max(self._next, last * self._up // self._down + 1)
        number = np.arange(self._next, stop)
        at, phase = np.divmod(number * self._down, self._up)
        out = np.einsum("ij,ij->i", waiting[(at - self._first)[:, None] + self._reach], self._taps[phase])
        self._next = stop
        keep_from = stop * self._down // self._up + 1 - self._half
        self._waiting = waiting[keep_from - self._first :].copy()
        self._first = keep_from
        return out
