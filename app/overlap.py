"""Is this an interruption? Pure rules on what is known of speech that overlaps a reply.

Sound alone shuts the gate, which costs nothing that can't be taken back; only words end a reply. Where it is unclear
that is what they do: an unwanted yield is heard and can be mended by "go on", a turn taken for a murmur is lost.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from app.decisions import Scores
from app.language import Language, words_of
from app.timing import Turns

Kind = Literal["turn", "stop", "backchannel", "echo", "noise"]

ECHO_LIKENESS = 0.8
ECHO_WORDS, ECHO_WORDS_ASKED = 2, 4
"""So few words are no evidence. Who answers or asks back takes up some of the agent's words, so that needs more."""
MURMUR_MS = 500
"""Shorter speech that is written as words too weak for a turn was a murmur,"""
WORDS_PER_S, WORDS_MORE = 8, 1
"""and so was one that is written as more words than anybody can say in its time."""


class Overlap(NamedTuple):
    """What is known of speech over a reply."""

    text: str
    """The newest transcript, partial or final."""
    final: bool
    """Nothing will be added to `text` unless the user speaks again."""
    speech_ms: float
    """How long they have spoken."""
    question: bool
    """The last clause that was heard wants an answer."""
    said: tuple[str, ...]
    """What the agent said in the last seconds, word by word, the oldest first."""


class Verdict(NamedTuple):
    """What an overlap is, and why we think so."""

    kind: Kind
    reason: str
    scores: Scores


def judge(overlap: Overlap, language: Language, turns: Turns) -> Verdict | None:
    """Judge an overlap by its transcript.

    Returns:
        None while it can't be told.
    """
    words = words_of(overlap.text)
    likeness = _likeness(words, overlap.said)
    scores: Scores = {"words": len(words), "speech_ms": overlap.speech_ms, "echo": likeness}
    quoted = " ".join(words[:4])

    if not words:
        return Verdict("noise", "the sound held no words", scores) if overlap.final else None
    if language.command(overlap.text) == "stop":
        return Verdict("stop", f"a stop word: {quoted}", scores)
    asked = overlap.question or overlap.text.rstrip().endswith("?")
    enough = len(words) >= (ECHO_WORDS_ASKED if asked else ECHO_WORDS)
    if likeness >= ECHO_LIKENESS and enough and not language.is_backchannel(words):
        return Verdict("echo", f"the agent's own words: {quoted}", scores)
    if language.only_waits(overlap.text):
        return Verdict("turn", f"asks for time: {quoted}", scores)
    if overlap.final:
        return _judge_final(words, overlap, language, scores)
    # A partial ends inside a word, and in the first of them the recogniser guesses whole sentences from a syllable.
    if overlap.speech_ms < turns.decide_ms:
        return None
    if likeness >= ECHO_LIKENESS or language.may_be_backchannel(words) or language.command(overlap.text) == "go_on":
        return None
    return Verdict("turn", f"{overlap.speech_ms:.0f} ms of speech and no backchannel: {quoted}", scores)


def _judge_final(words: list[str], overlap: Overlap, language: Language, scores: Scores) -> Verdict:
    quoted = " ".join(words[:4])
    weak = language.says_nothing(words) and not overlap.text.rstrip().endswith("?")
    if overlap.question:
        return Verdict("turn", f"an answer to a question: {quoted}", scores)
    if language.is_backchannel(words):
        return Verdict("backchannel", f"only backchannels: {quoted}", scores)
    if language.command(overlap.text) == "go_on":
        return Verdict("backchannel", f"wants the reply to go on, as it does: {quoted}", scores)
    if overlap.speech_ms < MURMUR_MS and weak:
        return Verdict("backchannel", f"{overlap.speech_ms:.0f} ms that say nothing: {quoted}", scores)
    if len(words) > WORDS_MORE + WORDS_PER_S * overlap.speech_ms / 1000:
        return Verdict("backchannel", f"a murmur, for nobody says so much in {overlap.speech_ms:.0f} ms", scores)
    return Verdict("turn", f"words over the reply: {quoted}", scores)


def judge_wordless(held_ms: float) -> Verdict:
    """The verdict on speech-like sound that has brought no word for `held_ms` over a held reply."""
    return Verdict("noise", f"no word in {held_ms:.0f} ms of sound", {"held_ms": held_ms})


def _likeness(words: list[str], said: tuple[str, ...]) -> float:
    """How alike the words are to the run of said words most like them: 1 - edits / letters, 0..1.

    Letters are compared, for a recogniser misspells an echo; the blanks around words keep whole words together.
    """
    return _run_likeness(f" {' '.join(words)} ", f" {' '.join(words_of(' '.join(said)))} ") if words and said else 0.0


def _run_likeness(pattern: str, text: str) -> float:
    """The same for letters: Myers' bit-parallel approximate matching (J. ACM 46, 1999), one step a letter of `text`.

    Bit i of `more` (`less`) says that row i + 1 of the table of edit distances is one more (less) than row i.
    """
    places: dict[str, int] = {}
    for at, letter in enumerate(pattern):
        places[letter] = places.get(letter, 0) | 1 << at
    every, last = (1 << len(pattern)) - 1, 1 << len(pattern) - 1
    more, less = every, 0
    edits = fewest = len(pattern)
    for letter in text:
        equal = places.get(letter, 0)
        vertical = equal | less
        horizontal = (((equal & more) + more) ^ more) | equal
        rises, falls = less | ~(horizontal | more) & every, more & horizontal
        edits += bool(rises & last) - bool(falls & last)
        fewest = min(fewest, edits)
        rises, falls = rises << 1, falls << 1
        more, less = (falls | ~(vertical | rises)) & every, rises & vertical
    return 1 - fewest / len(pattern)
