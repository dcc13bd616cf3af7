"""The user's side as sound: lines spoken by a voice, recordings, and noises made from a seed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import soxr

from app.errors import ScriptError
from app.replay.script import Line, Noise
from app.sound_ports import Samples, Voice
from audio.frame import MIC_HZ, SPEAKER_HZ
from audio.wav import read_wav

# What is so much softer than the loudest 10 ms of a sound is not part of it.
_GATE_DB = -40.0
_GATE_SAMPLES = MIC_HZ // 100
_BABBLE_VOICES = 6


class Rendered(NamedTuple):
    """A line as sound."""

    samples: Samples
    """float32[n] at 16 kHz."""
    first: int
    """First sample that is audible."""
    last: int
    """Sample after the last that is audible."""


def render(lines: Iterable[Line], voice: Voice, seed: int) -> dict[Line, Rendered]:
    """Make sound of lines.

    Args:
        lines: Lines of a script.
        voice: Speaks what is to be said.
        seed: For noises; the same seed gives the same sound.

    Raises:
        AudioError: A recording can't be read.
        ScriptError: A line asks for what only scripted parts can do.
    """
    random = np.random.default_rng(seed)
    rendered: dict[Line, Rendered] = {}
    for line in lines:
        if line.fault:
            raise ScriptError(
                f"{line.source} of the script can't be performed here",
                "no sound card breaks on demand",
                "use --clock virtual",
            )
        if not line.is_sound:
            continue
        if line.noise:
            samples = noise(line.noise, random)
        elif line.audio:
            samples = read_wav(line.audio, MIC_HZ)
        else:
            spoken = voice.synthesise(line.say or "").samples
            samples = soxr.resample(spoken, SPEAKER_HZ, MIC_HZ).astype(np.float32)
        rendered[line] = Rendered(samples, *audible(samples))
    return rendered


def audible(samples: Samples) -> tuple[int, int]:
    """First audible sample, and the one after the last, to 10 ms; (0, n) for a sound that is too short to tell."""
    whole = samples[: samples.size // _GATE_SAMPLES * _GATE_SAMPLES]
    powers = np.square(whole).reshape(-1, _GATE_SAMPLES).mean(axis=1)
    if not powers.size or powers.max() == 0:
        return 0, samples.size
    loud = np.flatnonzero(powers >= powers.max() * 10 ** (_GATE_DB / 10))
    return int(loud[0]) * _GATE_SAMPLES, (int(loud[-1]) + 1) * _GATE_SAMPLES


def noise(wanted: Noise, random: np.random.Generator) -> Samples:
    """A noise of the wanted RMS level: float32[n] at 16 kHz."""
    size = round(wanted.seconds * MIC_HZ)
    time_s = np.arange(size) / MIC_HZ
    match wanted.kind:
        case "white":
            sound = random.standard_normal(size)
        case "cough":
            sound = _cough(time_s, wanted.seconds, random)
        case "babble":
            sound = sum(_talker(time_s, random) for _ in range(_BABBLE_VOICES))
    level = float(np.sqrt(np.mean(np.square(sound)))) or 1.0
    return np.clip(sound / level * 10 ** (wanted.db / 20), -1, 1).astype(np.float32)


def _cough(time_s: np.ndarray, seconds: float, random: np.random.Generator) -> np.ndarray:
    """Two bursts of hoarse noise, each with a sharp start and a fast decay."""
    hoarse = np.convolve(random.standard_normal(time_s.size), np.hanning(9), "same")
    since_s = [np.where(time_s >= start_s, time_s - start_s, np.inf) for start_s in (0.0, 0.45 * seconds)]
    return hoarse * sum(np.exp(-after_s / (0.12 * seconds)) for after_s in since_s)


def _talker(time_s: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Harmonics under a syllable's rhythm: what a far voice leaves when its words can't be told."""
    pitch_hz = random.uniform(90, 220)
    harmonics = np.arange(1, int(3000 / pitch_hz))
    phases = random.uniform(0, 2 * np.pi, harmonics.size)
    tone = np.zeros(time_s.size)
    for harmonic, phase in zip(harmonics, phases, strict=True):  # one by one: an hour of all would need 15 GB
        tone += np.sin(2 * np.pi * pitch_hz * harmonic * time_s + phase) / harmonic
    rhythm = 0.5 + 0.5 * np.sin(2 * np.pi * random.uniform(3, 5) * time_s + random.uniform(0, 2 * np.pi))
    return tone * rhythm
