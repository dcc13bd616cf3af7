"""How the voice moves at the end of an utterance: the slopes of its pitch and of its level.

Pitch is found by autocorrelation (Rabiner 1977), each lag divided by what the window's own autocorrelation leaves of it
(Boersma 1993), so that long periods are not put at a disadvantage.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.frame import MIC_HZ, Samples

HOP_S = 0.01
_HOP = round(HOP_S * MIC_HZ)
_WINDOW = 4 * _HOP
_FFT = 2 * _WINDOW
_LOWEST_HZ, _HIGHEST_HZ = 65, 420
_PERIODIC = 0.55
"""Autocorrelation at the best lag from which on a frame is voiced."""
_NEARLY_BEST = 0.9
"""A shorter lag that is nearly as good wins: the best one may be two periods."""
_SPEECH_DB, _VOICED_DB = 40.0, 30.0
"""How far below the loudest frame speech, and voiced speech, may be."""
_END_FRAMES, _FEWEST_FRAMES = 50, 8


class Prosody(NamedTuple):
    """The end of an utterance."""

    speech_s: float
    """Sound that is at most 40 dB softer than the loudest, pauses left out."""
    pitch_slope: float | None
    """Semitones per second over the last 0.5 s of voiced sound; None where too little is voiced."""
    energy_slope: float | None
    """Decibels per second over the same."""


def measure(samples: Samples) -> Prosody:
    """The prosody of float32[n] at 16 kHz. Sound without a loud frame has no speech in it."""
    frames = _frames(samples)
    level_db = np.asarray(10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12), np.float64)
    loudest_db = level_db.max(initial=-120.0)
    if loudest_db < -100:
        return Prosody(0.0, None, None)
    speech_s = float(np.count_nonzero(level_db > loudest_db - _SPEECH_DB)) * HOP_S
    loud = np.flatnonzero(level_db > loudest_db - _VOICED_DB)[-4 * _END_FRAMES :]
    pitch_hz = pitches_hz(frames[loud])
    end = np.flatnonzero(pitch_hz)[-_END_FRAMES:]
    if end.size < _FEWEST_FRAMES:
        return Prosody(speech_s, None, None)
    at, semitones = loud[end], 12 * np.log2(pitch_hz[end])
    return Prosody(speech_s, _slope(at, semitones), _slope(at, level_db[at]))


def pitches_hz(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """The pitch of each of float64[n, 640] frames, 40 ms at 16 kHz; 0 where it is not voiced."""
    window = np.hanning(_WINDOW)
    correlation = _autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * window)
    own = _autocorrelation(window[None])[0]
    lags = np.arange(MIC_HZ // _HIGHEST_HZ, MIC_HZ // _LOWEST_HZ + 1)
    likeness = correlation[:, lags] / (own[lags] / own[0]) / np.maximum(correlation[:, :1], 1e-12)
    best = likeness.max(axis=1, initial=0.0)
    peaks = np.zeros(likeness.shape, bool)
    peaks[:, 1:-1] = (likeness[:, 1:-1] >= likeness[:, :-2]) & (likeness[:, 1:-1] > likeness[:, 2:])
    peaks &= likeness >= _NEARLY_BEST * best[:, None]
    voiced = (best >= _PERIODIC) & peaks.any(axis=1)
    return np.where(voiced, MIC_HZ / lags[np.argmax(peaks, axis=1)], 0.0)


def _autocorrelation(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.fft.irfft(np.square(np.abs(np.fft.rfft(frames, _FFT))), _FFT)


def _frames(samples: Samples) -> NDArray[np.float64]:
    """Frames of 40 ms, one every 10 ms."""
    count = max(0, (samples.size - _WINDOW) // _HOP + 1)
    places = np.arange(count)[:, None] * _HOP + np.arange(_WINDOW)
    return samples.astype(np.float64)[places]


def _slope(at: NDArray[np.intp], values: NDArray[np.float64]) -> float:
    """The median slope between any two frames, per second (Theil 1950, Sen 1968): an octave error moves it little."""
    one, other = np.triu_indices(at.size, 1)
    return float(np.median((values[other] - values[one]) / (at[other] - at[one]))) / HOP_S
