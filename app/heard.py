"""What was really heard of a reply, in the model's terms. Pure.

The loudspeaker counts words; the model's state has boundaries after clauses. The two meet here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

WORD = re.compile(r"\S+")


class Cut(NamedTuple):
    """Where a reply was cut off.

    Attributes:
        clauses: Clauses heard whole: the boundary to restore is the one after the last of them.
        tail: What was heard after that boundary, exactly as the model wrote it.
        heard: All that was heard.
    """

    clauses: int
    tail: str
    heard: str


def locate(clauses: Sequence[str], words: int) -> Cut:
    """Find the cut after `words` heard words.

    Args:
        clauses: The reply so far; joined they are exactly what the model wrote.
        words: Words heard, counted by white space; at most as many as there are.
    """
    assert words >= 0
    whole = 0
    for clause in clauses:
        here = clause.split()
        if len(here) > words:
            break
        words -= len(here)
        whole += 1
    tail = first_words(clauses[whole], words) if words else ""
    return Cut(whole, tail, "".join(clauses[:whole]) + tail)


def first_words(text: str, words: int) -> str:
    """The part of `text` that ends with its `words`-th word, white space before it included."""
    ends = [match.end() for match in WORD.finditer(text)]
    assert 0 < words <= len(ends)
    return text[: ends[words - 1]]


def count(text: str) -> int:
    """Words, as everything in this project counts them."""
    return len(text.split())
