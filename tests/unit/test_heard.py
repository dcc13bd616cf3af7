"""What was heard, by samples and by words: against a plain split of the whole text, and by properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.heard import Keep, Word, last_words, locate, resume_point, words_heard, words_kept

HZ = 48_000

texts = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
clauses = st.lists(st.lists(texts, min_size=1, max_size=5).map(lambda w: " ".join(w)), min_size=1, max_size=6)


@given(clauses, st.data())
def test_the_heard_text_is_the_first_words(parts: list[str], data: st.DataObject) -> None:
    written = [part if number == 0 else " " + part for number, part in enumerate(parts)]
    whole = "".join(written)
    count = data.draw(st.integers(0, len(whole.split())))
    marked = data.draw(st.integers(0, len(parts)))
    cut = locate(written, count, marked)
    assert cut.heard.split() == whole.split()[:count]
    assert whole.startswith(cut.heard)
    assert "".join(written[: cut.clauses]) + cut.tail == cut.heard
    assert cut.clauses <= marked, "the model's state has no boundary after the others"
    if cut.clauses < marked:
        assert len(cut.tail.split()) < len(written[cut.clauses].split()), "what is fed again is less than a clause"


def test_a_whole_clause_leaves_no_tail() -> None:
    assert locate(["The moon,", " far away."], 2, 2) == (1, "", "The moon,")
    assert locate(["The moon,", " far away."], 3, 2) == (1, " far", "The moon, far")
    assert locate(["The moon,", " far away."], 3, 0) == (0, "The moon, far", "The moon, far")
    assert locate(["The moon,", " far away."], 0, 2) == (0, "", "")
    with pytest.raises(AssertionError):
        locate(["The moon,"], 3, 1)


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("heard", [0, 1, 2, 3, 4, 5, 6]),
        ("sentence", [0, 0, 0, 3, 3, 5, 5]),
        ("none", [0] * 7),
        ("all", [6] * 7),
    ],
)
def test_what_is_kept(keep: Keep, kept: list[int]) -> None:
    written = 'Ask Dr. Moon! Well, "really?" and'
    assert [words_kept(written, heard, keep) for heard in range(7)] == kept


def test_the_last_words() -> None:
    assert last_words(" The moon is far", 2) == "is far"
    assert last_words("far", 2) == "far"
    assert last_words("", 2) == ""


@st.composite
def ledgers(draw: st.DrawFn) -> list[Word]:
    words, at = [], 0
    for number in range(draw(st.integers(0, 8))):
        start = at + draw(st.integers(0, 9_000))
        at = start + draw(st.integers(1, 40_000))
        words.append(Word(f"w{number}", start, at))
    return words


@given(ledgers(), st.integers(0, 400_000))
def test_going_on_loses_no_word_and_repeats_at_most_one(words: list[Word], held: int) -> None:
    point = resume_point(words, held)
    assert held - 0.4 * HZ <= point <= held
    repeated = [word for word in words if word.start < held and word.end > point]
    assert len(repeated) <= 1
    for word in words:
        if word.start < held < word.end and held - word.start <= 0.4 * HZ:
            assert point == word.start, "a word that was cut is said again from its start"


@given(ledgers(), st.integers(0, 400_000))
def test_a_word_counts_from_the_sample_on_at_which_most_of_it_was_heard(words: list[Word], heard: int) -> None:
    count = words_heard(words, heard)
    for at, word in enumerate(words):
        assert (at < count) == ((heard - word.start) / (word.end - word.start) >= 0.6 - 1e-9)


def test_the_ledger_at_its_edges() -> None:
    word = Word("ten", 100, 110)
    assert [words_heard([word], heard) for heard in (105, 106)] == [0, 1]
    long = Word("Donaudampfschifffahrt", 0, HZ)
    assert resume_point([long], HZ // 2) == HZ // 2, "its start is more than 400 ms back"
    assert resume_point([long], HZ // 5) == 0
