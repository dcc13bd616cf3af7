"""The user goes on before the reply has really begun: one turn, not two."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from tests.unit.turns_driver import Driver


def test_no_word_heard_reopens_the_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.take(ask.StartReply)
    driver.onset(3.2)
    assert driver.take(ask.Hold), "the gate is shut at once: a reply never starts into speech"
    driver.held(0)
    driver.silence(4.0)
    driver.until(4.15)
    driver.transcript("In Paris.")
    assert driver.take(ask.Abandon) == [ask.Abandon(branch=1, turn=1)]
    assert driver.facts(fact.TurnReopened)
    driver.until(6.0)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=1, text="What is the weather? In Paris.")]
    committed = driver.facts(fact.TurnCommitted)[-1]
    assert (committed.speech_start_s, committed.speech_end_s) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("words", "onset_s", "reopened"),
    [
        (1, 4.0, True),  # fewer than two words were heard
        (2, 4.0, False),
        (3, 2.69, True),  # less than 400 ms of it were heard
        (3, 2.71, False),
    ],
)
def test_who_goes_on_at_the_start_of_a_reply_goes_on_with_the_turn(words: int, onset_s: float, reopened: bool) -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.reply(0, at_s=2.3)
    driver.onset(onset_s)
    driver.until(onset_s + 0.7)
    driver.held(words)
    driver.partial("in Paris today")
    assert bool(driver.take(ask.Abandon)) == reopened
    assert bool(driver.take(ask.Yield)) == (not reopened)


def test_a_stop_word_at_the_start_of_a_reply_reopens_nothing() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.onset(3.2)
    driver.until(3.5)
    driver.held(0)
    driver.partial("Stop")
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=0)]


def test_a_turn_does_not_grow_for_ever() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "word " * 1000 + "end.")
    driver.onset(3.2)
    driver.until(3.9)
    driver.held(0)
    driver.partial("and one more")
    assert driver.take(ask.Yield)


def test_a_reopened_turn_whose_sequel_was_nothing_is_answered_after_all() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.onset(3.2)
    driver.until(3.9)
    driver.partial("in Paris today")
    driver.silence(4.0)
    driver.until(4.15)
    driver.transcript("")
    driver.texts()
    driver.held(0)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=1, text="What is the weather?")]


def noisy_from_the_start() -> Driver:
    """Sound that began before the reply held it for nothing; since then twelve words of it were heard."""
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.onset(2.4)
    driver.held(0)
    driver.until(3.6)
    assert driver.take(ask.Resume)
    driver.reply(12)
    return driver


def test_who_speaks_up_in_noise_that_began_with_the_reply_interrupts_it() -> None:
    driver = noisy_from_the_start()
    driver.partial("No tell me about Mars")
    driver.held(12)
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=12)]
    assert driver.facts(fact.OverlapJudged)[-1].onset_s == pytest.approx(driver.now_s)
    assert not driver.facts(fact.PauseLearned)


def test_who_speaks_up_after_such_noise_interrupts_too() -> None:
    driver = noisy_from_the_start()
    driver.silence(driver.now_s)
    onset_s = driver.now_s + 0.05
    driver.onset(onset_s)
    driver.until(onset_s + 0.7)
    driver.held(12)
    driver.partial("No tell me about Mars")
    assert driver.take(ask.Yield)
    assert driver.facts(fact.OverlapJudged)[-1].onset_s == onset_s


def test_who_had_begun_when_the_first_sound_came_goes_on_with_the_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.onset(2.4)
    driver.tell(fact.PlayoutStarted(branch=1, at_s=2.46))
    driver.until(3.1)
    driver.held(3)
    driver.partial("in Paris today")
    assert driver.take(ask.Abandon)
    assert driver.facts(fact.TurnReopened)[0].reason == "the user had gone on before"
    assert "paused for 400 ms" in driver.facts(fact.PauseLearned)[0].reason
