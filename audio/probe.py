"""Sound with which a loudspeaker and a microphone are tried out, and what the microphone's record of it tells."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.devices import SILENT_DBFS, dbfs
from audio.frame import MIC_HZ, Samples

_SWEEP_HZ = (200.0, 6000.0)
_SWEEP_S = 1.0
_PAUSE_S = 0.6  # a room dies away in it
_SPEECH_S = 7.0
_LEVEL_DBFS = -23.0
_LEARNING_S = 3.0
_FORMANTS_HZ = ((700, 1200, 2500), (300, 2300, 3000), (500, 900, 2400), (350, 800, 2300), (450, 1800, 2600))
_SYLLABLE_S = 0.22
_CLEAR = 8.0  # standard deviations of the correlation: noise alone does not reach them


class Heard(NamedTuple):
    """What came back of the probe."""

    level_dbfs: float
    """Of the loudest 100 ms of the microphone: a dead one stays below -80."""
    echo: bool
    """Whether the sweep came back at all."""
    delay_s: float
    """From the reference to the strongest echo. Means nothing without an echo, like the next two."""
    echo_db: float
    """Level of the echo against what was played."""
    erle_db: float
    """How much weaker the canceller made the echo of something like speech, once it had learned for 3 s."""


def probe(hz: int) -> Samples:
    """float32[n]: a sweep over 1 s, silence, 7 s of something like speech, silence. As loud as a soft voice."""
    pause = np.zeros(round(_PAUSE_S * hz), np.float32)
    return np.concatenate([pause, sweep(hz), pause, speech_like(hz, _SPEECH_S), pause])


def sweep(hz: int) -> Samples:
    """float32[hz]: a tone that rises by so many octaves a second, 200 to 6000 Hz (exponential; Farina 2000)."""
    at_s = np.arange(round(hz * _SWEEP_S)) / hz
    low, high = _SWEEP_HZ
    rate = math.log(high / low) / _SWEEP_S
    tone = np.sin(2 * np.pi * low / rate * (np.exp(at_s * rate) - 1))
    return _levelled(tone * np.minimum(1.0, np.minimum(at_s, _SWEEP_S - at_s) / 0.02))


def speech_like(hz: int, seconds: float, seed: int = 0) -> Samples:
    """float32[hz * seconds]: a buzz through moving formants, in syllables, with hisses in between. No words."""
    random = np.random.default_rng(seed)
    count = round(hz * seconds)
    at_s = np.arange(count) / hz
    pitch_hz = 120 + 25 * np.sin(2 * np.pi * 0.4 * at_s) + 6 * np.sin(2 * np.pi * 2.3 * at_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / hz
    sound = np.zeros(count)
    syllable = (at_s / _SYLLABLE_S).astype(int)
    vowels = random.integers(len(_FORMANTS_HZ), size=int(seconds / _SYLLABLE_S) + 2)
    formants_hz = np.array(_FORMANTS_HZ)[vowels][syllable].astype(float)
    for harmonic in range(1, 34):
        around = (harmonic * pitch_hz[:, None] - formants_hz) / np.array([90.0, 120.0, 180.0])
        sound += (1 / (1 + around**2)).sum(axis=1) / harmonic**0.5 * np.sin(harmonic * phase)
    place = at_s / _SYLLABLE_S - syllable
    voiced = np.sin(np.pi * np.clip(place / 0.75, 0, 1)) ** 0.7
    hiss = np.diff(random.standard_normal(count + 1)) * 0.3 * (place > 0.8)
    spoken = random.random(vowels.size) > 0.15
    return _levelled((sound * voiced + hiss) * spoken[syllable])


def judge(near: Samples, far: Samples, left: Samples) -> Heard:
    """What a record tells.

    Args:
        near: float32[n] at 16 kHz of the microphone while the probe was played.
        far: What the loudspeaker played, not later than its echo.
        left: What the canceller left of the microphone.
    """
    block = MIC_HZ // 10
    loudest_dbfs = max((dbfs(near[at : at + block]) for at in range(0, near.size, block)), default=SILENT_DBFS)
    sounding = np.flatnonzero(np.abs(far) > 1e-4)
    if sounding.size == 0:
        return Heard(loudest_dbfs, False, 0.0, 0.0, 0.0)
    start = int(sounding[0])
    swept = slice(start, start + round((_SWEEP_S + _PAUSE_S) * MIC_HZ))
    lag, peak = _strongest(near[swept], far[swept])
    spoken = speech_part(far)
    played, echo, rest = (float(np.mean(np.square(sound[spoken]))) + 1e-12 for sound in (far, near, left))
    return Heard(
        loudest_dbfs,
        peak > _CLEAR,
        lag / MIC_HZ,
        10 * math.log10(echo / played),
        10 * math.log10(echo / rest),
    )


def speech_part(far: Samples) -> slice:
    """Where the record holds what is like speech, once a canceller had 3 s to learn it; empty if nothing was played."""
    sounding = np.flatnonzero(np.abs(far) > 1e-4)
    if sounding.size == 0:
        return slice(0)
    return slice(int(sounding[0]) + round((_SWEEP_S + _PAUSE_S + _LEARNING_S) * MIC_HZ), int(sounding[-1]))


def _strongest(near: Samples, far: Samples) -> tuple[int, float]:
    """Lag of the peak of the cross-correlation, and how many times as high it is as what lies around it."""
    size = 1 << (2 * near.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(near, size) * np.conj(np.fft.rfft(far, size)), size)[: near.size // 2]
    height = np.abs(product)
    lag = int(np.argmax(height))
    return lag, float(height[lag] / (np.median(height) / 0.6745 + 1e-12))


def _levelled(sound: NDArray[np.float64]) -> Samples:
    power = float(np.mean(np.square(sound)))
    return (sound * 10 ** (_LEVEL_DBFS / 20) / math.sqrt(power)).astype(np.float32)
