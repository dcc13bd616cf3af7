"""Clauses: joined they are the reply, each begins a word, and none is cut inside a name or a number."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.chunker import FIRST_WORDS_MAX, LATER_WORDS_MAX, Chunker, speakable


def cut(text: str) -> list[str]:
    """Feed `text` word by word, as a tokenizer with leading spaces would."""
    chunker = Chunker()
    clauses = [clause for piece in re.findall(r"\s*\S+", text) if (clause := chunker.feed(piece))]
    if last := chunker.finish():
        clauses.append(last)
    return [clause.text for clause in clauses]


@pytest.mark.parametrize(
    ("reply", "clauses"),
    [
        ("The moon is big, and it is far.", ["The moon is big,", " and it is far."]),
        ("Yes. It is.", ["Yes.", " It is."]),
        ("Well, yes.", ["Well, yes."]),
        ("Dr. Smith lives at St. Paul.", ["Dr. Smith lives at St. Paul."]),
        ("J. Smith said no. He left.", ["J. Smith said no.", " He left."]),
        ("1. Boil water. 2. Wait.", ["1. Boil water.", " 2. Wait."]),
        ('He said "stop." Then he left.', ['He said "stop."', " Then he left."]),
        ("one two three four five six seven eight nine ten", ["one two three four five six seven eight", " nine ten"]),
        (
            "The moon is a celestial body that orbits our planet in a month.",
            ["The moon is a celestial body", " that orbits our planet in a month."],
        ),
        ("He looked at it from in front of us", ["He looked at it", " from in front of us"]),
        ("He looked in from over the wall", ["He looked in from over the wall"]),
    ],
)
def test_where_it_cuts(reply: str, clauses: list[str]) -> None:
    assert cut(reply) == clauses


def test_decimals_stay_whole_even_when_their_tokens_are_apart() -> None:
    chunker = Chunker()
    assert [chunker.feed(piece) for piece in ["It", " is", " about", " 3", ".", "5", " metres"]] == [None] * 7


def test_a_line_break_ends_a_clause() -> None:
    assert cut("First\nSecond thing") == ["First", "\nSecond thing"]


pieces = st.lists(st.text(st.sampled_from("ab ,.?!\n3*é"), min_size=0, max_size=5), max_size=60)


@given(pieces)
def test_clauses_joined_are_the_reply(tokens: list[str]) -> None:
    chunker = Chunker()
    clauses = [clause for piece in tokens if (clause := chunker.feed(piece))]
    if last := chunker.finish():
        clauses.append(last)
    joined = "".join(clause.text for clause in clauses)
    assert joined.strip() == "".join(tokens).strip()
    assert sum(len(clause.text.split()) for clause in clauses) == len("".join(tokens).split())
    assert all(len(clause.spoken.split()) == len(clause.text.split()) for clause in clauses)


@given(st.lists(st.sampled_from(["moon", "and", "water"]), min_size=1, max_size=80))
def test_clauses_are_bounded(words: list[str]) -> None:
    lengths = [len(clause.split()) for clause in cut(" ".join(words))]
    assert lengths[0] <= FIRST_WORDS_MAX
    assert all(length <= LATER_WORDS_MAX for length in lengths[1:])


def test_marks_are_not_spoken_but_keep_their_words() -> None:
    assert speakable("**Big** moon * `far`\n") == "Big moon * far"
