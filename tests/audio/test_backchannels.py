"""Murmurs and interruptions through the real voice activity and the real recogniser, to the verdict.

Only what needs nothing but the default models; tests/bench/backchannels.py measures with more voices and phrases.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from app.language import load
from app.timing import Turns
from audio.asr import Whisper
from audio.tts import PiperVoice
from audio.vad import SileroVad
from tests.bench.backchannels import Overheard, hum, in_a_room, overhear, spoken

pytestmark = pytest.mark.models

EN = load("en")
TURNS = Turns()


@pytest.fixture(scope="module")
def whisper(asr_path: Path) -> Whisper:
    return Whisper(asr_path, threads=1)


@pytest.fixture
def piper(voice_path: Path) -> PiperVoice:
    """A new one for each test: its prosody depends on what it said before."""
    return PiperVoice(voice_path)


def kind(heard: Overheard) -> str | None:
    return heard.verdict and heard.verdict.kind


def test_the_reply_goes_on_through_backchannels_and_only_because_they_are_known(
    whisper: Whisper, piper: PiperVoice
) -> None:
    mute = msgspec.structs.replace(EN, backchannels=("xyzzy",), fillers=("xyzzy",))
    for text in ("Yeah.", "Okay.", "I see.", "I understand.", "Right."):
        sound = in_a_room(spoken(piper, text))
        assert kind(overhear(sound, SileroVad(), whisper, EN, TURNS)) == "backchannel", text
        assert kind(overhear(sound, SileroVad(), whisper, mute, TURNS)) == "turn", text


@pytest.mark.parametrize("pitch_hz", [105.0, 190.0])
def test_a_hum_never_ends_a_reply(whisper: Whisper, pitch_hz: float) -> None:
    for syllables in (1, 2, 4):
        heard = overhear(in_a_room(hum(pitch_hz, syllables)), SileroVad(), whisper, EN, TURNS)
        assert heard.verdict is not None, "the voice activity takes a hum for speech"
        assert heard.verdict.kind in ("backchannel", "noise"), heard


def test_an_interruption_ends_the_reply_by_the_second_partial(whisper: Whisper, piper: PiperVoice) -> None:
    for text in ("Wait.", "No, tell me about Greece instead.", "What about Rome?", "Actually, I want something else."):
        heard = overhear(in_a_room(spoken(piper, text)), SileroVad(), whisper, EN, TURNS)
        assert kind(heard) == "turn", heard
        assert heard.partials <= 2
        assert heard.after_s is not None
        assert heard.after_s < 1.1


def test_most_stop_words_are_known_and_all_end_the_reply(whisper: Whisper, piper: PiperVoice) -> None:
    texts = ("Stop.", "Be quiet.", "Okay, stop.", "Shut up.", "That's enough.")
    kinds = [kind(overhear(in_a_room(spoken(piper, text)), SileroVad(), whisper, EN, TURNS)) for text in texts]
    assert set(kinds) <= {"stop", "turn"}
    assert kinds.count("stop") >= 3, kinds
