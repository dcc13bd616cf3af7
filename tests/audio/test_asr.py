"""The recogniser: loops and noise as pure functions, then real speech and real noise through the real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr

from audio.asr import Whisper, cut_loops, without_noise
from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("10 of clubs 10 of clubs 10 of clubs 10 of", "10 of clubs"),
        ("Tell me about the moon. Tell me about the", "Tell me about the moon."),
        ("Well, I think so. i think SO! I think", "Well, I think so."),
        ("no, no, no, no, no, no", "no, no, no,"),
        ("bye bye bye bye bye bye now", "bye bye bye"),
        ("thank you thank you thank you thank you", "thank you thank you"),
    ],
)
def test_loops_are_cut(said: str, kept: str) -> None:
    assert cut_loops(said) == kept


@pytest.mark.parametrize(
    "said",
    [
        "",
        "Yes.",
        "five five",
        "No, no, no.",
        "very very good",
        "To be or not to be",
        "Thank you, thank you.",
        "The cat sat on the mat and the dog sat on the mat.",
        "I like the big one or the small one, the big one I think.",
    ],
)
def test_speech_that_says_things_twice_is_left_alone(said: str) -> None:
    assert cut_loops(said) == said


def test_annotations_and_lone_marks_are_no_words() -> None:
    for said in ["[MUSIC]", "(coughing)", "[", "( Be Be Be", "*sighs*", "♪ ♪", ">>", ".", "- ...", "[BLANK_AUDIO]"]:
        assert without_noise(said, no_speech=0.1, avg_logprob=-0.2) == ""
    assert without_noise("(laughs) Yes, [noise] please.", 0.1, -0.2) == "Yes, please."


def test_weak_evidence_is_no_speech_and_strong_evidence_is_believed() -> None:
    assert without_noise("We talk on the end of the board.", no_speech=0.64, avg_logprob=-1.1) == ""
    assert without_noise("Thank you.", no_speech=0.55, avg_logprob=-0.8) == ""
    assert without_noise("Thank you.", no_speech=0.05, avg_logprob=-0.2) == "Thank you."
    assert without_noise("Yes.", no_speech=0.3, avg_logprob=-0.8) == "Yes."


def test_a_directory_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpeechModelError, match=r"no model\.bin"):
        Whisper(tmp_path)
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(SpeechModelError, match="can't be loaded"):
        Whisper(tmp_path)


@pytest.fixture(scope="module")
def whisper(asr_path: Path) -> Whisper:
    return Whisper(asr_path, threads=1)


@pytest.fixture(scope="module")
def voice(voice_path: Path) -> PiperVoice:
    return PiperVoice(voice_path)


def spoken(voice: PiperVoice, text: str) -> Samples:
    return soxr.resample(voice.synthesise(text).samples, SPEAKER_HZ, MIC_HZ)


def cough(seed: int) -> Samples:
    """Two bursts of shaped noise."""
    rng = np.random.default_rng(seed)
    sound = np.zeros(int(0.9 * MIC_HZ))
    for at_s, level in ((0.05, 0.3), (0.42, 0.2)):
        time_s = np.arange(int(0.3 * MIC_HZ)) / MIC_HZ
        burst = np.convolve(rng.normal(size=time_s.size), np.hanning(12), "same") * np.exp(-time_s / 0.05)
        sound[int(at_s * MIC_HZ) :][: burst.size] += level * burst / np.abs(burst).max()
    return sound.astype(np.float32)


@pytest.mark.models
def test_noise_never_becomes_words(whisper: Whisper, voice: PiperVoice) -> None:
    rng = np.random.default_rng(3)
    lines = [
        "The train to the coast leaves in a minute.",
        "I told her that it was much too early.",
        "Two coffees, please, and one tea.",
    ]
    voices = [np.resize(np.roll(spoken(voice, line), 5000 * k), 2 * MIC_HZ) for k, line in enumerate(lines * 3)]
    babble = np.sum(voices, axis=0)
    noises = {
        "silence": np.zeros(MIC_HZ, np.float32),
        "babble": (0.02 * babble / np.abs(babble).max()).astype(np.float32),
        **{f"cough {seed}": cough(seed) for seed in range(4)},
        **{f"hiss {db} dB": rng.normal(0, 10 ** (db / 20), MIC_HZ).astype(np.float32) for db in (-60, -40, -30, -20)},
    }
    heard = {name: whisper.transcribe(noise).text for name, noise in noises.items()}
    assert heard == dict.fromkeys(noises, "")


@pytest.mark.models
def test_short_answers_survive(whisper: Whisper, voice: PiperVoice) -> None:
    for text in ["Yes.", "Stop.", "No, thank you."]:
        assert whisper.transcribe(spoken(voice, text)).text.strip(".!").casefold() == text.strip(".").casefold()


@pytest.mark.models
def test_a_sentence_is_understood_and_the_same_sound_gives_the_same_text(whisper: Whisper, voice: PiperVoice) -> None:
    sound = spoken(voice, "Could you tell me what the weather will be like tomorrow?")
    transcript = whisper.transcribe(sound)
    assert transcript.text == "Could you tell me what the weather will be like tomorrow?"
    assert transcript.no_speech < 0.3
    assert transcript.took_ms > 0
    assert whisper.transcribe(sound)[:4] == transcript[:4]


@pytest.mark.models
def test_the_longest_sound_fits(whisper: Whisper, voice: PiperVoice) -> None:
    sentence = spoken(voice, "The old bridge across the river was closed for repairs last winter.")
    sound = np.resize(sentence, 28 * MIC_HZ)
    assert "bridge" in whisper.transcribe(sound).text
    assert whisper.transcribe(sound[: MIC_HZ // 20]).text == ""
