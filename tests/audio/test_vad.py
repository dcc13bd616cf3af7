"""Voice activity: the streaming model against faster-whisper's own run, and the gate's edges against known ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from faster_whisper.vad import get_vad_model

from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice
from audio.vad import WINDOW_SAMPLES, SileroVad, SpeechGate, Transition


def scores(vad: SileroVad, sound: Samples) -> list[float]:
    return [
        vad.score(window)
        for window in sound[: sound.size // WINDOW_SAMPLES * WINDOW_SAMPLES].reshape(-1, WINDOW_SAMPLES)
    ]


def spoken(voice_path: Path, text: str) -> Samples:
    """Half a second of faint noise, the text, half a second more."""
    clip = PiperVoice(voice_path).synthesise(text)
    speech = soxr.resample(clip.samples[: clip.words[-1].end], SPEAKER_HZ, MIC_HZ)
    noise = np.random.default_rng(0).normal(0, 1e-3, MIC_HZ + speech.size).astype(np.float32)
    noise[MIC_HZ // 2 : MIC_HZ // 2 + speech.size] += speech
    return noise


def test_noise_is_no_speech_and_reset_forgets() -> None:
    vad = SileroVad()
    noise = np.random.default_rng(1).normal(0, 0.05, 40 * WINDOW_SAMPLES).astype(np.float32)
    first = scores(vad, noise)
    assert max(first) < 0.3
    assert scores(vad, noise) != first
    vad.reset()
    assert scores(vad, noise) == first


def test_the_gate_has_hysteresis_and_never_goes_back_in_time() -> None:
    gate = SpeechGate(0.5, 0.35, onset_lead_samples=700, offset_lead_samples=1300)
    levels = [0.49, 0.5, 0.36, 0.34, 0.49, 0.6, 0.1]
    got = [gate.update(level, (k + 1) * WINDOW_SAMPLES) for k, level in enumerate(levels)]
    assert got == [
        None,
        Transition(True, 2 * WINDOW_SAMPLES - 700),
        None,
        Transition(False, 4 * WINDOW_SAMPLES - 1300),
        None,
        Transition(True, 6 * WINDOW_SAMPLES - 700),
        Transition(False, max(6 * WINDOW_SAMPLES - 700, 7 * WINDOW_SAMPLES - 1300)),
    ]
    assert not gate.speaking


@pytest.mark.models
def test_streamed_scores_equal_the_batch_run_of_faster_whisper(voice_path: Path) -> None:
    sound = spoken(voice_path, "Tell me about the moon.")
    sound = sound[: sound.size // WINDOW_SAMPLES * WINDOW_SAMPLES]
    ours = scores(SileroVad(), sound)
    theirs = np.ravel(get_vad_model()(sound.copy()))  # it blanks the end of the last window, in place
    assert np.allclose(ours[:-1], theirs[:-1], atol=1e-4)
    assert max(ours) > 0.9


@pytest.mark.models
def test_reported_edges_are_near_the_true_ones(voice_path: Path) -> None:
    sound = spoken(voice_path, "Please tell me a story about the sea.")
    vad, gate = SileroVad(), SpeechGate()
    found = [gate.update(score, (k + 1) * WINDOW_SAMPLES) for k, score in enumerate(scores(vad, sound))]
    edges = [transition for transition in found if transition]
    assert [edge.speaking for edge in edges] == [True, False] * (len(edges) // 2)
    assert edges[0].at_sample == pytest.approx(MIC_HZ // 2, abs=0.06 * MIC_HZ)
    assert edges[-1].at_sample == pytest.approx(sound.size - MIC_HZ // 2, abs=0.08 * MIC_HZ)
    for stopped, started in zip(edges[1::2], edges[2::2], strict=False):
        assert started.at_sample - stopped.at_sample < 0.1 * MIC_HZ, "a dip between two words, no end of speech"
