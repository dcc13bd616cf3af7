"""What was really heard of a reply. Pure.

The loudspeaker counts samples, the voice knows which of them make a word, and the model's state has boundaries after
clauses, each with its place in tokens. Words are the coin that all of them take: samples become words here, and words
become text, clauses and a boundary.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from app.chunker import ends_sentence

SPEAKER_HZ = 48_000

Keep = Literal["heard", "sentence", "none", "all"]
"""What the model keeps of a reply that was cut off: see `keep` in app/timing.py."""

_WORD = re.compile(r"\S+")
_HEARD_SHARE = 0.6
_STEP_BACK_SAMPLES = 400 * SPEAKER_HZ // 1000


# ---- samples and words ----


class Word(NamedTuple):
    """A word of a reply in its branch's stream, in samples at 48 kHz."""

    text: str
    start: int
    end: int

    @property
    def heard_at(self) -> int:
        """Samples that must have left the loudspeaker for the word to count as heard: 60 % of it."""
        return self.start + max(1, math.ceil(_HEARD_SHARE * (self.end - self.start)))


def words_heard(words: Sequence[Word], heard_samples: int) -> int:
    """How many words count as heard once `heard_samples` of the stream have left the loudspeaker."""
    return next((at for at, word in enumerate(words) if word.heard_at > heard_samples), len(words))


def resume_point(words: Sequence[Word], heard_samples: int) -> int:
    """Where to go on after a hold: no word is lost, and at most one is heard twice.

    The start of the word that was cut, if it began at most 400 ms before; else the very sample where it stopped.
    """
    cut = next((word for word in words if word.start < heard_samples < word.end), None)
    if cut is not None and heard_samples - cut.start <= _STEP_BACK_SAMPLES:
        return cut.start
    return heard_samples


# ---- words, text and clauses ----


class Cut(NamedTuple):
    """Where a reply was cut off.

    Attributes:
        clauses: The boundary to restore is the one after so many clauses; all of them were heard whole.
        tail: What was heard after that boundary, exactly as the model wrote it.
        heard: All that was heard.
    """

    clauses: int
    tail: str
    heard: str


def locate(clauses: Sequence[str], words: int, marked: int) -> Cut:
    """Find the cut after `words` heard words.

    Args:
        clauses: The reply so far; joined they are exactly what the model wrote.
        words: Words heard, counted by white space; at most as many as there are.
        marked: How many clauses the model's state has a boundary after.
    """
    heard = first_words("".join(clauses), words)
    whole = sum(count("".join(clauses[:number])) <= words for number in range(1, marked + 1))
    return Cut(whole, heard[len("".join(clauses[:whole])) :], heard)


def words_kept(written: str, heard_words: int, keep: Keep) -> int:
    """How many words of a reply that was cut off stay in the model's state."""
    match keep:
        case "heard":
            return heard_words
        case "sentence":
            heard = written.split()[:heard_words]
            return next((at for at in range(heard_words, 0, -1) if ends_sentence(heard[at - 1])), 0)
        case "none":
            return 0
        case "all":
            return count(written)


def first_words(text: str, words: int) -> str:
    """The part of `text` that ends with its `words`-th word, white space before it included; empty for none."""
    ends = [0, *(match.end() for match in _WORD.finditer(text))]
    assert 0 <= words < len(ends), "no more can be heard than was written"
    return text[: ends[words]]


def last_words(text: str, words: int) -> str:
    """The last words of `text`, at most `words` of them."""
    return " ".join(text.split()[-words:])


def count(text: str) -> int:
    """Words, as everything in this project counts them."""
    return len(text.split())
