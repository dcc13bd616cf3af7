"""What looks after the conversation: modes with the echo watchdog, and the stuck guard."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from app.state import AgentPhase, State, UserPhase
from tests.unit.turns_driver import Driver, speaking

MOON = "The moon is a rock and goes around us."


def echo(driver: Driver, at_s: float) -> None:
    """The agent's own words come back as speech."""
    driver.onset(at_s)
    driver.until(at_s + 0.25)
    driver.held(5)
    driver.silence(at_s + 0.5)
    driver.until(at_s + 0.65)
    driver.transcript("moon is a rock")


def measure(driver: Driver, *shares: float) -> None:
    for share in shares:
        driver.tell(fact.EchoMeasured(erle_db=9.0, delay_ms=40.0, residual_share=share))


def modes(driver: Driver) -> list[str]:
    told = [e.mode for e in driver.facts(fact.ModeChanged)]
    assert told == [e.mode for e in driver.asked if isinstance(e, ask.SetMode)]
    return list(told)


def test_a_mode_is_chosen() -> None:
    driver = Driver()
    driver.tell(fact.ModeChosen(mode="headset"))
    driver.tell(fact.ModeChosen(mode="headset"))
    assert modes(driver) == ["headset"]
    assert driver.state.mode == "headset"


def test_an_agent_that_hears_itself_twice_shuts_the_microphone_while_it_speaks() -> None:
    driver = speaking(5, MOON)
    echo(driver, 6.0)
    assert modes(driver) == []
    echo(driver, 7.2)
    assert driver.verdicts() == ["echo", "echo"]
    assert modes(driver) == ["half"]
    changed = driver.facts(fact.ModeChanged)[0]
    assert (changed.reason, changed.scores) == ("the agent heard itself 2 times", {"strikes": 2})


def test_two_echoes_far_apart_are_chance() -> None:
    driver = speaking(5, MOON, echo_window_ms=1000)
    echo(driver, 6.0)
    echo(driver, 7.2)
    assert driver.verdicts() == ["echo", "echo"]
    assert modes(driver) == []


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.06, 0.06), ["half"]), ((0.06, 0.05), []), ((0.06, 0.0, 0.06), []), ((0.06, 0.0, 0.06, 0.2), ["half"])],
)
def test_echo_that_is_left_twice_in_a_row_does_the_same(shares: tuple[float, ...], expected: list[str]) -> None:
    driver = Driver()
    measure(driver, *shares)
    assert modes(driver) == expected


def test_after_a_while_it_is_tried_again() -> None:
    driver = Driver()
    measure(driver, 0.5, 0.5)
    driver.until(299.0)
    assert modes(driver) == ["half"]
    driver.until(301.0)
    assert modes(driver) == ["half", "duplex"]
    measure(driver, 0.5)
    assert modes(driver) == ["half", "duplex"], "old measures do not count"
    measure(driver, 0.5)
    assert modes(driver)[-1] == "half"


def test_what_the_user_chooses_is_left_alone() -> None:
    driver = Driver()
    measure(driver, 0.5, 0.5)
    driver.tell(fact.ModeChosen(mode="half"))
    driver.until(1000.0)
    assert modes(driver) == ["half"], "chosen, so not tried again"
    driver = Driver(state=State(mode="headset"))
    measure(driver, 0.5, 0.5)
    assert modes(driver) == []


def test_old_strikes_do_not_count_in_a_new_mode() -> None:
    driver = speaking(5, MOON)
    echo(driver, 6.0)
    echo(driver, 6.7)
    driver.tell(fact.ModeChosen(mode="duplex"))
    echo(driver, 7.4)
    assert driver.verdicts() == ["echo"] * 3
    assert modes(driver) == ["half", "duplex"]


# ---- the stuck guard ----


def recovered(driver: Driver) -> list[tuple[str, str]]:
    return [(e.region, e.phase) for e in driver.facts(fact.StuckRecovered)]


def test_a_recogniser_that_does_not_answer_loses_only_what_nobody_knows() -> None:
    driver = Driver()
    driver.onset(1.0)
    driver.until(2.0)
    driver.partial("Tell me about the moon.")
    driver.silence(2.1)
    driver.until(7.0)
    assert recovered(driver) == []
    driver.until(7.6)
    assert recovered(driver) == [("user", "pause")]
    assert driver.texts() == ["Tell me about the moon."]


def test_an_utterance_nobody_can_transcribe_is_forgotten_and_the_reply_goes_on() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.3)
    driver.held(5)
    driver.silence(6.4)
    driver.until(12.0)
    assert recovered(driver) == [("user", "pause")]
    assert driver.take(ask.Resume)
    assert driver.state.user.phase is UserPhase.SILENT


def test_a_loudspeaker_that_does_not_tell_what_was_heard_ends_with_what_was_told_before() -> None:
    driver = speaking(words=4)
    driver.tell(fact.StopPressed())
    driver.until(10.9)
    assert recovered(driver) == []
    driver.until(11.1)
    assert recovered(driver) == [("agent", "held")]
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=4)]


def test_a_turn_is_reopened_although_the_loudspeaker_is_silent_about_it() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.onset(3.0)
    driver.until(3.7)
    driver.partial("in Paris today")
    driver.silence(4.0)
    driver.until(4.15)
    driver.transcript("In Paris today.")
    driver.texts()
    driver.until(12.0)
    assert driver.take(ask.Abandon)
    assert driver.texts() == ["What is the weather? In Paris today."]


def test_a_model_that_does_not_answer_frees_the_conversation() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.until(10.0)
    driver.tell(fact.UserTurnAppended(branch=1, tokens=9, took_ms=5))
    driver.until(24.9)
    assert recovered(driver) == [], "its last sign of life was at 10.0"
    driver.until(25.1)
    assert recovered(driver) == [("agent", "preparing")]
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=0)]
    driver.say(30.0, 31.0, "Are you there?")
    assert driver.texts()[-1] == "Are you there?"


def test_a_reply_that_falls_silent_ends_with_what_was_heard() -> None:
    driver = speaking(words=4)
    driver.until(40.0)
    assert recovered(driver) == [("agent", "speaking")]
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=4)]


def test_a_move_that_is_never_answered_is_given_up() -> None:
    driver = speaking()
    driver.finish()
    driver.tell(fact.UndoPressed())
    driver.until(11.1)
    assert recovered(driver) == [("agent", "moving")]
    assert driver.state.agent.phase is AgentPhase.IDLE
    driver.tell(fact.Moved(boundary=1, name="A0", turn=0, left=3, rollback_us=1))
    assert driver.state.turns == 0, "an answer that comes late is true all the same"


def test_a_murmur_that_goes_on_holds_a_reply_until_nothing_more_comes() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.3)
    driver.held(5)
    driver.partial("Mm")
    driver.until(10.0)
    driver.partial("Mm-hmm")
    driver.until(14.9)
    assert recovered(driver) == []
    driver.until(15.1)
    assert recovered(driver) == [("agent", "held")]
    assert driver.take(ask.Yield)


def test_a_long_reply_is_not_stuck() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.reply(400)
    assert driver.now_s > 100
    assert recovered(driver) == []


def test_a_user_who_talks_for_minutes_is_not_stuck() -> None:
    driver = Driver()
    driver.onset(1.0)
    driver.until(300.0)
    driver.silence(300.0)
    driver.until(300.15)
    driver.transcript("That was long.")
    driver.until(301.0)
    assert recovered(driver) == []
    assert driver.texts() == ["That was long."]


def test_a_user_who_thinks_with_the_talk_key_down_is_not_stuck() -> None:
    driver = Driver()
    driver.tell(fact.TalkPressed())
    driver.speech(1.0, 2.0)
    driver.until(60.0)
    driver.tell(fact.TalkReleased())
    driver.transcript("Hm.")
    assert recovered(driver) == []
    assert driver.texts() == ["Hm."]
