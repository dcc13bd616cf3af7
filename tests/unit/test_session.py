"""The session with parts made by hand: order of work on the model's state, dead branches, failures, endings."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from app import events as fact
from app.config import Config, parse
from app.errors import ConfigError, MachineError
from app.ports import BoundaryMark
from tests.unit.hand_parts import Stage, played, settle

MOON = "Tell me about the moon."


def names(stage: Stage) -> list[str]:
    return [b.name for b in stage.of(fact.BoundaryTaken)]


def test_a_turn_heard_to_its_end() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, MOON)
        await stage.hear()

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>{MOON}</u>The moon is far away, and it is cold there.;"
    assert stage.mouth.said == ["The moon is far away,", "and it is cold there."]
    assert (stage.names()[0], stage.names()[-1]) == ("SessionOpened", "SessionClosed")
    assert names(stage) == ["A0", "U1", "W1", "W2", "A1"]
    assert [b.name for b in stage.session.tree.live] == ["A0", "U1", "A1"]
    assert [b.text for b in stage.of(fact.BoundaryTaken)] == [
        *("", MOON, "The moon is far away,", " and it is cold there."),
        "The moon is far away, and it is cold there.",
    ]
    assert stage.mouth.calls[-1] == "finish"


def test_the_state_holds_what_was_heard_to_the_word() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, MOON)
        await stage.cut(8.0, 7, "No tell me")

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>{MOON}</u>The moon is far away, and it—"
    (rolled,) = stage.of(fact.RolledBack)
    assert (rolled.boundary, rolled.refed_tokens) == ("W1", 2)
    (committed,) = stage.of(fact.ReplyCommitted)
    assert (committed.heard, committed.words, committed.interrupted) == ("The moon is far away, and it", 7, True)
    assert committed.kept is None


def test_a_rollback_waits_for_the_token_in_work_and_for_no_more() -> None:
    stage = Stage()
    stage.brain.gate = asyncio.Semaphore(7)

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(5)
        assert not stage.of(fact.RolledBack)
        stage.brain.gate.release()
        await settle()

    played(scene(), stage)
    assert stage.brain.text == f"P:<u>{MOON}</u>The moon is far away,—"
    assert "ReplyDecoded" not in stage.names(), "a dead reply is not decoded to its end"
    assert [e.what for e in stage.of(fact.DeadBranchDropped)] == ["a token"]


def test_no_word_heard_leaves_no_trace_of_the_turn() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, MOON)
        await stage.cut(8.0, 0, "and the sun")
        stage.ears.text = "And the sun."
        stage.session.emit(fact.SpeechStopped(at_s=9.1))
        await stage.clock.advance(12.0)

    played(scene(), stage)
    assert stage.brain.text.startswith(f"P:<u>{MOON} And the sun.</u>")
    assert next(e.boundary for e in stage.of(fact.RolledBack)) == "A0"
    assert [b.name for b in stage.session.tree.live if b.kind != "W"] == ["A0", "U1"]
    assert stage.mouth.kept == {}


def test_a_part_that_breaks_ends_the_session_with_its_reason() -> None:
    stage = Stage()
    stage.ears.failure = MachineError("no sound", "the device is gone", "plug it in")

    async def scene() -> None:
        stage.ears.wake.set()
        await settle()

    with pytest.raises(MachineError, match="no sound"):
        played(scene(), stage)
    closed = stage.log[-1]
    assert isinstance(closed, fact.SessionClosed)
    assert "the device is gone" in closed.reason


def test_a_reply_that_fails_frees_the_conversation() -> None:
    stage = Stage()

    async def broken(text: str, note: str = "") -> BoundaryMark:
        raise MachineError("no memory", "the context is full", "say less")

    async def scene() -> None:
        stage.brain.read_user, whole = broken, stage.brain.read_user
        await stage.ask(MOON)
        stage.brain.read_user = whole
        await stage.ask("Are you there now?")

    played(scene(), stage)
    assert [e.fix for e in stage.of(fact.ReplyFailed)] == ["say less"]
    assert stage.brain.text.startswith("P:<u>Are you there now?</u>")
    assert stage.mouth.kept == {}


def test_a_voice_that_fails_frees_the_conversation_and_leaves_no_tail() -> None:
    stage = Stage("|".join(["One clause."] + [" One clause."] * 20).replace(" clause.", "| clause."))

    async def broken(branch: int, text: str) -> None:
        raise MachineError("no voice", "the model is damaged", "fetch it again")

    async def scene() -> None:
        stage.mouth.say, whole = broken, stage.mouth.say
        await stage.ask(MOON)
        stage.mouth.say = whole
        await stage.ask("Are you there now?")

    played(scene(), stage)
    assert [e.fix for e in stage.of(fact.ReplyFailed)] == ["fetch it again"]
    assert stage.brain.text.startswith(f"P:<u>{MOON}</u>—<u>Are you there now?</u>One clause.")
    assert not stage.of(fact.TailKept)
    assert stage.mouth.kept == {}


def test_a_reply_that_was_stopped_before_it_was_read_leaves_the_users_turn() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        stage.brain.closing.clear()
        await stage.hear()
        await stage.ask("And the sun?")
        await stage.stop(0)
        assert "sun" not in stage.brain.text, "the model is busy with the end of the turn before"
        stage.brain.closing.set()
        await settle()

    played(scene(), stage)
    assert stage.brain.text.endswith(";<u>And the sun?</u>—")
    assert [e.words for e in stage.of(fact.ReplyCommitted)] == [10, 0]


def test_a_reply_cut_while_it_is_decoded_was_interrupted() -> None:
    stage = Stage("One| two| three| four,| five| six| seven| eight.")
    stage.brain.gate = asyncio.Semaphore(5)

    async def scene() -> None:
        await stage.ask("Count for me please.")
        await stage.stop(4)
        stage.brain.gate.release()
        await settle()

    played(scene(), stage)
    (committed,) = stage.of(fact.ReplyCommitted)
    assert (committed.heard, committed.interrupted) == ("One two three four,", True)


def test_a_reply_heard_to_its_last_word_was_not_interrupted() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(10)

    played(scene(), stage)
    (committed,) = stage.of(fact.ReplyCommitted)
    assert (committed.words, committed.interrupted) == (10, False)
    assert not stage.of(fact.TailKept), "nothing is left to be heard"
    assert stage.mouth.kept == {}


def test_a_rollback_does_not_wait_for_a_synthesis() -> None:
    stage = Stage()
    stage.mouth.voice.clear()

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.stop(0)
        assert stage.of(fact.RolledBack)

    played(scene(), stage)


def test_a_sink_that_breaks_costs_no_other_sink_the_end() -> None:
    stage = Stage()

    def broken(event: fact.Event) -> None:
        raise BrokenPipeError("the reader went away")

    stage.session._sinks = [broken, stage.log.append]  # pyright: ignore[reportPrivateUsage]  # a sink that breaks

    with pytest.raises(BrokenPipeError):
        played(settle(), stage)
    assert stage.names()[-1] == "SessionClosed"


def test_a_bug_in_a_part_is_not_hidden() -> None:
    stage = Stage()

    async def broken(text: str, note: str = "") -> BoundaryMark:
        raise ZeroDivisionError("a bug")

    async def scene() -> None:
        stage.brain.read_user = broken
        await stage.ask(MOON)

    with pytest.raises(ZeroDivisionError):
        played(scene(), stage)
    assert stage.names()[-1] == "SessionClosed"


def test_what_the_user_said_so_far_is_read_ahead_and_leaves_no_boundary() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.clock.advance(1.0)
        await stage.tell(fact.SpeechStarted(at_s=1.0))
        await stage.clock.advance(2.0)
        stage.ears.text = "Tell me about"
        await stage.tell(fact.SpeechStopped(at_s=2.0))
        await stage.clock.advance(2.15)

    played(scene(), stage)
    (final,), (read,) = stage.of(fact.FinalTranscribed), stage.of(fact.UserTextRead)
    assert final.acoustic == {"smart_turn": 0.95}
    assert (read.utterance, read.request, read.tokens, read.end_logprob) == (final.utterance, final.request, 13, -0.5)
    assert stage.brain.ahead == ["Tell me about"]
    assert names(stage) == ["A0"]


async def pause(stage: Stage, start_s: float, text: str) -> None:
    """The user says something in half a second, and the pause after it is long enough to look at it."""
    await stage.clock.advance(start_s)
    await stage.tell(fact.SpeechStarted(at_s=start_s))
    await stage.clock.advance(start_s + 0.5)
    stage.ears.text = text
    await stage.tell(fact.SpeechStopped(at_s=start_s + 0.5))
    await stage.clock.advance(start_s + 0.62)


@pytest.mark.parametrize(("typed", "read"), [("", ["Tell me about the"]), ("Typed instead.", [])])
def test_only_the_newest_text_is_read_ahead_and_none_once_the_utterance_is_over(typed: str, read: list[str]) -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.ask(MOON)
        stage.brain.closing.clear()
        await stage.hear()  # the model is busy with the end of the turn
        await pause(stage, 1.0, "Tell me")
        await pause(stage, 1.7, "Tell me about the")
        await stage.ask(typed)
        stage.brain.closing.set()
        await settle()

    played(scene(), stage)
    assert stage.brain.ahead == read


def test_modes_and_the_talk_key_reach_the_ears() -> None:
    stage = Stage(config=parse({"audio": {"mode": "ptt"}}, "a test"))

    async def scene() -> None:
        assert stage.session.state.mode == "ptt"
        await stage.tell(fact.TalkPressed())
        await stage.tell(fact.ModeChosen(mode="headset"))

    played(scene(), stage)
    assert stage.ears.modes == ["ptt", "headset"]
    assert stage.ears.keys[0] is True


def test_the_log_begins_with_all_that_decisions_go_by_and_ends_with_the_tree() -> None:
    config = parse({"language": "en", "audio": {"mode": "half"}, "turns": {"stuck_ms": 4321}}, "a test")
    stage = Stage(config=config)

    async def scene() -> None:
        await stage.ask(MOON)
        await stage.hear()

    opened, closed = (log := played(scene(), stage))[0], log[-1]
    assert isinstance(opened, fact.SessionOpened)
    assert (opened.settings["language"], opened.settings["mode"]) == ("en", "half")
    assert msgspec.convert(opened.settings["turns"], type(config.turns)) == config.turns
    assert isinstance(closed, fact.SessionClosed)
    assert closed.tree == stage.session.tree.digest()


def test_who_holds_a_key_down_while_a_slow_model_reads_breaks_nothing() -> None:
    stage = Stage()

    async def scene() -> None:
        stage.brain.reading.clear()
        await stage.ask(MOON)
        for _ in range(100):
            await stage.tell(fact.RegeneratePressed(), fact.OutputHeld(branch=stage.branch, at_s=0.0, words=0))
        for _ in range(100):
            await stage.ask("And?")
            await stage.tell(fact.OutputHeld(branch=stage.branch, at_s=0.0, words=0))
        stage.brain.reading.set()
        await settle()
        await settle()
        await settle()
        await settle()

    played(scene(), stage)
    assert stage.brain.text.startswith(f"P:<u>{MOON} And? And?")


def test_a_language_that_nobody_taught_us_is_refused() -> None:
    with pytest.raises(ConfigError):
        Stage(config=msgspec.structs.replace(Config(), language="xx"))
