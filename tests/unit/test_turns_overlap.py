"""Speech over a reply: duck, hold, verdicts, collisions, echo."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from app.state import AgentPhase, UserPhase
from tests.unit.turns_driver import Driver, speaking

MOON = "The moon is a rock. It goes around us every month. Do you want more of it? Then ask away and listen well."


def over(words: int = 5, text: str = "", **turns: object) -> Driver:
    """The user talks since 6.0 over a reply that is held."""
    driver = speaking(words, text, **turns)
    driver.onset(max(6.0, driver.now_s))
    driver.until(driver.now_s + 0.25)
    driver.held(words)
    return driver


def test_barge_in_ducks_holds_and_yields_what_was_heard() -> None:
    driver = speaking(words=5)
    driver.onset(6.0)
    driver.until(6.05)
    assert not driver.take(ask.Duck)
    driver.until(6.07)
    assert driver.take(ask.Duck)
    assert driver.facts(fact.OverlapStarted)[0].onset_s == 6.0
    driver.until(6.19)
    assert not driver.take(ask.Hold)
    driver.until(6.21)
    assert driver.take(ask.Hold)
    driver.held(6)
    driver.until(6.59)
    driver.partial("Tell me only")
    assert not driver.take(ask.Yield), "sound alone ends no reply, nor do words that may be guessed from a syllable"
    driver.until(6.61)
    driver.partial("Tell me only one")
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=6)]
    judged = driver.facts(fact.OverlapJudged)[0]
    assert (judged.verdict, judged.onset_s) == ("turn", 6.0)
    assert judged.reason
    assert judged.scores
    driver.silence(7.0)
    driver.until(7.15)
    driver.transcript("Tell me only one sentence please.")
    driver.until(7.3)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="Tell me only one sentence please.")]


def test_words_before_the_loudspeaker_has_told_still_yield_the_exact_count() -> None:
    driver = speaking()
    driver.speech(6.0, 6.7)
    driver.partial("No thank you")
    assert not driver.take(ask.Yield)
    driver.held(7)
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=7)]


def test_an_interruption_that_pauses_after_its_first_word_is_one_turn() -> None:
    driver = over()
    driver.silence(6.4)
    driver.until(6.55)
    driver.transcript("Wait.")
    driver.speech(7.0, 8.0)
    driver.until(8.15)
    driver.transcript("Wait. That was wrong.")
    driver.until(9.5)
    assert driver.texts() == ["Wait. That was wrong."]
    assert len(driver.take(ask.Yield)) == 1


@pytest.mark.parametrize(("text", "kind"), [("Mm-hmm.", "backchannel"), ("Go on.", "backchannel")])
def test_a_backchannel_is_noted_and_the_reply_goes_on(text: str, kind: str) -> None:
    driver = over()
    driver.silence(6.4)
    driver.until(6.55)
    driver.transcript(text)
    assert driver.take(ask.Resume) == [ask.Resume(branch=1)]
    assert driver.verdicts() == [kind]
    assert driver.notes() == [(kind, text)]
    assert (driver.state.agent.phase, driver.state.user.phase) == (AgentPhase.SPEAKING, UserPhase.SILENT)
    driver.until(9.0)
    assert not driver.take(ask.StartReply)
    assert not driver.take(ask.Yield)


def test_a_backchannel_is_not_told_before_it_is_over() -> None:
    driver = over()
    driver.partial("Yeah")
    driver.until(6.7)
    assert not driver.take(ask.Resume)
    driver.partial("Yeah but what about Mars")
    assert driver.take(ask.Yield)


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        (9, "backchannel"),  # the question has not begun
        (11, "turn"),  # it is being asked
        (15, "turn"),  # it was asked,
        (18, "turn"),  # and three words later it can still be meant;
        (19, "backchannel"),  # four words later it is past
    ],
)
def test_yeah_is_an_answer_to_a_question(heard: int, verdict: str) -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    for clause, text in enumerate(
        ["The moon is a rock. ", "It goes around us. ", "Do you want more of it? ", "Then ask away and listen."]
    ):
        driver.tell(fact.ClauseDecoded(branch=1, clause=clause, text=text))
    driver.reply(heard)
    onset_s = driver.now_s + 1.0
    driver.onset(onset_s)
    driver.until(onset_s + 0.25)
    driver.held(heard)
    driver.silence(onset_s + 0.4)
    driver.until(onset_s + 0.55)
    driver.transcript("Yeah.")
    assert driver.verdicts() == [verdict]


def test_a_stop_word_ends_the_reply_at_once_and_is_no_turn() -> None:
    driver = over()
    driver.partial("Stop")
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=5)]
    assert driver.verdicts() == ["stop"]
    driver.silence(6.5)
    driver.until(6.65)
    driver.transcript("Stop.")
    driver.until(9.0)
    assert not driver.take(ask.StartReply)
    assert driver.notes() == [("stop", "Stop.")]
    assert [taken.command for taken in driver.facts(fact.CommandTaken)] == ["stop"]


def test_what_follows_a_stop_word_is_a_turn() -> None:
    driver = over()
    driver.partial("Stop")
    driver.silence(7.5)
    driver.until(7.65)
    driver.transcript("Stop. Tell me about Mars.")
    driver.until(9.0)
    assert driver.texts() == ["Stop. Tell me about Mars."]
    assert not driver.notes()


def test_the_agents_own_words_are_an_echo() -> None:
    driver = over(5, MOON)
    driver.partial("the moon is a")
    assert not driver.take(ask.Yield)
    assert not driver.take(ask.Resume), "the gate is shut, so an echo ends by itself"
    driver.silence(6.5)
    driver.until(6.65)
    driver.transcript("The moon is a")
    assert driver.take(ask.Resume)
    assert driver.verdicts() == ["echo"]
    assert driver.notes() == [("echo", "The moon is a")]


def test_words_the_agent_said_long_ago_are_the_users() -> None:
    driver = speaking(5, MOON)
    driver.onset(12.0)
    driver.until(12.25)
    driver.held(5)
    driver.silence(12.5)
    driver.until(12.65)
    driver.transcript("The moon is a")
    assert driver.verdicts() == ["turn"]


def test_an_echo_of_the_last_words_is_no_turn() -> None:
    driver = speaking(5, MOON)
    driver.onset(6.0)
    driver.finish()
    driver.silence(6.5)
    driver.until(6.65)
    driver.transcript("The moon is a")
    driver.until(9.0)
    assert driver.verdicts() == ["echo"]
    assert driver.notes() == [("echo", "The moon is a")]
    assert not driver.take(ask.StartReply)


def test_an_echo_needs_a_reply() -> None:
    driver = speaking(5, MOON)
    driver.finish()
    driver.onset(6.2)
    driver.silence(6.7)
    driver.until(6.85)
    driver.transcript("The moon is a")
    driver.until(9.9)
    assert driver.texts() == ["The moon is a"]


def test_one_word_ends_a_reply_after_enough_speech() -> None:
    driver = over()
    driver.partial("Mars")
    driver.until(6.7)
    assert not driver.take(ask.Yield), "what was guessed from a syllable is not judged later"
    driver.partial("Mars")
    assert driver.take(ask.Yield)
    assert driver.verdicts() == ["turn"]


def test_who_ended_a_reply_is_answered_whatever_the_words_turn_out_to_be() -> None:
    driver = over()
    driver.until(6.7)
    driver.partial("Yard")
    assert driver.take(ask.Yield)
    driver.silence(6.8)
    driver.until(6.95)
    driver.transcript("Yeah.")
    driver.until(9.0)
    assert driver.texts() == ["Yeah."]


def test_words_that_came_before_the_gate_shut_count() -> None:
    driver = speaking()
    driver.speech(6.0, 6.15)
    driver.until(6.25)
    driver.partial("Stop")
    assert not driver.take(ask.Hold)
    driver.onset(6.3)
    driver.until(6.36)
    driver.held(5)
    assert driver.take(ask.Yield)


def test_a_cough_resumes_the_reply() -> None:
    driver = over()
    driver.silence(6.4)
    driver.until(6.6)
    driver.transcript("")
    assert driver.take(ask.Resume) == [ask.Resume(branch=1)]
    assert driver.state.agent.phase is AgentPhase.SPEAKING
    assert not driver.take(ask.Yield)
    assert driver.verdicts() == ["noise"]
    assert not driver.notes()


def test_a_click_only_ducks() -> None:
    driver = speaking()
    driver.speech(6.0, 6.1)
    assert driver.take(ask.Duck)
    assert driver.take(ask.Unduck)
    driver.until(8.0)
    assert not driver.take(ask.Hold)
    assert driver.state.user.phase is UserPhase.SILENT


def test_two_short_sounds_add_up_to_an_interruption() -> None:
    driver = speaking()
    driver.speech(6.0, 6.12)
    driver.speech(6.3, 6.5)
    assert driver.take(ask.Hold)


def test_wordless_sound_does_not_silence_the_reply_for_ever() -> None:
    driver = over()
    driver.until(7.09)
    assert not driver.take(ask.Resume)
    driver.until(7.11)
    assert driver.take(ask.Resume)
    assert driver.verdicts() == ["noise"]


def held_for_noise() -> Driver:
    """Sound without words held the reply until it was given up as noise; the sound goes on."""
    driver = over()
    driver.until(9.0)
    assert driver.take(ask.Resume)
    driver.take(ask.Hold)
    return driver


def test_words_in_what_was_taken_for_noise_still_interrupt() -> None:
    driver = held_for_noise()
    driver.partial("Tell me more now")
    assert driver.take(ask.Hold)
    driver.held(8)
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=8)]


def test_after_noise_the_next_sound_has_to_last_as_long_as_any() -> None:
    driver = held_for_noise()
    driver.silence(9.0)
    driver.speech(9.05, 9.15)
    assert driver.take(ask.Duck)
    assert not driver.take(ask.Hold)
    driver.speech(9.2, 9.45)
    assert driver.take(ask.Hold)


def test_a_reply_that_is_held_for_nothing_again_and_again_gets_on() -> None:
    driver = over()
    holds_s: list[float] = []
    for _ in range(4):
        driver.silence(driver.now_s + 0.1)
        driver.until(driver.now_s + 0.15)
        driver.transcript("")
        assert driver.take(ask.Resume)
        driver.asked.clear()
        began_s = driver.now_s + 0.2
        driver.onset(began_s)
        while not driver.take(ask.Hold):
            driver.until(driver.now_s + 0.01)
        holds_s.append(driver.now_s - began_s)
        driver.held(5)
        driver.asked.clear()
    assert holds_s == pytest.approx([0.2, 0.4, 0.8, 1.6], abs=0.02)


# ---- the first sound of a session ----


@pytest.mark.parametrize(
    ("mode", "rise_db", "hold_s"), [("duplex", 30.0, 0.6), ("duplex", 0.0, 0.2), ("headset", 30.0, 0.2)]
)
@pytest.mark.parametrize("noticed_s", [2.4, 2.9])
def test_while_the_echo_canceller_learns_it_takes_more_to_hold(
    mode: fact.Mode, rise_db: float, hold_s: float, noticed_s: float
) -> None:
    driver = Driver()
    driver.tell(fact.ModeChosen(mode=mode))
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.reply(1, at_s=2.3)
    for at_s, event in sorted([(noticed_s, fact.EchoNoticed(rise_db=rise_db)), (2.8, fact.SpeechStarted(at_s=2.8))]):
        driver.until(at_s)
        driver.tell(event)
    driver.until(2.8 + hold_s - 0.01)
    assert not driver.take(ask.Hold)
    driver.until(2.8 + hold_s + 0.01)
    assert driver.take(ask.Hold)


def learning() -> Driver:
    """The reply plays since 2.3, and its echo was noticed at 2.4."""
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.reply(1, at_s=2.3)
    driver.until(2.4)
    driver.tell(fact.EchoNoticed(rise_db=30.0))
    return driver


def test_a_stop_word_is_obeyed_while_the_echo_is_being_learned() -> None:
    driver = learning()
    driver.onset(2.8)
    driver.until(3.25)
    driver.partial("Stop.")
    assert driver.take(ask.Hold)
    driver.held(2)
    assert driver.take(ask.Yield)
    assert driver.verdicts() == ["stop"]
    driver.silence(3.3)
    driver.until(3.45)
    driver.transcript("Stop.")
    driver.until(6.0)
    assert [note.kind for note in driver.facts(fact.UserNoted)] == ["stop"]
    assert driver.texts() == ["Tell me about the moon."]


def test_a_short_stop_word_is_read_though_the_echo_is_being_learned() -> None:
    driver = learning()
    driver.speech(2.8, 3.1)
    driver.until(3.25)
    assert not driver.take(ask.Hold)
    driver.transcript("Be quiet.")
    assert driver.take(ask.Hold)


@pytest.mark.parametrize("words", ["The mute.", "Mars and Venus.", "Yeah."])
def test_other_words_do_nothing_while_the_echo_is_being_learned(words: str) -> None:
    driver = learning()
    driver.speech(2.8, 3.25)
    driver.partial(words)
    driver.until(3.4)
    driver.transcript(words)
    driver.until(6.0)
    assert not driver.take(ask.Hold)
    assert driver.verdicts() == ["noise"]
    assert driver.state.user.phase is UserPhase.SILENT
    assert driver.state.mode == "duplex", "it is no strike of an echo that should be gone"


def test_the_echo_canceller_has_learned_after_a_while() -> None:
    driver = speaking()
    driver.tell(fact.EchoNoticed(rise_db=30.0))
    driver.finish()
    driver.say(8.0, 9.0, "And Mars?")
    driver.reply(1, at_s=9.4)
    driver.onset(9.9)
    driver.until(10.11)
    assert driver.take(ask.Hold)


# ---- ends ----


def test_a_reply_that_ends_during_an_overlap_is_closed() -> None:
    driver = over()
    driver.finish()
    driver.silence(6.4)
    driver.until(6.6)
    driver.transcript("")
    assert driver.take(ask.CloseReply)
    assert driver.state.agent.phase is AgentPhase.IDLE


def test_a_reply_that_had_ended_when_it_was_stopped_is_whole() -> None:
    driver = over()
    driver.finish()
    driver.tell(fact.StopPressed())
    assert driver.take(ask.CloseReply)
    assert not driver.take(ask.Yield)


def test_results_of_a_dead_branch_change_nothing() -> None:
    driver = speaking()
    before = driver.state
    for event in (
        fact.PlayoutStarted(branch=99, at_s=0),
        fact.WordHeard(branch=99, words=7, text="w", at_s=0),
        fact.OutputHeld(branch=99, at_s=0, words=50),
        fact.ReplyFailed(branch=99, what="", why="", fix=""),
        fact.PlayoutFinished(branch=99, at_s=0),
    ):
        assert driver.tell(event) == []
    assert driver.state == before


def test_a_failed_reply_frees_the_conversation() -> None:
    driver = speaking(words=0)
    driver.tell(fact.ReplyFailed(branch=1, what="x", why="y", fix="z"))
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=0)], "the user's words stay"
    driver.say(10.0, 11.0, "Are you there?")
    assert driver.take(ask.StartReply)
