"""Has the user finished? Pure rules on the transcript of what was said so far."""

from __future__ import annotations

from typing import NamedTuple

from app.config import Turns

TERMINAL = ".?!…"
CLOSERS = "\"'”’)]"

# A recogniser puts a full stop after whatever it was given, so the last word has to speak against it. Only words that
# hardly ever end an English sentence.
DANGLING = frozenset(
    [
        *("a", "an", "the", "my", "our", "your", "their", "every", "very"),
        *("and", "because", "but", "if", "or", "so", "than", "then", "when", "which", "while"),
        *("for", "from", "into", "of", "to", "with", "without"),
        *("are", "was", "were", "er", "hmm", "uh", "um"),
    ]
)


class Verdict(NamedTuple):
    """How long to wait in silence, and why."""

    silence_ms: int
    reason: str


def words_of(text: str) -> list[str]:
    """Words in lower case without the punctuation around them."""
    bare = (word.strip(".,;:?!…-–—\"'“”‘’()[]").lower() for word in text.split())
    return [word for word in bare if word]


def patience(text: str, turns: Turns, *, interrupting: bool) -> Verdict:
    """The silence that ends the turn.

    Args:
        text: All that was said in the turn so far; not empty.
        turns: The configured silences.
        interrupting: The turn cut a reply off. People stop after the first word of an interruption ("Wait, ...") to let
            the other fall silent, then go on.
    """
    words = words_of(text)
    bare = text.rstrip().rstrip(CLOSERS)
    if not words or words[-1] in DANGLING:
        return Verdict(turns.unfinished_silence_ms, "ends in a word that asks for another")
    if bare.endswith("...") or bare[-1] not in TERMINAL:
        return Verdict(turns.unfinished_silence_ms, "no end of sentence yet")
    if len(words) <= 2:
        if interrupting:
            return Verdict(turns.unfinished_silence_ms, "an interruption that may only have begun")
        return Verdict(turns.short_silence_ms, "one or two words")
    return Verdict(turns.end_silence_ms, "a finished sentence")
