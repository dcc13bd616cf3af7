"""From speech to a turn: onset, pauses, scores, waits, the talk key."""

from __future__ import annotations

import pytest

from app import effects as ask
from app import events as fact
from app.state import AgentPhase, UserPhase
from tests.unit.turns_driver import Driver, rules, speaking


def test_a_plain_turn() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    assert driver.take(ask.StartUtterance) == [ask.StartUtterance(utterance=1, from_s=1.0 - 0.32)]
    driver.until(2.1)
    assert driver.take(ask.Transcribe) == [ask.Transcribe(utterance=1, request=1, until_s=2.0)]
    driver.asked.append(ask.Transcribe(utterance=1, request=1, until_s=2.0))
    driver.transcript("What is the moon?")
    driver.until(2.29)
    assert not driver.take(ask.StartReply)
    driver.until(2.31)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=1, turn=1, text="What is the moon?")]
    committed = driver.facts(fact.TurnCommitted)[0]
    assert (committed.speech_start_s, committed.speech_end_s) == (1.0, 2.0)
    assert committed.reason == "300 ms of silence: a sentence ends"
    assert committed.scores["probability"] > 0.9
    driver.reply(3)
    driver.finish()
    assert driver.take(ask.CloseReply) == [ask.CloseReply(branch=1, turn=1)]
    assert (driver.state.agent.phase, driver.state.user.phase) == (AgentPhase.IDLE, UserPhase.SILENT)


def test_a_late_transcript_delays_the_commit_and_nothing_else() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(3.0)
    driver.transcript("What is the moon?")
    driver.until(3.0)
    assert driver.texts() == ["What is the moon?"]


def test_a_pause_in_mid_sentence_is_waited_out() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.2)
    driver.transcript("I would like to know about")
    scored = driver.facts(fact.EndScored)[0]
    assert scored.probability < 0.1
    assert scored.wait_ms == driver.rules.turns.unfinished_ms
    driver.speech(2.8, 3.5)
    driver.until(3.7)
    driver.transcript("I would like to know about the moon.")
    driver.until(5.0)
    assert driver.texts() == ["I would like to know about the moon."]


def test_a_transcript_from_before_the_user_went_on_commits_nothing() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    wanted = driver.take(ask.Transcribe)[0]
    driver.speech(2.2, 3.0)
    driver.tell(fact.FinalTranscribed(utterance=wanted.utterance, request=wanted.request, text="Hello.", took_ms=9))
    driver.until(4.0)
    driver.transcript("Hello there, you.")
    driver.until(5.0)
    assert driver.texts() == ["Hello there, you."]


def test_a_second_answer_to_one_request_moves_nothing() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript("Hello there.")
    driver.transcript("Yellow hair.")
    driver.until(3.0)
    assert driver.texts() == ["Hello there."]


def test_noise_is_no_turn() -> None:
    driver = Driver()
    driver.say(1.0, 1.8, "")
    assert not driver.take(ask.StartReply)
    assert driver.state.user.phase is UserPhase.SILENT
    driver.take(ask.Transcribe)
    driver.speech(4.0, 4.05)
    driver.until(6.0)
    assert driver.state.user.phase is UserPhase.SILENT
    assert not driver.take(ask.Transcribe), "a blip is not even transcribed"


def test_a_transcript_without_a_word_is_no_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "...")
    assert not driver.take(ask.StartReply)
    assert driver.state.user.phase is UserPhase.SILENT


# ---- what the model thinks of the end ----


def test_the_model_reads_ahead_and_its_score_moves_the_commit() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript("I have a dog")
    assert driver.take(ask.ReadAhead) == [ask.ReadAhead(utterance=1, request=1, text="I have a dog")]
    driver.asked.append(ask.ReadAhead(utterance=1, request=1, text="I have a dog"))
    driver.until(2.35)
    driver.read(-0.1)  # +11.6 against -4: finished
    assert [scored.wait_ms for scored in driver.facts(fact.EndScored)] == [2000, 300]
    driver.until(2.35)
    assert driver.texts() == ["I have a dog"], "the wait was over already"


@pytest.mark.parametrize(("said", "wait_ms"), [("Do you know a joke?", 1000), ("Do you know a joke of", 2000)])
def test_what_reads_as_a_sentence_does_not_wait_for_long_however_it_sounds(said: str, wait_ms: int) -> None:
    driver = Driver(rules(unfinished_ms=2000, sure_ms=2000, likely_ms=2000, even_ms=2000, unlikely_ms=2000))
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript(said)
    assert [scored.wait_ms for scored in driver.facts(fact.EndScored)] == [wait_ms]


def test_a_score_for_a_pause_that_is_over_is_dropped() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript("I have a dog")
    driver.onset(2.3)
    driver.read(-0.1)
    driver.until(6.0)
    assert not driver.take(ask.StartReply)


def test_a_model_that_had_no_room_changes_nothing() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript("I have a dog")
    driver.tell(fact.UserTextRead(utterance=1, request=1, tokens=0, end_logprob=None, took_ms=0))
    assert [scored.wait_ms for scored in driver.facts(fact.EndScored)] == [2000, 2000]


def test_the_model_reads_ahead_only_once_the_interruption_is_settled() -> None:
    driver = speaking()
    driver.speech(6.0, 7.0)
    driver.until(7.15)
    driver.transcript("No, tell me about Mars")
    assert not driver.take(ask.ReadAhead), "the loudspeaker has not told what was heard"
    driver.held(9)
    assert [e.text for e in driver.take(ask.ReadAhead)] == ["No, tell me about Mars"]


def test_acoustic_signs_are_weighed() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.tell(
        fact.FinalTranscribed(utterance=1, request=1, text="I have a dog", took_ms=9, acoustic={"llm_eot": 0.0})
    )
    scored = driver.facts(fact.EndScored)[0]
    assert scored.probability > 0.9
    assert scored.scores["llm_eot"] == 0.0


# ---- asking for time ----


def test_who_asks_for_time_gets_it() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.transcript("I need a name for my dog. Let me think.")
    assert driver.facts(fact.EndScored)[0].wait_ms == driver.rules.turns.wait_ms
    driver.until(9.9)
    assert not driver.take(ask.StartReply)
    driver.until(10.1)
    assert driver.texts() == ["I need a name for my dog. Let me think."]


def test_who_only_asked_for_time_gets_no_answer() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Hold on.")
    driver.until(12.0)
    assert not driver.take(ask.StartReply)
    assert driver.notes() == [("wait", "Hold on.")]
    assert driver.state.user.phase is UserPhase.SILENT


def test_who_goes_on_after_asking_for_time_is_answered_soon() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Hold on.")
    driver.say(5.0, 6.0, "Hold on. What about Mars?")
    assert driver.texts() == ["Hold on. What about Mars?"]


# ---- the talk key ----


def test_the_talk_key_takes_the_word_and_its_release_ends_the_turn() -> None:
    driver = speaking()
    driver.tell(fact.TalkPressed())
    assert driver.take(ask.SetTalkKey) == [ask.SetTalkKey(down=True)]
    assert driver.take(ask.Hold)
    driver.held(12)
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=12)]
    driver.speech(6.1, 7.0)
    driver.speech(9.5, 10.0)
    assert not driver.take(ask.Transcribe), "a pause ends nothing while the key is down"
    driver.until(10.2)
    driver.tell(fact.TalkReleased())
    assert driver.take(ask.SetTalkKey) == [ask.SetTalkKey(down=False)]
    wanted = driver.take(ask.Transcribe)
    assert wanted == [ask.Transcribe(utterance=2, request=wanted[0].request, until_s=10.2)]
    driver.asked += wanted
    driver.transcript("And what about")
    assert driver.texts() == ["And what about"], "no wait, however unfinished it sounds"
    assert driver.facts(fact.TurnCommitted)[-1].reason == "the talk key came up"


def test_a_murmur_with_the_talk_key_is_a_turn_although_it_began_over_a_reply() -> None:
    driver = speaking()
    driver.onset(6.0)
    driver.until(6.25)
    driver.held(5)
    driver.finish()
    driver.tell(fact.TalkPressed())
    assert driver.take(ask.CloseReply)
    driver.until(6.5)
    driver.tell(fact.TalkReleased())
    driver.transcript("Yeah.")
    assert driver.texts() == ["Yeah."]


def test_the_talk_key_needs_no_onset() -> None:
    driver = Driver()
    driver.tell(fact.TalkPressed())
    driver.tell(fact.TalkPressed())
    assert len(driver.take(ask.SetTalkKey)) == 1, "a key that repeats is one press"
    driver.onset(1.0)
    assert driver.state.user.phase is UserPhase.SPEAKING
    driver.until(1.05)
    driver.tell(fact.TalkReleased())
    driver.transcript("Hi.")
    driver.silence(1.2)
    driver.until(9.0)
    assert driver.texts() == ["Hi."], "the silence that the ears tell after the release is old news"


def test_the_talk_key_alone_answers_a_reply_that_had_hardly_begun_again() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.tell(fact.TalkPressed())
    driver.held(0)
    assert driver.take(ask.Abandon)
    driver.texts()
    driver.tell(fact.TalkReleased())
    assert driver.texts() == ["Tell me about the moon."]


def test_a_transcript_that_comes_while_the_talk_key_is_down_ends_nothing() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.15)
    driver.tell(fact.TalkPressed())
    driver.transcript("Tell me about the moon.")
    driver.until(9.0)
    assert not driver.take(ask.StartReply)
    driver.tell(fact.TalkReleased())
    driver.transcript("Tell me about the moon.")
    assert driver.texts() == ["Tell me about the moon."]


def test_a_pause_is_not_looked_into_while_the_talk_key_is_down() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.05)
    driver.tell(fact.TalkPressed())
    driver.until(9.0)
    assert not driver.take(ask.Transcribe)


def test_a_sound_before_the_talk_key_is_part_of_the_turn() -> None:
    driver = Driver()
    driver.speech(1.0, 1.05)
    driver.until(1.3)
    driver.tell(fact.TalkPressed())
    driver.until(5.0)
    assert driver.state.user.phase is UserPhase.PAUSE
    driver.tell(fact.TalkReleased())
    driver.transcript("Hi.")
    assert driver.texts() == ["Hi."]


def test_what_is_said_with_the_key_down_goes_on_with_a_reopened_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.tell(fact.TalkPressed())
    driver.held(0)
    driver.texts()
    driver.onset(3.0)
    driver.until(4.0)
    driver.tell(fact.TalkReleased())
    driver.transcript("And Mars.")
    assert driver.texts() == ["Tell me about the moon. And Mars."]


def test_speech_after_the_release_is_heard_as_ever() -> None:
    driver = Driver()
    driver.tell(fact.TalkPressed())
    driver.onset(1.0)
    driver.until(2.0)
    driver.tell(fact.TalkReleased())
    driver.speech(2.02, 3.0)
    driver.until(3.15)
    driver.transcript("Tell me about")
    assert not driver.take(ask.StartReply), "the key has not ended this"
