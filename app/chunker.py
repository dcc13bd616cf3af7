"""From the tokens of a reply to clauses worth speaking. Pure.

A clause is cut only where a new word begins, so that its end is a token boundary: when the piece that begins the next
word arrives, the model's state holds exactly the clauses before it, and a capsule taken then is the clause's boundary
W.
"""

from __future__ import annotations

from typing import NamedTuple

SENTENCE_END = ".?!…:"
CLAUSE_END = ",;—–"
CLOSERS = "\"'”’)]"

# The first clause decides when speech begins: each of its words has to be decoded and synthesised first, about 50 ms a
# word on two cores. So it may end at a mere joint of the sentence. Later clauses are made while earlier ones play, and
# sound better long.
FIRST_WORDS_MIN = 3
FIRST_WORDS_JOINT = 4
FIRST_WORDS_MAX = 8
LATER_WORDS_MIN = 6
LATER_WORDS_MAX = 20

# Words before which a speaker may draw breath without hurting the sentence.
JOINTS = frozenset(
    [
        *("and", "but", "or", "so", "because", "that", "which", "who", "where", "when", "while", "if", "as"),
        *("with", "without", "for", "from", "in", "on", "at", "by", "to", "into", "over", "about", "of"),
    ]
)

# Full stops that do not end a sentence.
ABBREVIATIONS = frozenset(
    [
        *("mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "sr.", "jr.", "vs.", "etc.", "e.g.", "i.e.", "dept."),
        *("u.s.", "u.k.", "a.m.", "p.m.", "jan.", "feb.", "aug.", "sept.", "oct.", "nov.", "dec."),
    ]
)

# Marks that a text model writes and nobody says.
UNSPOKEN = str.maketrans("", "", "*_#`~|<>{}\\")


class Clause(NamedTuple):
    """A piece of the reply to be spoken in one breath.

    Attributes:
        text: Exactly what the model wrote, white space included; the clauses of a reply joined are the reply.
        spoken: The same words for the voice, without typographic marks; one word for each word of `text`.
    """

    text: str
    spoken: str


class Chunker:
    """Cuts a stream of pieces (one a token) into clauses."""

    def __init__(self) -> None:
        self._text = ""
        self._clauses = 0

    def feed(self, piece: str) -> Clause | None:
        """Take the next piece.

        Returns:
            The clause that ended just before `piece`, if one did.
        """
        ended = self._take() if self._begins_word(piece) and self._speakable(piece) else None
        self._text += piece
        return ended

    def finish(self) -> Clause | None:
        """The reply is over: what is left is the last clause."""
        return self._take() if self._text.strip() else None

    def _begins_word(self, piece: str) -> bool:
        return bool(self._text.strip()) and (piece[:1].isspace() or self._text[-1:].isspace())

    def _speakable(self, following: str) -> bool:
        words = self._text.split()
        least, most = (FIRST_WORDS_MIN, FIRST_WORDS_MAX) if self._clauses == 0 else (LATER_WORDS_MIN, LATER_WORDS_MAX)
        if len(words) >= most or "\n" in self._text.lstrip() or following.startswith("\n"):
            return True
        if self._clauses == 0 and len(words) >= FIRST_WORDS_JOINT and following.strip().lower() in JOINTS:
            return words[-1].lower() not in JOINTS
        last = words[-1].rstrip(CLOSERS)
        if last[-1:] in SENTENCE_END:
            initial = len(last) == 2 and last[0].isupper() and last[0] not in "IA"
            listing = last[:-1].isdigit() and len(words) == 1
            return not (last.lower() in ABBREVIATIONS or initial or listing)
        return last[-1:] in CLAUSE_END and len(words) >= least

    def _take(self) -> Clause:
        text, self._text = self._text, ""
        self._clauses += 1
        return Clause(text, speakable(text))


def speakable(text: str) -> str:
    """The words of `text`, one for one, without typographic marks; a word of marks alone stays as it is."""
    return " ".join(word.translate(UNSPOKEN) or word for word in text.split())


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the end of a sentence."""
    last = (text.split() or [""])[-1].rstrip(CLOSERS)
    initial = len(last) == 2 and last[0].isupper() and last[0] != "I"
    return last[-1:] in (".", "?", "!", "…") and not (initial or last.lower() in ABBREVIATIONS or last[:-1].isdigit())
