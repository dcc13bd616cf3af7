"""What was heard, by words: against a plain split of the whole text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from app.heard import locate

words = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6)
clauses = st.lists(st.lists(words, min_size=1, max_size=5).map(lambda w: " ".join(w)), min_size=1, max_size=6)


@given(clauses, st.data())
def test_the_heard_text_is_the_first_words(parts: list[str], data: st.DataObject) -> None:
    written = [part if number == 0 else " " + part for number, part in enumerate(parts)]
    whole = "".join(written)
    count = data.draw(st.integers(0, len(whole.split())))
    cut = locate(written, count)
    assert cut.heard.split() == whole.split()[:count]
    assert whole.startswith(cut.heard)
    assert "".join(written[: cut.clauses]) + cut.tail == cut.heard
    assert len(cut.tail.split()) < max(len(part.split()) for part in written)


def test_a_whole_clause_leaves_no_tail() -> None:
    assert locate(["The moon,", " far away."], 2) == (1, "", "The moon,")
    assert locate(["The moon,", " far away."], 3) == (1, " far", "The moon, far")
    assert locate(["The moon,", " far away."], 0) == (0, "", "")
