"""The gentle echo canceller: subtracts what a linear filter makes of the loudspeaker's sound, and nothing else.

It leaves more echo than audio/echo.py does, but of the user it takes nothing: that is what a recogniser wants.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audio.frame import FRAME_SAMPLES, MIC_HZ, Samples

_FFT = 2 * FRAME_SAMPLES
_BINS = FRAME_SAMPLES + 1
_MEMORY = 0.999  # of the echo path, a frame: how fast it is believed to change
_SMOOTHING = 0.6  # of the spectrum of what is no echo; a syllable lasts ten frames
_DOUBT = 0.05  # variance of each part of the path before anything was heard
_REVIEW_FRAMES = 100  # of playback
_USELESS = 0.98  # power left of what went in: the filter knows nothing, or nothing that still holds
_FLOOR = 1e-6  # power of a bin, as white noise of -85 dBFS has it: below that nothing can be learned


class LinearCanceller:
    """Satisfies `app.sound_ports.EchoCanceller`.

    A Kalman filter in the frequency domain, in partitions of a frame (Enzner and Vary 2006; partitioned by Kuech,
    Mabande and Enzner, ICASSP 2014): each bin of each partition knows how sure it is of its part of the echo path, and
    what is no echo, the user above all, makes it learn slower. So nobody has to detect double talk.

    Where the loudspeaker was silent for the filter's length the microphone comes out as it went in, bit for bit.

    Args:
        reach_ms: Longest time from the reference to the end of its echo.
    """

    def __init__(self, reach_ms: int = 400) -> None:
        partitions = reach_ms * MIC_HZ // 1000 // FRAME_SAMPLES
        self._spectra = np.zeros((partitions, _BINS), np.complex64)
        self._path = np.zeros((partitions, _BINS), np.complex64)
        self._doubt = np.zeros((partitions, _BINS), np.float32)
        self._near = np.zeros(_FFT, np.float32)
        self._far = np.zeros(_FFT, np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget the echo path and what the loudspeaker played."""
        self._spectra[:] = 0
        self._path[:] = 0
        self._doubt[:] = _DOUBT
        self._other = np.zeros(_BINS, np.float32)
        self._far[:] = 0
        self._quiet_frames = self._spectra.shape[0]
        self._start_review()

    def process(self, near: Samples, far: Samples) -> Samples:
        """float32[320] of the microphone and of the loudspeaker -> float32[320] without the echo's linear part."""
        self._quiet_frames = 0 if far.any() else self._quiet_frames + 1
        self._far[:FRAME_SAMPLES] = self._far[FRAME_SAMPLES:]
        self._far[FRAME_SAMPLES:] = far
        self._spectra[1:] = self._spectra[:-1]
        self._spectra[0] = np.fft.rfft(self._far)
        if self._quiet_frames > self._spectra.shape[0]:
            return near
        echo = np.fft.irfft((self._path * self._spectra).sum(axis=0))[FRAME_SAMPLES:].astype(np.float32)
        cleaned = near - echo
        self._near[FRAME_SAMPLES:] = cleaned
        self._learn(np.fft.rfft(self._near).astype(np.complex64))
        self._review(float(np.dot(near, near)), float(np.dot(cleaned, cleaned)))
        return cleaned

    def _review(self, before: float, after: float) -> None:
        """A filter that is sure of the wrong path, or of none, would take half a minute to find another: doubt anew."""
        self._reviewed += 1
        self._before += before
        self._after += after
        if self._reviewed == _REVIEW_FRAMES:
            if self._after > _USELESS * self._before:
                np.maximum(self._doubt, _DOUBT, out=self._doubt)
            self._start_review()

    def _start_review(self) -> None:
        self._reviewed, self._before, self._after = 0, 0.0, 0.0

    def _learn(self, error: NDArray[np.complex64]) -> None:
        powers = self._spectra.real**2 + self._spectra.imag**2
        # What the filter may still be wrong by. Half: a frame is half of the window that its spectrum is taken of.
        unsure = 0.5 * (self._doubt * powers).sum(axis=0)
        surplus = np.maximum(error.real**2 + error.imag**2 - unsure, 0.0)
        self._other += (1 - _SMOOTHING) * (surplus - self._other)
        gain = self._doubt / (unsure + self._other + _FLOOR)
        step = np.fft.irfft(gain * self._spectra.conj() * error, axis=1)
        step[:, FRAME_SAMPLES:] = 0
        self._path += np.fft.rfft(step, axis=1)
        self._doubt *= 1 - 0.5 * gain * powers
        certain = _MEMORY * _MEMORY
        self._doubt *= certain
        self._doubt += (1 - certain) * (self._path.real**2 + self._path.imag**2)
