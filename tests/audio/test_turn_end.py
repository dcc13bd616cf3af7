"""How the end of an utterance sounds: the spectrogram against a slow one written from its definition, the model on
whole and broken-off speech, and the prosody of sounds whose pitch and level are known.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from app import models
from audio import prosody
from audio.asr import Whisper
from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice
from audio.turn_end import SmartTurn, log_mel, mel_filters
from tests.bench import endpoint_clips, endpoint_rows
from tests.conftest import CACHE

# ---- the spectrogram ----


def slaney_filters() -> NDArray[np.float64]:
    """80 triangles of area 1 from 0 to 8 kHz, float64[80, 201], equally wide on Slaney's scale: it is linear to 1 kHz,
    and then takes 27 steps for a factor of 6.4."""

    def hz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    corners = [hz(top * number / 81) for number in range(82)]
    found = np.zeros((80, 201))
    for mel, (low, middle, high) in enumerate(zip(corners, corners[1:], corners[2:], strict=False)):
        for place in range(201):
            at = place * 40
            rise, fall = (at - low) / (middle - low), (high - at) / (high - middle)
            found[mel, place] = max(0.0, min(rise, fall)) * 2 / (high - low)
    return found


def slow_log_mel(samples: Samples) -> NDArray[np.float64]:
    """float64[80, 800], with the discrete Fourier transform as a sum."""
    padded = np.concatenate([np.zeros(8 * MIC_HZ - samples.size), samples.astype(np.float64)])
    level = (padded - np.mean(padded)) / np.sqrt(np.var(padded) + 1e-7)
    mirrored = np.concatenate([level[200:0:-1], level, level[-2:-202:-1]])
    at = np.arange(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * at / 400)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(201), at) / 400)
    frames = np.stack([mirrored[160 * number : 160 * number + 400] * window for number in range(800)], axis=1)
    power = np.abs(waves @ frames) ** 2
    loudness = np.log10(np.maximum(slaney_filters() @ power, 1e-10))
    return (np.maximum(loudness, loudness.max() - 8) + 4) / 4


def sound(seconds: float) -> Samples:
    """A gliding hum with breaks over noise that fades."""
    at_s = np.arange(round(seconds * MIC_HZ)) / MIC_HZ
    hum = np.sin(2 * np.pi * (120 * at_s + 30 * np.sin(2 * at_s))) * (np.sin(5 * at_s) > -0.3)
    noise = np.random.default_rng(4).standard_normal(at_s.size) * np.exp(-at_s)
    return (0.3 * hum + 0.02 * noise).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.4, 3.21, 8.0])
def test_the_spectrogram_is_that_of_its_definition(seconds: float) -> None:
    ours, slow = log_mel(sound(seconds), mel_filters()), slow_log_mel(sound(seconds))
    assert ours.shape == (80, 800)
    assert ours.dtype == np.float32
    assert np.abs(ours - slow).max() < 1e-4


def test_another_level_gives_the_same_spectrogram_and_another_place_does_not() -> None:
    ours = log_mel(sound(3), mel_filters())
    assert np.abs(log_mel(sound(3) * np.float32(0.25), mel_filters()) - ours).max() < 0.01
    late = np.concatenate([sound(3), np.zeros(MIC_HZ, np.float32)])
    assert np.abs(log_mel(late, mel_filters()) - ours).max() > 0.5
    assert np.isfinite(log_mel(np.zeros(MIC_HZ, np.float32), mel_filters())).all()


# ---- the model ----


@pytest.fixture(scope="module")
def turn_path() -> Path:
    return models.resolve("smart-turn-v3.2", "turn", root=CACHE)


@pytest.fixture(scope="module")
def smart_turn(turn_path: Path) -> SmartTurn:
    return SmartTurn(turn_path)


@pytest.mark.models
def test_only_the_last_8_s_count(smart_turn: SmartTurn) -> None:
    heard = sound(8)
    before = np.random.default_rng(1).standard_normal(5 * MIC_HZ).astype(np.float32)
    assert smart_turn.listen(np.concatenate([before, heard])) == smart_turn.listen(heard)
    assert smart_turn.listen(heard[: 7 * MIC_HZ])["smart_turn"] != smart_turn.listen(heard)["smart_turn"]


@pytest.mark.models
def test_silence_has_no_melody(smart_turn: SmartTurn) -> None:
    for samples in (np.zeros(0, np.float32), np.zeros(MIC_HZ, np.float32)):
        heard = smart_turn.listen(samples)
        assert heard.keys() == {"smart_turn", "speech_s"}
        assert 0 <= heard["smart_turn"] <= 1
        assert heard["speech_s"] == 0


@pytest.mark.models
def test_whole_sentences_sound_more_finished_than_their_beginnings(smart_turn: SmartTurn, voice_path: Path) -> None:
    speak = endpoint_clips.piper(voice_path, seed=7)
    said = {name: text for name, text in endpoint_clips.texts(test=True).items() if name.startswith("commands")}
    scores: dict[bool, list[float]] = {True: [], False: []}
    for clip in endpoint_clips.clips("joe", speak, dict(list(said.items())[:6])):
        scores[clip.finished].append(smart_turn.listen(clip.sound)["smart_turn"])
    assert np.mean(scores[True]) > np.mean(scores[False]) + 0.3


def test_a_file_that_is_not_there_or_no_such_model_is_told(tmp_path: Path) -> None:
    path = tmp_path / "turn.onnx"
    with pytest.raises(SpeechModelError, match="no such file"):
        SmartTurn(path)
    path.write_bytes(b"not a model")
    with pytest.raises(SpeechModelError, match="can't be loaded"):
        SmartTurn(path)
    package = importlib.util.find_spec("faster_whisper")
    assert package is not None
    assert package.origin is not None
    other = next(Path(package.origin).parent.glob("assets/silero_vad*.onnx"))
    with pytest.raises(SpeechModelError, match="is no end-of-turn model"):
        SmartTurn(other)


# ---- the committed features ----


@pytest.mark.models
def test_the_first_clips_of_the_fit_can_be_made_again(smart_turn: SmartTurn, voice_path: Path, asr_path: Path) -> None:
    committed = {(row.voice, row.text): row for row in endpoint_rows.read()}
    said = dict(list(endpoint_clips.texts(test=False).items())[:1])
    whisper = Whisper(asr_path)
    for clip in endpoint_clips.clips("piper-joe-0", endpoint_clips.piper(voice_path, seed=0), said):
        row = committed[clip.voice, clip.text]
        assert whisper.transcribe(clip.sound).text == row.heard
        assert smart_turn.listen(clip.sound) == pytest.approx(row.acoustic, abs=0.1)


# ---- prosody ----


def voiced(seconds: float, start_hz: float, semitones_per_s: float = 0, db_per_s: float = 0) -> Samples:
    """A sound with the spectrum of a voice, whose pitch and level glide."""
    at_s = np.arange(round(seconds * MIC_HZ)) / MIC_HZ
    phase = 2 * np.pi * np.cumsum(start_hz * 2 ** (semitones_per_s * at_s / 12)) / MIC_HZ
    tones = np.sum([np.sin(number * phase) / number for number in range(1, 9)], axis=0)
    return (0.1 * tones * 10 ** (db_per_s * at_s / 20)).astype(np.float32)


@pytest.mark.parametrize("pitch_hz", [75.0, 118.0, 203.0, 390.0])
def test_the_pitch_of_known_sounds(pitch_hz: float) -> None:
    frames = voiced(1, pitch_hz).astype(np.float64)[: 25 * 640].reshape(25, 640)
    assert prosody.pitches_hz(frames) == pytest.approx(np.full(25, pitch_hz), rel=0.025)


def test_a_voice_without_its_fundamental_keeps_its_pitch() -> None:
    at_s = np.arange(640) / MIC_HZ
    frame = sum(np.sin(2 * np.pi * 150 * number * at_s) for number in (2, 3, 4))
    assert prosody.pitches_hz(np.asarray(frame)[None]) == pytest.approx([150], rel=0.02)


@pytest.mark.parametrize(("semitones_per_s", "db_per_s"), [(-18, 0), (0, -30), (12, 10), (0, 0)])
def test_the_slopes_of_known_glides(semitones_per_s: float, db_per_s: float) -> None:
    found = prosody.measure(voiced(0.8, 160, semitones_per_s, db_per_s))
    assert found.pitch_slope == pytest.approx(semitones_per_s, abs=1.5)
    assert found.energy_slope == pytest.approx(db_per_s, abs=1)


def test_only_the_last_half_second_of_voice_counts_and_pauses_do_not() -> None:
    rising = voiced(0.7, 120, 24)
    falling = voiced(0.6, 180, -24)
    pause = np.random.default_rng(2).standard_normal(MIC_HZ // 5).astype(np.float32) * np.float32(1e-5)
    found = prosody.measure(np.concatenate([rising, pause, falling, pause]))
    assert found.pitch_slope == pytest.approx(-24, abs=3)
    assert found.speech_s == pytest.approx(1.3, abs=0.1)


def test_noise_and_moments_have_no_pitch() -> None:
    noise = np.random.default_rng(3).standard_normal(MIC_HZ).astype(np.float32)
    assert prosody.measure(noise).pitch_slope is None
    assert prosody.measure(voiced(0.08, 150)).energy_slope is None
    assert prosody.measure(np.zeros(100, np.float32)) == prosody.Prosody(0, None, None)


@pytest.mark.models
def test_a_falling_voice_is_heard_in_speech(voice_path: Path) -> None:
    clip = PiperVoice(voice_path, seed=2).synthesise("I never said that.")
    found = prosody.measure(soxr.resample(clip.samples, SPEAKER_HZ, MIC_HZ))
    assert 0.4 < found.speech_s < 2
    assert found.pitch_slope is not None
    assert found.pitch_slope < 0
