"""Nobody says anything: the agent asks once."""

from __future__ import annotations

import msgspec
import pytest

from app import effects as ask
from app import events as fact
from app.rules import Rules
from tests.unit.turns_driver import Driver, rules, speaking


def quiet(question: str = "Do you want to hear more?", **turns: object) -> Driver:
    """A reply that ends in this clause was heard to its end at 6.0; nobody says anything."""
    driver = speaking(6, question, **turns)
    driver.finish()
    return driver


def test_the_agent_asks_once_whether_the_user_is_there() -> None:
    driver = quiet()
    line = driver.rules.language.check_in
    assert driver.take(ask.PrepareLine) == [ask.PrepareLine(text=line)]
    driver.until(17.9)
    assert not driver.take(ask.StartReply)
    driver.until(18.1)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="", line=line)]
    assert [(e.turn, e.branch, e.text) for e in driver.facts(fact.CheckedIn)] == [(2, 2, line)]
    driver.reply(4, line)
    driver.finish()
    driver.until(60.0)
    assert not driver.take(ask.StartReply), "once"
    driver.say(61.0, 62.0, "Yes, I am.")
    driver.reply(5, "Shall I go on now?")
    driver.finish()
    driver.until(90.0)
    assert len(driver.facts(fact.CheckedIn)) == 2, "the user has spoken again"


@pytest.mark.parametrize(
    ("clause", "when", "asks"),
    [
        ("This is all I know.", "after_question", False),
        ("This is all I know.", "always", True),
        ("Do you want more of it?", "never", False),
    ],
)
def test_when_the_agent_asks_is_a_setting(clause: str, when: str, asks: bool) -> None:
    driver = speaking(5, clause, check_in=when)
    driver.finish()
    driver.until(30.0)
    assert bool(driver.facts(fact.CheckedIn)) == asks
    assert bool(driver.take(ask.PrepareLine)) == asks


def test_nobody_is_asked_who_has_said_something() -> None:
    driver = quiet()
    driver.say(7.0, 8.0, "Tell me about Mars.")
    driver.reply(3, "It is red.")
    driver.finish()
    driver.until(60.0)
    assert not driver.facts(fact.CheckedIn)


def test_a_noise_puts_the_question_off_only_while_it_lasts() -> None:
    driver = quiet()
    driver.speech(17.8, 18.5)
    driver.until(18.65)
    driver.transcript("")
    driver.until(29.9)
    assert not driver.facts(fact.CheckedIn)
    driver.until(30.1)
    assert driver.facts(fact.CheckedIn)


def test_nobody_is_asked_who_holds_the_talk_key() -> None:
    driver = quiet()
    driver.tell(fact.TalkPressed())
    driver.until(40.0)
    assert not driver.facts(fact.CheckedIn)


def test_after_stop_nobody_is_asked() -> None:
    driver = quiet()
    driver.tell(fact.StopPressed())
    assert driver.commands() == (["stop"], [])
    driver.until(60.0)
    assert not driver.facts(fact.CheckedIn)
    driver = quiet()
    driver.say(7.0, 8.0, "Be quiet.")
    driver.until(60.0)
    assert not driver.facts(fact.CheckedIn)


def test_a_language_without_the_question_asks_nothing() -> None:
    driver = speaking(6, "Do you want to hear more?")
    silent = msgspec.structs.replace(driver.rules.language, check_in="")
    driver.rules = Rules(rules().turns, silent, driver.rules.weights)
    driver.finish()
    driver.until(60.0)
    assert not driver.take(ask.PrepareLine)
    assert not driver.facts(fact.CheckedIn)


def test_who_answers_over_the_question_has_a_turn_of_their_own() -> None:
    driver = quiet()
    driver.until(18.1)
    driver.onset(18.5)
    driver.until(19.2)
    driver.held(0)
    driver.partial("I am still here")
    assert driver.take(ask.Abandon) == [ask.Abandon(branch=2, turn=2)]
    driver.silence(19.3)
    driver.until(19.45)
    driver.transcript("I am still here.")
    driver.texts()
    driver.until(21.0)
    assert [(e.turn, e.text) for e in driver.take(ask.StartReply)] == [(2, "I am still here.")]
    assert driver.facts(fact.TurnCommitted)[-1].speech_start_s == 18.5


def asked() -> Driver:
    """The agent has asked whether the user is there, and was heard."""
    driver = quiet()
    driver.until(18.1)
    driver.reply(4, driver.rules.language.check_in)
    driver.asked.clear()
    return driver


def test_undo_after_the_question_takes_back_the_exchange_before_it() -> None:
    driver = asked()
    driver.finish()
    driver.tell(fact.UndoPressed())
    assert driver.take(ask.MoveBack) == [ask.MoveBack(turn=1)]


def test_undo_after_a_question_that_never_was_takes_back_one_exchange() -> None:
    driver = speaking(5, "This is all I know.")
    driver.finish()
    driver.say(7.0, 8.0, "And Mars?")
    driver.reply(6, "Do you want to hear more?")
    driver.finish()
    driver.until(driver.now_s + 12.1)
    driver.onset(driver.now_s + 0.1)
    driver.until(driver.now_s + 0.7)
    driver.held(0)
    driver.partial("I am still here")
    assert driver.take(ask.Abandon)
    driver.silence(driver.now_s)
    driver.until(driver.now_s + 0.15)
    driver.transcript("Undo that.")
    driver.until(driver.now_s + 1)
    assert driver.take(ask.MoveBack) == [ask.MoveBack(turn=2)]


def test_a_question_that_is_stopped_leaves_no_rest() -> None:
    driver = asked()
    driver.tell(fact.StopPressed())
    driver.held(4)
    driver.tell(fact.TailKept(branch=2, turn=2, text="there?", complete=True))
    assert driver.take(ask.ForgetTail) == [ask.ForgetTail(branch=2)]
    assert driver.state.tail is None
