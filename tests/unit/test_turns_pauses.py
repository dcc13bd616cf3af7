"""What the user's pauses teach: the shortest silence that ends a turn."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from tests.unit.turns_driver import Driver, rules, speaking


def test_pauses_inside_a_turn_raise_the_shortest_wait() -> None:
    driver = Driver()
    start_s = 1.0
    for _ in range(3):
        driver.speech(start_s, start_s + 0.5)
        driver.partial("I was thinking")
        start_s += 1.3  # pauses of 800 ms
    driver.speech(start_s, start_s + 0.5)
    floor_ms = 200.0
    for _ in range(3):
        floor_ms = 0.9 * floor_ms + 0.1 * 800
    assert driver.state.floor_ms == pytest.approx(floor_ms)
    assert driver.facts(fact.PauseLearned)[-1].floor_ms == pytest.approx(floor_ms, abs=0.1)
    driver.until(start_s + 0.6)
    driver.transcript("Now I am done.")
    assert driver.facts(fact.EndScored)[-1].wait_ms == round(floor_ms)


def test_the_floor_has_limits_and_forgets() -> None:
    driver = Driver(rules(floor_memory=0.0))
    driver.speech(1.0, 2.0)
    driver.partial("I was thinking")
    driver.speech(4.4, 5.0)
    assert driver.state.floor_ms == 900
    driver.speech(5.05, 6.0)
    assert driver.state.floor_ms == 200
    driver.speech(8.6, 9.0)
    assert driver.state.floor_ms == 200, "a silence longer than any wait is no pause inside a turn"


def test_who_was_cut_off_gets_more_time() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "I was thinking.")
    driver.reply(2, at_s=2.3)
    driver.onset(2.9)
    driver.until(3.6)
    driver.held(2)
    driver.partial("about my dog today")
    # Half the way from 200 ms to the 300 ms that were waited + 100 ms.
    assert driver.state.floor_ms == pytest.approx(300, abs=1)
    assert "after the reply had begun" in driver.facts(fact.PauseLearned)[0].reason


def test_a_wait_that_was_asked_for_teaches_no_pause() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "I need a name. Let me think.")
    driver.until(10.1)
    driver.reply(2)
    driver.onset(driver.now_s + 0.05)
    driver.until(driver.now_s + 0.7)
    driver.held(2)
    driver.partial("about my dog today")
    assert driver.verdicts() == ["turn"]
    assert driver.state.floor_ms == 0


def test_the_pauses_of_a_noise_teach_nothing() -> None:
    driver = Driver()
    driver.speech(1.0, 1.5)
    driver.until(1.65)
    driver.transcript("")
    driver.speech(3.0, 3.5)
    driver.speech(4.3, 4.8)
    assert driver.state.floor_ms == 0


def test_who_interrupts_later_was_not_cut_off() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.7)
    driver.partial("about my dog today")
    driver.held(9)
    assert driver.take(ask.Yield)
    assert driver.state.floor_ms == 0


def test_a_turn_that_the_key_ended_teaches_no_pause() -> None:
    driver = Driver()
    driver.tell(fact.TalkPressed())
    driver.onset(1.0)
    driver.until(2.0)
    driver.tell(fact.TalkReleased())
    driver.transcript("Tell me about the moon.")
    driver.reply(2)
    driver.onset(driver.now_s + 0.05)
    driver.until(driver.now_s + 0.7)
    driver.held(2)
    driver.partial("about my dog today")
    assert driver.facts(fact.OverlapJudged)
    assert driver.state.floor_ms == 0
