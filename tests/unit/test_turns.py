"""The reducer, driven event by event on hand-made time, and by random traces."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import effects as ask
from app import events as fact
from app.config import Turns
from app.state import AgentPhase, State, UserPhase
from app.turns import step

TURNS = Turns()


@dataclass
class Driver:
    """Keeps time and timers, and answers nothing by itself."""

    turns: Turns = TURNS
    state: State = field(default_factory=State)
    now_s: float = 0.0
    timers: list[tuple[float, int, str]] = field(default_factory=list[tuple[float, int, str]])
    asked: list[ask.Effect] = field(default_factory=list[ask.Effect])

    def tell(self, event: fact.Event) -> list[ask.Effect]:
        self.state, effects = step(self.state, msgspec.structs.replace(event, t_s=self.now_s), self.turns)
        self.asked += effects
        self.timers += [(e.at_s, e.serial, e.name) for e in effects if isinstance(e, ask.SetTimer)]
        return effects

    def until(self, at_s: float) -> None:
        """Let time pass, with the timers that come due."""
        while self.timers and min(self.timers)[0] <= at_s:
            due = min(self.timers)
            self.timers.remove(due)
            self.now_s = max(self.now_s, due[0])
            self.tell(fact.TimerFired(name=due[2], serial=due[1]))
        self.now_s = at_s

    def speech(self, start_s: float, end_s: float) -> None:
        self.until(start_s)
        self.tell(fact.SpeechStarted(at_s=start_s))
        self.until(end_s)
        self.tell(fact.SpeechStopped(at_s=end_s))

    def transcript(self, text: str) -> None:
        """Answer the newest Transcribe."""
        wanted = next(e for e in reversed(self.asked) if isinstance(e, ask.Transcribe))
        self.tell(fact.FinalTranscribed(utterance=wanted.utterance, request=wanted.request, text=text, took_ms=50))

    def take(self, kind: type[ask.Request]) -> list[ask.Effect]:
        """Effects of a kind asked for since the last time."""
        found = [e for e in self.asked if isinstance(e, kind)]
        self.asked = [e for e in self.asked if not isinstance(e, kind)]
        return found

    def facts(self, kind: type[fact.Fact]) -> list[fact.Event]:
        return [e.fact for e in self.asked if isinstance(e, ask.Announce) and isinstance(e.fact, kind)]

    def say(self, start_s: float, end_s: float, text: str) -> None:
        """A whole turn: speech, transcript 200 ms later, commit."""
        self.speech(start_s, end_s)
        self.until(end_s + 0.2)
        self.transcript(text)
        self.until(end_s + 1.0)

    def reply(self, words: int = 0) -> int:
        """The live reply becomes audible and `words` words of it are heard."""
        branch = self.state.agent.branch
        self.tell(fact.PlayoutStarted(branch=branch, at_s=self.now_s))
        for word in range(1, words + 1):
            self.tell(fact.WordHeard(branch=branch, words=word, text="w", at_s=self.now_s))
        return branch


def speaking(words: int = 5) -> Driver:
    driver = Driver()
    driver.say(1.0, 2.0, "Tell me about the moon.")
    driver.reply(words)
    driver.take(ask.Request)
    return driver


def test_a_plain_turn() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.2)
    driver.transcript("What is the moon?")
    driver.until(2.29)
    assert not driver.take(ask.StartReply)
    driver.until(2.31)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=1, turn=1, text="What is the moon?")]
    driver.reply(3)
    driver.tell(fact.PlayoutFinished(branch=1, at_s=5.0))
    assert driver.take(ask.CloseReply) == [ask.CloseReply(branch=1, turn=1)]
    assert driver.state.agent.phase is AgentPhase.IDLE
    assert driver.state.user.phase is UserPhase.SILENT


def test_a_late_transcript_delays_the_commit_and_nothing_else() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(3.0)
    driver.transcript("What is the moon?")
    driver.until(3.0)
    assert len(driver.take(ask.StartReply)) == 1


def test_a_pause_in_mid_sentence_is_waited_out() -> None:
    driver = Driver()
    driver.speech(1.0, 2.0)
    driver.until(2.2)
    driver.transcript("I would like to know about")
    driver.speech(2.8, 3.5)
    driver.until(3.7)
    driver.transcript("I would like to know about the moon.")
    driver.until(5.0)
    assert [e.text for e in driver.take(ask.StartReply)] == ["I would like to know about the moon."]


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
    assert [e.text for e in driver.take(ask.StartReply)] == ["Hello there, you."]


def test_noise_is_no_turn() -> None:
    driver = Driver()
    driver.say(1.0, 1.8, "")
    assert not driver.take(ask.StartReply)
    assert driver.state.user.phase is UserPhase.SILENT
    driver.speech(4.0, 4.05)
    driver.until(6.0)
    assert driver.state.user.phase is UserPhase.SILENT
    assert not driver.take(ask.Transcribe)[1:], "a blip is not even transcribed"


def test_barge_in_ducks_holds_and_yields_what_was_heard() -> None:
    driver = speaking(words=5)
    driver.until(6.0)
    driver.tell(fact.SpeechStarted(at_s=6.0))
    driver.until(6.07)
    assert driver.take(ask.Duck)
    driver.until(6.19)
    assert not driver.take(ask.Hold)
    driver.until(6.21)
    assert driver.take(ask.Hold)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.22, words=6))
    assert not driver.take(ask.Yield), "sound alone ends no reply"
    driver.tell(fact.PartialTranscribed(utterance=2, stable="", unstable="Wait"))
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=6)]
    driver.until(7.0)
    driver.tell(fact.SpeechStopped(at_s=7.0))
    driver.until(7.2)
    driver.transcript("Wait, only one sentence please.")
    driver.until(7.5)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="Wait, only one sentence please.")]


def test_words_before_the_loudspeaker_has_told_still_yield_the_exact_count() -> None:
    driver = speaking()
    driver.speech(6.0, 6.6)
    driver.tell(fact.PartialTranscribed(utterance=2, stable="No", unstable=""))
    assert not driver.take(ask.Yield)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.3, words=7))
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=7)]


def test_an_interruption_that_pauses_after_its_first_word_is_one_turn() -> None:
    driver = speaking()
    driver.speech(6.0, 6.4)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.3, words=5))
    driver.until(6.55)
    driver.transcript("Stop.")
    driver.speech(7.0, 8.0)
    driver.until(8.2)
    driver.transcript("Stop. That is enough.")
    driver.until(9.5)
    assert [e.text for e in driver.take(ask.StartReply)] == ["Stop. That is enough."]
    assert len(driver.take(ask.Yield)) == 1


def test_a_cough_resumes_the_reply() -> None:
    driver = speaking()
    driver.speech(6.0, 6.4)
    assert driver.take(ask.Hold)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.25, words=5))
    driver.until(6.6)
    driver.transcript("")
    assert driver.take(ask.Resume) == [ask.Resume(branch=1)]
    assert driver.state.agent.phase is AgentPhase.SPEAKING
    assert not driver.take(ask.Yield)
    assert [f.verdict for f in driver.facts(fact.OverlapJudged)] == ["noise"]


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
    driver = speaking()
    driver.until(6.0)
    driver.tell(fact.SpeechStarted(at_s=6.0))
    driver.until(6.3)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.25, words=5))
    driver.until(9.0)
    assert driver.take(ask.Resume)


def test_no_word_heard_reopens_the_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "What is the weather?")
    driver.take(ask.StartReply)
    driver.until(3.2)
    driver.tell(fact.SpeechStarted(at_s=3.2))
    assert driver.take(ask.Hold), "the gate is shut at once: a reply never starts into speech"
    driver.tell(fact.OutputHeld(branch=1, at_s=3.2, words=0))
    driver.until(4.0)
    driver.tell(fact.SpeechStopped(at_s=4.0))
    driver.until(4.2)
    driver.transcript("In Paris.")
    assert driver.take(ask.Abandon) == [ask.Abandon(branch=1, turn=1)]
    assert driver.facts(fact.TurnReopened)
    driver.until(6.0)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=1, text="What is the weather? In Paris.")]
    committed = driver.facts(fact.TurnCommitted)[-1]
    assert isinstance(committed, fact.TurnCommitted)
    assert committed.speech_start_s == pytest.approx(1.0)
    assert committed.speech_end_s == pytest.approx(4.0)


def test_a_reply_that_ends_during_an_overlap_is_closed() -> None:
    driver = speaking()
    driver.speech(6.0, 6.4)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.25, words=9))
    driver.tell(fact.PlayoutFinished(branch=1, at_s=6.25))
    driver.until(6.6)
    driver.transcript("")
    assert driver.take(ask.CloseReply)
    assert driver.state.agent.phase is AgentPhase.IDLE


def test_results_of_a_dead_branch_change_nothing() -> None:
    driver = speaking()
    before = driver.state
    for event in (
        fact.PlayoutStarted(branch=99, at_s=0),
        fact.OutputHeld(branch=99, at_s=0, words=50),
        fact.PlayoutFinished(branch=99, at_s=0),
    ):
        assert driver.tell(event) == []
    assert driver.state == before


def test_the_stop_key_silences_and_waits() -> None:
    driver = speaking()
    driver.tell(fact.StopPressed())
    assert driver.take(ask.Hold)
    driver.tell(fact.OutputHeld(branch=1, at_s=3.0, words=5))
    assert driver.take(ask.Yield)
    driver.until(10)
    assert not driver.take(ask.StartReply)


def test_typing_over_a_reply_is_a_turn() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.OutputHeld(branch=1, at_s=3.0, words=5))
    assert driver.take(ask.Yield)
    assert driver.take(ask.StartReply) == [ask.StartReply(branch=2, turn=2, text="And Mars?")]


def test_a_failed_reply_frees_the_conversation() -> None:
    driver = speaking(words=0)
    driver.tell(fact.ReplyFailed(branch=1, what="x", why="y", fix="z"))
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=0)], "the user's words stay"
    driver.say(10.0, 11.0, "Are you there?")
    assert driver.take(ask.StartReply)


def held_for_noise() -> Driver:
    """Sound without words held the reply until it was given up as noise; the sound goes on."""
    driver = speaking()
    driver.until(6.0)
    driver.tell(fact.SpeechStarted(at_s=6.0))
    driver.until(6.3)
    driver.tell(fact.OutputHeld(branch=1, at_s=6.25, words=5))
    driver.until(9.0)
    assert driver.take(ask.Resume)
    driver.take(ask.Hold)
    return driver


def test_words_in_what_was_taken_for_noise_still_interrupt() -> None:
    driver = held_for_noise()
    driver.tell(fact.PartialTranscribed(utterance=2, stable="Please stop", unstable="now"))
    assert driver.take(ask.Hold)
    driver.tell(fact.OutputHeld(branch=1, at_s=9.1, words=8))
    assert driver.take(ask.Yield) == [ask.Yield(branch=1, turn=1, words=8)]


def test_after_noise_the_next_sound_has_to_last_as_long_as_any() -> None:
    driver = held_for_noise()
    driver.tell(fact.SpeechStopped(at_s=9.0))
    driver.speech(9.05, 9.15)
    assert driver.take(ask.Duck)
    assert not driver.take(ask.Hold)
    driver.speech(9.2, 9.45)
    assert driver.take(ask.Hold)


def test_a_transcript_without_a_word_is_no_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "...")
    assert not driver.take(ask.StartReply)
    assert driver.state.user.phase is UserPhase.SILENT


def reopened() -> Driver:
    """The user went on before a word of the reply to "I would like a table." was heard."""
    driver = Driver()
    driver.say(1.0, 2.0, "I would like a table.")
    driver.tell(fact.SpeechStarted(at_s=3.0))
    driver.until(3.3)
    driver.tell(fact.OutputHeld(branch=1, at_s=3.0, words=0))
    driver.tell(fact.PartialTranscribed(utterance=2, stable="for two", unstable=""))
    driver.take(ask.StartReply)
    return driver


def test_what_was_reopened_is_said_once() -> None:
    driver = reopened()
    driver.until(4.0)
    driver.tell(fact.SpeechStopped(at_s=4.0))
    driver.until(4.2)
    driver.transcript("For two people.")
    driver.until(6.0)
    driver.reply(3)
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.OutputHeld(branch=2, at_s=6.0, words=3))
    assert [e.text for e in driver.take(ask.StartReply)] == ["I would like a table. For two people.", "And Mars?"]


def test_typing_goes_on_with_a_reopened_turn() -> None:
    driver = reopened()
    driver.tell(fact.TextTyped(text="for two"))
    assert [e.text for e in driver.take(ask.StartReply)] == ["I would like a table. for two"]


def test_the_stop_key_does_not_undo_a_judged_turn() -> None:
    driver = Driver()
    driver.say(1.0, 2.0, "I would like a table.")
    driver.tell(fact.SpeechStarted(at_s=3.0))
    driver.until(3.3)
    driver.tell(fact.PartialTranscribed(utterance=2, stable="for two", unstable=""))
    driver.tell(fact.StopPressed())
    driver.tell(fact.OutputHeld(branch=1, at_s=3.3, words=0))
    assert driver.state.user.reopened == "I would like a table."


def test_two_typed_lines_before_the_reply_has_ended_are_one_turn() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.TextTyped(text="And Venus?"))
    driver.tell(fact.OutputHeld(branch=1, at_s=3.0, words=5))
    assert [e.text for e in driver.take(ask.StartReply)] == ["And Mars? And Venus?"]


def test_a_typed_line_survives_a_reply_that_fails() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.ReplyFailed(branch=1, what="x", why="y", fix="z"))
    assert [e.text for e in driver.take(ask.StartReply)] == ["And Mars?"]


def test_speech_while_a_typed_line_waits_holds_its_reply() -> None:
    driver = speaking()
    driver.tell(fact.TextTyped(text="And Mars?"))
    driver.tell(fact.SpeechStarted(at_s=driver.now_s))
    driver.tell(fact.OutputHeld(branch=1, at_s=driver.now_s, words=5))
    driver.take(ask.Hold)
    driver.until(driver.now_s + 0.3)
    assert driver.take(ask.Hold) == [ask.Hold(branch=2)]


# Random traces: whatever the ports send, in whatever order, the conversation stays one that a person can go on with.

actions = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "start",
                "stop",
                "words",
                "noise",
                "partial",
                "play",
                "word",
                "held",
                "resumed",
                "done",
                "stop_key",
                "type",
            ]
        ),
        st.floats(0.0, 1.5),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(actions)
def test_any_trace_keeps_its_promises(trace: list[tuple[str, float]]) -> None:
    driver = Driver()
    words = 0
    for action, after_s in trace:
        driver.until(driver.now_s + after_s)
        branch = driver.state.agent.branch
        match action:
            case "start":
                driver.tell(fact.SpeechStarted(at_s=driver.now_s))
            case "stop":
                driver.tell(fact.SpeechStopped(at_s=driver.now_s))
            case "words" | "noise" if any(isinstance(e, ask.Transcribe) for e in driver.asked):
                driver.transcript("Some words here." if action == "words" else "")
            case "partial":
                driver.tell(fact.PartialTranscribed(utterance=driver.state.user.utterance, stable="", unstable="Wait"))
            case "play":
                driver.tell(fact.PlayoutStarted(branch=branch, at_s=driver.now_s))
            case "word":
                words += 1
                driver.tell(fact.WordHeard(branch=branch, words=words, text="w", at_s=driver.now_s))
            case "held":
                driver.tell(fact.OutputHeld(branch=branch, at_s=driver.now_s, words=words))
            case "resumed":
                driver.tell(fact.OutputResumed(branch=branch, at_s=driver.now_s, words=words))
            case "done":
                driver.tell(fact.PlayoutFinished(branch=branch, at_s=driver.now_s))
            case "stop_key":
                driver.tell(fact.StopPressed())
            case "type":
                driver.tell(fact.TextTyped(text="typed words"))
            case _:
                pass
    started = [e.branch for e in driver.asked if isinstance(e, ask.StartReply)]
    ended = [e.branch for e in driver.asked if isinstance(e, ask.Yield | ask.Abandon | ask.CloseReply)]
    assert started == sorted(set(started)), "each reply is a branch of its own"
    assert ended == started[: len(ended)], "replies end once each, in order"
    assert len(started) - len(ended) <= 1, "at most one reply is live"

    # Silence, the loudspeaker answers, and everything comes to rest.
    driver.tell(fact.SpeechStopped(at_s=driver.now_s))
    for _ in range(20):
        driver.until(driver.now_s + 1.0)
        if driver.state.user.phase is UserPhase.PAUSE and any(isinstance(e, ask.Transcribe) for e in driver.asked):
            driver.transcript("")
        branch = driver.state.agent.branch
        if driver.state.agent.phase is AgentPhase.HELD:
            driver.tell(fact.OutputHeld(branch=branch, at_s=driver.now_s, words=words))
        elif driver.state.agent.phase is not AgentPhase.IDLE:
            driver.tell(fact.PlayoutFinished(branch=branch, at_s=driver.now_s))
    assert driver.state.user.phase is UserPhase.SILENT
    assert driver.state.agent.phase is AgentPhase.IDLE
