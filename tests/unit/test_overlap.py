"""Verdicts on overlaps: what ends a reply, what does not, and when it can't be told yet."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.language import load, words_of
from app.overlap import (
    MURMUR_MS,
    Overlap,
    Verdict,
    _run_likeness,  # pyright: ignore[reportPrivateUsage]  # compared with its textbook definition
    judge,
    judge_wordless,
)
from app.timing import Turns

EN = load("en")
TURNS = Turns()
SAID = tuple(words_of("the acropolis of athens was built in the fifth century before christ"))


def overlap(text: str, *, final: bool = True, ms: float = 900, question: bool = False) -> Overlap:
    return Overlap(text, final=final, speech_ms=ms, question=question, said=SAID)


def kind(text: str, *, final: bool = True, ms: float = 900, question: bool = False) -> str | None:
    verdict = judge(overlap(text, final=final, ms=ms, question=question), EN, TURNS)
    return verdict and verdict.kind


def test_a_sound_without_words_is_noise_once_it_is_over() -> None:
    assert kind("") == kind(" ... ♪") == "noise"
    assert kind("", final=False) is None
    assert judge_wordless(912.4) == Verdict("noise", "no word in 912 ms of sound", {"held_ms": 912.4})


def test_a_backchannel_lets_the_reply_go_on_but_only_once_it_is_over() -> None:
    for text in ("MMM.", "Uh-huh.", "Yeah, okay.", "Oh, wow.", "That makes sense."):
        assert kind(text) == "backchannel"
        assert kind(text, final=False) is None
        assert kind(text, final=False, ms=5000) is None, "more may follow, and the gate is shut"
    assert kind("Yeah, yeah, yeah, yeah.") == "turn"
    assert kind("Yeah, but why?") == "turn"


def test_an_answer_to_a_question_is_a_turn() -> None:
    for text in ("Yeah.", "Mm-hmm.", "Go on.", "The", "No."):
        assert kind(text, ms=300, question=True) == "turn"
    assert kind("Yeah.", final=False, question=True) is None
    assert kind("Stop.", question=True) == "stop"
    assert kind("", question=True) == "noise"


def test_a_stop_word_counts_at_once_and_only_alone() -> None:
    for final in (True, False):
        assert kind("Stop.", final=final, ms=250) == "stop"
        assert kind("Okay, be quiet, please.", final=final) == "stop"
        assert kind("Stop by the market.", final=final) == "turn"


def test_asking_for_time_counts_at_once() -> None:
    assert kind("Wait.", final=False, ms=250) == "turn"
    assert kind("Um, hold on.", final=False, ms=250) == "turn"
    assert kind("Weight", final=False, ms=250) is None


def test_a_partial_ends_the_reply_only_once_it_is_long_enough() -> None:
    assert kind("That makes me feel like", final=False, ms=TURNS.decide_ms - 1) is None
    assert kind("That makes me feel like", final=False, ms=TURNS.decide_ms) == "turn"
    assert kind("Why", final=False, ms=TURNS.decide_ms) == "turn"
    assert kind("Why", ms=250) == "turn"
    hasty = msgspec.structs.replace(TURNS, decide_ms=100)
    assert judge(overlap("Why", final=False, ms=250), EN, hasty) is not None


def test_a_partial_that_may_become_a_backchannel_is_waited_for() -> None:
    for text in ("I", "I s", "That makes", "Yeah, o", "Go on"):
        assert kind(text, final=False, ms=3000) is None, text
    for text in ("I want", "Yeah, but", "That made", "Go on a"):
        assert kind(text, final=False, ms=700) == "turn", text


def test_go_on_over_a_reply_asks_for_what_happens_anyway() -> None:
    assert kind("Go on, please.") == "backchannel"
    assert kind("Go on a trip.") == "turn"


def test_the_agents_own_words_are_an_echo() -> None:
    assert kind("Was built in the fifth century") == "echo"
    assert kind("of Athens was build in the fifth", final=False) == "echo", "misheard, but alike"
    assert kind("fifth century") == "echo"
    polite = judge(Overlap("Of course.", True, 600, False, ("of", "course")), EN, TURNS)
    assert polite is not None
    assert polite.kind == "backchannel", "both may say so, and the reply goes on anyway"
    assert kind("Athens") == "turn", "one word is no evidence"
    assert kind("What was built in Sparta") == "turn"
    assert kind("christ before century fifth the in") == "turn", "the order counts"
    assert kind("The fifth century?") == "turn", "who asks back takes up a few words"
    assert kind("Of Athens.", question=True) == "turn", "and so does who answers"
    assert kind("The Acropolis of Athens was built in?") == "echo"


def test_a_partial_that_is_like_the_agents_words_waits_for_the_rest() -> None:
    assert kind("Athens", final=False, ms=3000) is None, "one word is no evidence, but the gate is shut"
    assert kind("Of Athens", final=False, ms=3000, question=True) is None
    assert kind("Athens is where", final=False, ms=700) == "turn"


def test_a_short_murmur_that_was_written_as_words_is_a_murmur() -> None:
    for text in ("I'm", "It.", "Oh, now", "Thank you."):
        assert kind(text, ms=MURMUR_MS - 1) == "backchannel"
        assert kind(text, ms=MURMUR_MS) == "turn"
    for text in ("No.", "Why?", "What is it?", "Rome?"):
        assert kind(text, ms=300) == "turn"
    assert kind("The?", ms=300) == "turn"
    assert kind("And that's not the same.", ms=240) == "backchannel", "nobody says five words in 240 ms"
    assert kind("And that's not the same.", ms=900) == "turn"
    assert kind("I don't know.", ms=350) == "turn"


def test_a_verdict_tells_what_it_rests_on() -> None:
    verdict = judge(overlap("What about the harbour of Piraeus?", ms=1100), EN, TURNS)
    assert verdict is not None
    assert verdict.reason == "words over the reply: what about the harbour"
    assert (verdict.scores["words"], verdict.scores["speech_ms"]) == (6, 1100)
    assert 0 < verdict.scores["echo"] < 0.8


@pytest.mark.parametrize(
    ("code", "backchannel", "stop", "turn"),
    [
        ("de", "Ach so.", "Hör auf!", "Und was ist mit Rom?"),
        ("es", "Sí, claro.", "¡Cállate!", "¿Y qué pasa con Roma?"),
        ("fr", "Ah, d'accord.", "Tais-toi !", "Et pour Rome ?"),
    ],
)
def test_other_languages(code: str, backchannel: str, stop: str, turn: str) -> None:
    language = load(code)
    for text, expected in ((backchannel, "backchannel"), (stop, "stop"), (turn, "turn")):
        verdict = judge(overlap(text), language, TURNS)
        assert verdict is not None
        assert verdict.kind == expected
        english = judge(overlap(text), EN, TURNS)
        assert english is not None
        assert english.kind == "turn", "the list decides, not the shape"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("en", "when where which who what why how no but-why"),
        ("de", "wann wo wer was warum wie welche nein"),
        ("es", "cuándo dónde quién qué cómo cuál por-qué no"),
        ("fr", "quand où qui quoi pourquoi comment combien non"),
    ],
)
def test_a_lone_question_word_interrupts_however_short(code: str, words: str) -> None:
    for word in words.split():
        verdict = judge(overlap(word.replace("-", " "), ms=250), load(code), TURNS)
        assert verdict is not None
        assert verdict.kind == "turn", word


@given(st.text(max_size=60), st.floats(0, 20_000), st.booleans())
def test_a_final_is_always_judged(text: str, ms: float, question: bool) -> None:
    verdict = judge(Overlap(text, True, ms, question, SAID), EN, TURNS)
    assert verdict is not None
    assert verdict.reason


def by_table(pattern: str, text: str) -> float:
    """The textbook's table of edit distances (Sellers 1980): any run of `text` may match."""
    row = [0] * (len(text) + 1)
    for letter in pattern:
        previous, row = row, [row[0] + 1]
        for at, other in enumerate(text, 1):
            row.append(min(previous[at] + 1, row[-1] + 1, previous[at - 1] + (letter != other)))
    return 1 - min(row) / len(pattern)


@given(st.text("ab c", min_size=1, max_size=80), st.text("ab c", max_size=80))
def test_likeness_agrees_with_the_table_of_edit_distances(pattern: str, text: str) -> None:
    assert _run_likeness(pattern, text) == pytest.approx(by_table(pattern, text))
