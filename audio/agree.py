"""LocalAgreement-2: which words of a growing transcript can be relied on.

A word is stable once two consecutive decodes agree on it and on all before it. Source: Liu et al., "Low-Latency
Sequence-to-Sequence Speech Recognition and Translation by Partial Hypothesis Selection", Interspeech 2020.
"""

from __future__ import annotations

import re
from itertools import takewhile

_BESIDE_WORD = re.compile(r"[^\w']+")


class Agreement:
    """The agreement of one utterance's partial transcripts. Pure; make one per utterance."""

    def __init__(self) -> None:
        self._stable: tuple[str, ...] = ()
        self._previous: tuple[str, ...] = ()

    def update(self, text: str) -> tuple[str, str]:
        """Take the next decode of all of the utterance's sound so far.

        Words are compared without case and punctuation. Stable words keep the spelling with which they became stable;
        a decode that contradicts them changes nothing about them.

        Args:
            text: The newest decode.

        Returns:
            The stable words, and what the newest decode has behind them, each joined by blanks.
        """
        words = tuple(text.split())
        agreed = sum(1 for _ in takewhile(lambda pair: same_word(*pair), zip(self._previous, words, strict=False)))
        if agreed > len(self._stable):
            self._stable += words[len(self._stable) : agreed]
        self._previous = words
        return " ".join(self._stable), " ".join(words[len(self._stable) :])


def same_word(one: str, other: str) -> bool:
    """Whether two words differ in case and punctuation only."""
    return _core(one) == _core(other)


def _core(word: str) -> str:
    """What counts of a word; a word of nothing but punctuation counts as it is."""
    return _BESIDE_WORD.sub("", word).casefold() or word
