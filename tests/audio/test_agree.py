"""LocalAgreement-2: what two decodes agree on stands, whatever comes after."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from audio.agree import Agreement, same_word


def test_words_become_stable_when_two_decodes_agree() -> None:
    agreement = Agreement()
    assert agreement.update("Tell me") == ("", "Tell me")
    assert agreement.update("Tell me about the") == ("Tell me", "about the")
    assert agreement.update("Tell me a boat") == ("Tell me", "a boat")
    assert agreement.update("Tell me about the moon") == ("Tell me", "about the moon")
    assert agreement.update("Tell me about the moon.") == ("Tell me about the moon.", "")


def test_case_and_punctuation_do_not_matter_and_the_newest_spelling_counts() -> None:
    agreement = Agreement()
    agreement.update("wait stop")
    assert agreement.update("Wait, Stop. please") == ("Wait, Stop.", "please")
    assert agreement.update("WAIT stop Please!") == ("Wait, Stop. Please!", "")
    assert same_word("don't", "Don't,")
    assert not same_word("cant", "can't")
    assert not same_word("-", "...")


def test_a_shorter_or_empty_decode_takes_nothing_back() -> None:
    agreement = Agreement()
    agreement.update("one two three")
    assert agreement.update("one two three") == ("one two three", "")
    assert agreement.update("one") == ("one two three", "")
    assert agreement.update("") == ("one two three", "")


def test_agreement_on_a_late_word_needs_agreement_on_all_before() -> None:
    agreement = Agreement()
    agreement.update("I scream for ice")
    assert agreement.update("ice cream for ice") == ("", "ice cream for ice")


words = st.lists(st.sampled_from(["a", "A,", "b", "b.", "c"]), max_size=6).map(" ".join)


@given(st.lists(words, max_size=8))
def test_stable_words_only_grow_and_each_was_said_twice_in_a_row(decodes: list[str]) -> None:
    agreement, stable_before, previous = Agreement(), "", ""
    for text in decodes:
        stable, _ = agreement.update(text)
        assert stable.split()[: len(stable_before.split())] == stable_before.split()
        for at in range(len(stable_before.split()), len(stable.split())):
            assert same_word(text.split()[at], previous.split()[at])
            assert text.split()[at] == stable.split()[at]
        stable_before, previous = stable, text
