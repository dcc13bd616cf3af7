"""What the user asks for besides answers: stop, typed turns, and the rest of a reply that was cut off."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from tests.unit.turns_driver import Driver, cut_off, speaking

# ---- stop ----


def test_the_stop_key_silences_and_waits() -> None:
    driver = speaking()
    driver.tell(fact.StopPressed())
    assert driver.take(ask.Hold)
    driver.held(5)
    assert driver.take(ask.Yield)
    driver.until(30)
    assert not driver.take(ask.StartReply)
    assert driver.commands() == (["stop"], [])


@pytest.mark.parametrize(("text", "answered"), [("Yeah, okay.", []), ("What about Mars?", ["What about Mars?"])])
def test_a_murmur_under_the_stop_key_is_not_answered(text: str, answered: list[str]) -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.1)
    driver.tell(fact.StopPressed())
    driver.held(5)
    assert driver.take(ask.Yield)
    driver.silence(6.6)
    driver.until(6.75)
    driver.transcript(text)
    driver.until(9.0)
    assert driver.texts() == answered


def test_the_stop_key_in_silence_is_refused() -> None:
    driver = Driver()
    driver.tell(fact.StopPressed())
    assert driver.commands() == ([], ["stop"])


def test_the_stop_key_does_not_undo_a_judged_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "I would like a table.")
    driver.onset(3.0)
    driver.until(3.7)
    driver.partial("for two people")
    driver.tell(fact.StopPressed())
    driver.held(0)
    assert driver.facts(fact.TurnReopened)
    assert driver.state.user.reopened is not None
    assert driver.state.user.reopened.text == "I would like a table."


# ---- typed turns ----


def test_typing_over_a_reply_is_a_turn() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text=" And Mars? "))
    driver.held(5)
    assert driver.take(ask.Yield)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="And Mars?")]


def test_an_empty_line_is_nothing() -> None:
    driver = speaking()
    assert driver.tell(fact.TextTyped(text=" ")) == []


def test_two_typed_lines_before_the_reply_has_ended_are_one_turn() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.TextTyped(text="And Venus?"))
    driver.held(5)
    assert driver.texts() == ["And Mars? And Venus?"]


def test_a_typed_line_survives_a_reply_that_fails() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.ReplyFailed(branch=1, what="x", why="y", fix="z"))
    assert driver.texts() == ["And Mars?"]


def test_typing_puts_on_record_what_was_being_said() -> None:
    driver = Driver()
    driver.onset(1.0)
    driver.until(2.0)
    driver.partial("I would like to")
    driver.tell(fact.TextTyped(text="Tell me about Mars."))
    assert driver.take(ask.EndUtterance)
    assert driver.texts() == ["Tell me about Mars."]
    assert driver.notes() == [("dropped", "I would like to")]


def reopened() -> Driver:
    """The user went on before a word of the reply to "I would like a table." was heard."""
    driver = Driver()
    driver.say(1.0, 2.0, "I would like a table.")
    driver.onset(3.0)
    driver.until(3.7)
    driver.held(0)
    driver.partial("for two")
    driver.texts()
    return driver


def test_what_was_reopened_is_said_once() -> None:
    driver = reopened()
    driver.silence(4.0)
    driver.until(4.15)
    driver.transcript("For two people.")
    driver.until(6.0)
    driver.reply(3)
    driver.until(8.0)
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.held(3)
    assert driver.texts() == ["I would like a table. For two people.", "And Mars?"]


def test_typing_goes_on_with_a_reopened_turn() -> None:
    driver = reopened()
    driver.tell(fact.TextTyped(text="for two"))
    assert driver.texts() == ["I would like a table. for two"]


def test_speech_while_a_typed_line_waits_holds_its_reply() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.onset(driver.now_s)
    driver.take(ask.Hold)
    driver.held(5)
    assert driver.take(ask.StartReply)
    assert driver.take(ask.Hold) == [ask.Hold(branch=2)]


def test_what_is_said_while_a_typed_line_waits_belongs_to_it() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.onset(6.0)
    driver.until(6.5)
    driver.held(5)
    assert not driver.take(ask.StartReply), "no reply starts into speech"
    driver.silence(7.0)
    driver.until(7.15)
    driver.transcript("Or Venus.")
    driver.until(7.3)
    assert driver.texts() == ["And Mars? Or Venus."]


# ---- go on ----


def test_the_go_on_key_plays_the_unheard_rest() -> None:
    driver = cut_off()
    driver.until(20.0)
    driver.tell(fact.GoOnPressed())
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="Go on.", tail_of=1)]
    assert [e.text for e in driver.facts(fact.TurnCommitted)] == ["Go on."]
    assert driver.commands() == (["go_on"], [])
    assert driver.state.tail is None
    driver.until(100.0)
    assert not driver.facts(fact.TailForgotten), "it was used, not forgotten"


def test_go_on_by_word_is_a_turn_of_those_words() -> None:
    driver = cut_off()
    driver.say(8.0, 8.6, "Please continue.")
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="Please continue.", tail_of=1)]
    assert driver.commands() == (["go_on"], [])
    assert not driver.notes()


def test_go_on_by_word_without_a_rest_is_for_the_model() -> None:
    driver = cut_off(tail=False)
    driver.say(8.0, 8.6, "Go on.")
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="Go on.")]
    assert driver.commands() == ([], [])


def test_the_go_on_key_without_a_rest_is_refused() -> None:
    driver = cut_off(tail=False)
    driver.tell(fact.GoOnPressed())
    assert driver.commands() == ([], ["go_on"])
    assert not driver.take(ask.StartReply)


def test_the_go_on_key_lets_a_held_reply_go_on() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.3)
    driver.held(5)
    driver.tell(fact.GoOnPressed())
    assert driver.take(ask.Resume)
    driver.tell(fact.GoOnPressed())
    assert driver.commands() == (["go_on"], ["go_on"]), "a reply that plays goes on already"


def test_who_speaks_up_in_noise_after_the_go_on_key_is_heard() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.3)
    driver.held(5)
    driver.tell(fact.GoOnPressed())
    assert driver.take(ask.Resume)
    driver.asked.clear()
    driver.until(20.0)
    assert not driver.take(ask.Hold), "the noise itself counts no more"
    driver.partial("Tell me about Mars")
    driver.held(9)
    assert driver.take(ask.Yield)


def test_who_talks_to_somebody_else_while_they_press_go_on_does_not_interrupt() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.3)
    driver.held(5)
    driver.partial("I am")
    driver.tell(fact.GoOnPressed())
    assert driver.take(ask.Resume)
    driver.asked.clear()
    driver.partial("I am on the phone")
    driver.until(8.0)
    assert not driver.take(ask.Hold)


def test_the_rest_is_forgotten_after_a_while() -> None:
    driver = cut_off()
    driver.until(65.9)
    assert not driver.take(ask.ForgetTail)
    driver.until(66.1)
    assert driver.take(ask.ForgetTail) == [ask.ForgetTail(branch=1)]
    assert [e.branch for e in driver.facts(fact.TailForgotten)] == [1]
    driver.tell(fact.GoOnPressed())
    assert driver.commands() == ([], ["go_on"])


def test_a_newer_rest_takes_the_place_of_an_older() -> None:
    driver = cut_off()
    driver.say(8.0, 9.0, "Tell me about Mars.")
    driver.reply(4)
    driver.tell(fact.StopPressed())
    driver.held(4)
    driver.tell(fact.TailKept(branch=2, turn=2, text="of Mars", complete=False))
    assert driver.take(ask.ForgetTail) == [ask.ForgetTail(branch=1)]
    driver.until(67.0)
    assert driver.state.tail == 2, "its time counts from its own beginning"


def test_the_rest_of_a_reply_that_was_interrupted_by_a_typed_line_is_kept() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.held(5)
    driver.tell(fact.TailKept(branch=1, turn=1, text="the rest", complete=True))
    assert driver.state.tail == 1
