"""The session with parts made by hand: order of work on the model's state, dead branches, endings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any

import pytest

from app import events as fact
from app.config import Config
from app.errors import MachineError
from app.ports import BoundaryMark, Emit, Parts, RollbackReport, Spoken
from app.session import Session


class HandClock:
    """Time moves when the test says so."""

    def __init__(self) -> None:
        self.t_s = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_s(self) -> float:
        return self.t_s

    async def sleep_until(self, at_s: float) -> None:
        if at_s > self.t_s:
            future = asyncio.get_running_loop().create_future()
            self._sleepers.append((at_s, future))
            await future

    async def advance(self, to_s: float) -> None:
        while due := sorted((s for s in self._sleepers if s[0] <= to_s), key=lambda s: s[0]):
            self._sleepers.remove(due[0])
            self.t_s = max(self.t_s, due[0][0])
            due[0][1].set_result(None)
            await settle()
        self.t_s = to_s
        await settle()


async def settle() -> None:
    """Let everything that can run, run."""
    for _ in range(50):
        await asyncio.sleep(0)


class HandEars:
    def __init__(self) -> None:
        self.text = ""
        self.failure: Exception | None = None
        self.wake = asyncio.Event()

    async def run(self, emit: Emit) -> None:
        await self.wake.wait()
        if self.failure:
            raise self.failure
        await asyncio.Event().wait()

    def start_utterance(self, utterance: int, from_s: float) -> None: ...

    async def transcribe(self, utterance: int, until_s: float) -> str:
        return self.text

    def end_utterance(self, utterance: int) -> None: ...


class HandBrain:
    """Keeps the text it holds; a handle is a length of it."""

    def __init__(self, reply: str) -> None:
        self.pieces = reply.split("|")
        self.text = "P:"
        self.pending = ""
        self.gate = asyncio.Semaphore(1000)
        self.busy = False

    def mark(self) -> BoundaryMark:
        return BoundaryMark(len(self.text), 0, len(self.text))

    async def open(self) -> BoundaryMark:
        return self.mark()

    async def read_user(self, text: str) -> BoundaryMark:
        assert not self.busy
        self.text += f"<u>{text}</u>"
        return self.mark()

    async def reply(self, turn: int) -> AsyncGenerator[str, None]:
        assert not self.busy
        self.busy = True
        try:
            for piece in self.pieces:
                await self.gate.acquire()
                self.pending = piece
                yield piece
                self.text += piece
                self.pending = ""
        finally:
            self.busy = False

    async def mark_clause(self) -> BoundaryMark:
        return self.mark()

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        assert not self.busy, "a rollback never meets a decode"
        self.text = self.text[:handle] + heard + ("—" if cut else "")
        return RollbackReport(len(heard.split()), 1.0, self.mark())

    async def close_reply(self) -> BoundaryMark:
        assert not self.busy
        self.text += ";"
        return self.mark()

    def forget(self, handles: Sequence[int]) -> None: ...

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        return None


class HandMouth:
    def __init__(self) -> None:
        self.live: int | None = None
        self.said: list[str] = []
        self.calls: list[str] = []

    async def run(self, emit: Emit) -> None:
        await asyncio.Event().wait()

    def begin(self, branch: int) -> None:
        self.live = branch

    async def say(self, branch: int, text: str) -> Spoken | None:
        if branch != self.live:
            return None
        self.said.append(text)
        return Spoken(len(text.split()), 1.0, 1.0)

    def finish(self, branch: int) -> None:
        self.calls.append("finish")

    def duck(self) -> None:
        self.calls.append("duck")

    def unduck(self) -> None:
        self.calls.append("unduck")

    def hold(self) -> None:
        self.calls.append("hold")

    def resume(self) -> None:
        self.calls.append("resume")

    def stop(self, branch: int) -> None:
        self.live = None
        self.calls.append("stop")


class Stage:
    def __init__(self, reply: str = "The| moon| is| far| away,| and| it| is| cold| there.") -> None:
        self.clock, self.ears, self.brain, self.mouth = HandClock(), HandEars(), HandBrain(reply), HandMouth()
        self.log: list[fact.Event] = []
        self.session = Session(
            Parts(self.clock, self.ears, self.brain, self.mouth),
            Config(),
            sinks=[self.log.append],
            seed=0,
            clock_name="virtual",
            models={},
        )

    async def turn(self, start_s: float, text: str) -> None:
        """The user says `text` for one second from `start_s`; the clock stops when the turn is committed."""
        await self.clock.advance(start_s)
        self.session.emit(fact.SpeechStarted(at_s=start_s))
        await self.clock.advance(start_s + 1)
        self.ears.text = text
        self.session.emit(fact.SpeechStopped(at_s=start_s + 1))
        await self.clock.advance(start_s + 1.35)

    async def cut(self, at_s: float, heard_words: int, text: str) -> None:
        """The user says `text` over the reply, of which `heard_words` were heard."""
        branch = self.session.state.agent.branch
        self.session.emit(fact.PlayoutStarted(branch=branch, at_s=at_s - 1))
        await self.clock.advance(at_s)
        self.session.emit(fact.SpeechStarted(at_s=at_s))
        await self.clock.advance(at_s + 0.25)
        self.session.emit(fact.OutputHeld(branch=branch, at_s=at_s + 0.25, words=heard_words))
        utterance = self.session.state.user.utterance
        self.session.emit(fact.PartialTranscribed(utterance=utterance, stable="", unstable=text))
        await self.clock.advance(at_s + 1)


def played(scene: Coroutine[Any, Any, None], stage: Stage) -> list[fact.Event]:
    """Run a scene beside the session; the log when both have ended."""

    async def both() -> None:
        end = asyncio.Event()
        session = asyncio.create_task(stage.session.run(end))
        await settle()
        await scene
        end.set()
        await session

    asyncio.run(both())
    return stage.log


def names(log: Sequence[fact.Event]) -> list[str]:
    return [type(event).__name__ for event in log]


def test_a_turn_heard_to_its_end() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, "Tell me about the moon.")
        branch = stage.session.state.agent.branch
        stage.session.emit(fact.PlayoutStarted(branch=branch, at_s=2.5))
        stage.session.emit(fact.PlayoutFinished(branch=branch, at_s=6.0))
        await settle()

    log = played(scene(), stage)
    assert stage.brain.text == "P:<u>Tell me about the moon.</u>The moon is far away, and it is cold there.;"
    assert stage.mouth.said == ["The moon is far away,", "and it is cold there."]
    assert names(log)[0] == "SessionOpened"
    assert names(log)[-1] == "SessionClosed"
    assert [b.name for b in log if isinstance(b, fact.BoundaryTaken)] == ["A0", "U1", "W1", "W2", "A1"]


def test_the_state_holds_what_was_heard_to_the_word() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, "Tell me about the moon.")
        await stage.cut(4.0, 7, "Wait")

    log = played(scene(), stage)
    assert stage.brain.text == "P:<u>Tell me about the moon.</u>The moon is far away, and it—"
    rolled = next(e for e in log if isinstance(e, fact.RolledBack))
    assert (rolled.boundary, rolled.refed_tokens) == ("W1", 2)
    committed = next(e for e in log if isinstance(e, fact.ReplyCommitted))
    assert (committed.heard, committed.words, committed.interrupted) == ("The moon is far away, and it", 7, True)


def test_a_rollback_waits_for_the_token_in_work_and_for_no_more() -> None:
    stage = Stage()
    stage.brain.gate = asyncio.Semaphore(7)

    async def scene() -> None:
        await stage.turn(1.0, "Tell me about the moon.")
        await stage.cut(4.0, 5, "Wait")
        assert not any(isinstance(e, fact.RolledBack) for e in stage.log)
        stage.brain.gate.release()
        await settle()

    log = played(scene(), stage)
    assert stage.brain.text == "P:<u>Tell me about the moon.</u>The moon is far away,—"
    assert "ReplyDecoded" not in names(log), "a dead reply is not decoded to its end"


def test_no_word_heard_leaves_no_trace_of_the_turn() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, "Tell me about the moon.")
        await stage.cut(2.5, 0, "and")
        stage.ears.text = "And the sun."
        stage.session.emit(fact.SpeechStopped(at_s=3.5))
        await stage.clock.advance(3.9)

    log = played(scene(), stage)
    assert stage.brain.text.startswith("P:<u>Tell me about the moon. And the sun.</u>")
    assert [b.name for b in log if isinstance(b, fact.BoundaryTaken)][:3] == ["A0", "U1", "W1"]
    assert next(e.boundary for e in log if isinstance(e, fact.RolledBack)) == "A0"


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

    async def broken(text: str) -> BoundaryMark:
        raise MachineError("no memory", "the context is full", "say less")

    async def scene() -> None:
        stage.brain.read_user, whole = broken, stage.brain.read_user
        await stage.turn(1.0, "Tell me about the moon.")
        stage.brain.read_user = whole
        await stage.turn(5.0, "Are you there now?")

    log = played(scene(), stage)
    assert [e.fix for e in log if isinstance(e, fact.ReplyFailed)] == ["say less"]
    assert stage.brain.text.startswith("P:<u>Are you there now?</u>")


def test_a_voice_that_fails_frees_the_conversation() -> None:
    stage = Stage("|".join(["One clause."] + [" One clause."] * 20).replace(" clause.", "| clause."))

    async def broken(branch: int, text: str) -> None:
        raise MachineError("no voice", "the model is damaged", "fetch it again")

    async def scene() -> None:
        stage.mouth.say, whole = broken, stage.mouth.say
        await stage.turn(1.0, "Tell me about the moon.")
        stage.mouth.say = whole
        await stage.turn(5.0, "Are you there now?")

    log = played(scene(), stage)
    assert [e.fix for e in log if isinstance(e, fact.ReplyFailed)] == ["fetch it again"]
    assert stage.brain.text.startswith("P:<u>Tell me about the moon.</u>—<u>Are you there now?</u>One clause.")


def test_a_reply_cut_while_it_is_decoded_was_interrupted() -> None:
    stage = Stage("One| two| three| four,| five| six| seven| eight.")
    stage.brain.gate = asyncio.Semaphore(5)

    async def scene() -> None:
        await stage.turn(1.0, "Count for me please.")
        await stage.cut(4.0, 4, "Wait")
        stage.brain.gate.release()
        await settle()

    committed = next(e for e in played(scene(), stage) if isinstance(e, fact.ReplyCommitted))
    assert (committed.heard, committed.interrupted) == ("One two three four,", True)


def test_a_reply_heard_to_its_last_word_was_not_interrupted() -> None:
    stage = Stage()

    async def scene() -> None:
        await stage.turn(1.0, "Tell me about the moon.")
        await stage.cut(4.0, 10, "Wait")

    committed = next(e for e in played(scene(), stage) if isinstance(e, fact.ReplyCommitted))
    assert (committed.words, committed.interrupted) == (10, False)


def test_a_rollback_does_not_wait_for_a_synthesis() -> None:
    stage = Stage()
    voice = asyncio.Event()

    async def slow(branch: int, text: str) -> None:
        await voice.wait()

    async def scene() -> None:
        stage.mouth.say = slow
        await stage.turn(1.0, "Tell me about the moon.")
        await stage.cut(2.5, 0, "and")
        assert any(isinstance(e, fact.RolledBack) for e in stage.log)

    played(scene(), stage)


def test_a_sink_that_breaks_costs_no_other_sink_the_end() -> None:
    stage = Stage()

    def broken(event: fact.Event) -> None:
        raise BrokenPipeError("the reader went away")

    stage.session._sinks = [broken, stage.log.append]  # pyright: ignore[reportPrivateUsage]  # a sink that breaks

    async def scene() -> None:
        await settle()

    with pytest.raises(BrokenPipeError):
        played(scene(), stage)
    assert names(stage.log)[-1] == "SessionClosed"


def test_a_bug_in_a_part_is_not_hidden() -> None:
    stage = Stage()

    async def broken(text: str) -> BoundaryMark:
        raise ZeroDivisionError("a bug")

    async def scene() -> None:
        stage.brain.read_user = broken
        await stage.turn(1.0, "Tell me about the moon.")

    with pytest.raises(ZeroDivisionError):
        played(scene(), stage)
    assert names(stage.log)[-1] == "SessionClosed"
