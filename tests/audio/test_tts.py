"""The voice: which phonemes are whose (pure), and words whose places an independent recogniser confirms."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soxr

from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, SPEAKER_HZ
from audio.tts import Clip, PiperVoice, spans_of_words


def spans(words: list[str], phonemes: str) -> list[str | None]:
    """What of `phonemes` each word gets."""
    found = spans_of_words([tuple(word) for word in words], list(phonemes))
    return [phonemes[span[0] : span[1]] if span else None for span in found]


def test_words_that_stay_apart_get_what_lies_between_the_blanks() -> None:
    assert spans(["həlˈoʊ", "ðˈɛɹ", "fɹˈɛnd"], "həlˈoʊ ðˈɛɹ, fɹˈɛnd.") == ["həlˈoʊ", "ðˈɛɹ", "fɹˈɛnd"]


def test_joined_words_are_told_apart() -> None:
    assert spans(["ˈɛnd", "ʌv", "ðə"], "ˈɛnd ʌvðə.") == ["ˈɛnd", "ʌv", "ðə"]
    assert spans(["fɔːɹ", "ˈeɪ"], "fɚɹə") == ["fɚɹ", "ə"]


def test_a_word_spoken_as_two_keeps_both() -> None:
    assert spans(["ab", "c"], "a bc") == ["a b", "c"]


def test_a_word_may_be_many_and_a_mark_none() -> None:
    got = spans(["aɪ", "twˈɛnti fˈɔːɹ", "", "ˈɛɡz"], "aɪ twˈɛnti fˈɔːɹ ˈɛɡz")
    assert got == ["aɪ", "twˈɛnti fˈɔːɹ", None, "ˈɛɡz"]


def test_words_that_sound_quite_otherwise_in_context_share_what_is_left() -> None:
    got = spans(["aɪ", "zzz", "vvv", "juː"], "aɪ momomo juː")
    assert got[0] == "aɪ"
    assert got[3] == "juː"
    assert f"{got[1]}{got[2]}" == "momomo"


def test_nothing_to_align() -> None:
    assert spans([], "") == []
    assert spans(["", ""], "...") == [None, None]
    assert spans(["", ""], "ab") == ["ab", None]


@pytest.fixture(scope="module")
def voice(voice_path: Path) -> PiperVoice:
    return PiperVoice(voice_path)


@pytest.mark.models
@pytest.mark.parametrize(
    "text",
    [
        "Hello there, my friend. How are you?",
        "I paid $3.50 in 2024 for 12 eggs & milk.",
        "Dr. Smith, of the U.S. Army, e.g., is in a bit of a hurry.",
        "C++ — at 50% of 3/4 — isn't “cheap”!",
        "  the  to of a\n for the ",
        "😀 nice [[ hello ]] naïve 東京 * x",
        "Wait...what?\0 - no",
    ],
)
def test_every_word_has_one_place_in_order(voice: PiperVoice, text: str) -> None:
    clip = voice.synthesise(text)
    assert [word.text for word in clip.words] == text.split()
    assert all(0 <= word.start <= word.end <= clip.samples.size for word in clip.words)
    assert all(one.end <= other.start for one, other in pairwise(clip.words))
    for word in clip.words:
        if any(letter.isalpha() for letter in word.text):
            assert word.end - word.start > 0.02 * SPEAKER_HZ, word
    assert clip.samples.dtype == np.float32
    assert 0.1 < np.abs(clip.samples).max() < 1


@pytest.mark.models
@pytest.mark.parametrize("text", ["", "   ", "...", "- – -", "?!"])
def test_text_without_sound_gives_an_empty_clip_with_its_words(voice: PiperVoice, text: str) -> None:
    clip = voice.synthesise(text)
    assert clip.samples.size == 0
    assert [word.text for word in clip.words] == text.split()


@pytest.mark.models
def test_joins_are_tight_and_pauses_fit_the_punctuation(voice: PiperVoice) -> None:
    def tail_ms(clip: Clip) -> float:
        loud = np.flatnonzero(np.abs(clip.samples) > 10 ** (-40 / 20) * np.abs(clip.samples).max())
        return (clip.samples.size - int(loud[-1])) * 1000 / SPEAKER_HZ

    full, comma, none = (tail_ms(voice.synthesise(text)) for text in ("We can go.", "We can go,", "We can go"))
    assert full > comma + 60 > none + 100
    assert none < 60
    clip = voice.synthesise("We can go.")
    assert np.abs(clip.samples[: SPEAKER_HZ // 50]).max() > 0.003


@pytest.mark.models
def test_the_same_seed_speaks_the_same(voice_path: Path) -> None:
    one, other = (PiperVoice(voice_path, threads=1, seed=4).synthesise("Good morning to you.") for _ in range(2))
    assert np.array_equal(one.samples, other.samples)
    assert one.words == other.words


@pytest.mark.models
def test_word_onsets_agree_with_whispers_timestamps(voice: PiperVoice, asr_path: Path) -> None:
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(asr_path), device="cpu", compute_type="int8", cpu_threads=2)
    text = "The old bridge across the river was closed for repairs last winter."
    clip = voice.synthesise(text)
    sound = soxr.resample(clip.samples, SPEAKER_HZ, MIC_HZ)
    segments, _ = whisper.transcribe(sound, beam_size=1, word_timestamps=True)
    theirs = [word for segment in segments for word in segment.words or []]
    assert [word.word.strip() for word in theirs] == text.split()
    apart_s = np.array([word.start / SPEAKER_HZ - their.start for word, their in zip(clip.words, theirs, strict=True)])
    assert np.abs(apart_s[1:] - np.median(apart_s[1:])).max() < 0.15
    shuffled_s = np.array([word.start / SPEAKER_HZ for word in clip.words[::-1]]) - [their.start for their in theirs]
    assert np.abs(shuffled_s).max() > 0.5


def test_a_voice_that_is_not_there_or_not_one_is_told(tmp_path: Path) -> None:
    path = tmp_path / "voice.onnx"
    with pytest.raises(SpeechModelError, match=r"no voice\.onnx"):
        PiperVoice(path)
    path.write_bytes(b"not a model")
    with pytest.raises(SpeechModelError, match=r"no voice\.onnx\.json"):
        PiperVoice(path)
    (tmp_path / "voice.onnx.json").write_text("{}")
    with pytest.raises(SpeechModelError, match="can't be loaded"):
        PiperVoice(path)
