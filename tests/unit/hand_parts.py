"""Parts of a session made by hand: they do what a test says, and are strict about what they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from app import events as fact
from app.config import Config
from app.decisions import Mode
from app.ports import BoundaryMark, Emit, Listened, Parts, ReadAhead, RollbackReport, Spoken
from app.session import Session

Kind = TypeVar("Kind", bound=fact.Fact)

MOON = "The| moon| is| far| away,| and| it| is| cold| there."


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
    for _ in range(100):
        await asyncio.sleep(0)


class HandEars:
    def __init__(self) -> None:
        self.text = ""
        self.failure: Exception | None = None
        self.wake = asyncio.Event()
        self.modes: list[Mode] = []
        self.keys: list[bool] = []

    async def run(self, emit: Emit) -> None:
        await self.wake.wait()
        if self.failure:
            raise self.failure
        await asyncio.Event().wait()

    def start_utterance(self, utterance: int, from_s: float) -> None: ...

    async def transcribe(self, utterance: int, until_s: float) -> Listened:
        return Listened(self.text, {"smart_turn": 0.95})

    def end_utterance(self, utterance: int) -> None: ...

    def set_mode(self, mode: Mode) -> None:
        self.modes.append(mode)

    def set_talk_key(self, down: bool) -> None:
        self.keys.append(down)


class HandBrain:
    """Keeps the text it holds, and the text of each boundary. An answer after some text goes on where that ends."""

    def __init__(self, reply: str) -> None:
        self.pieces = reply.split("|")
        self.text = ""
        self.boundaries: dict[int, str] = {}
        self.taken = 0
        self.gate = asyncio.Semaphore(1000)
        self.reading, self.closing = asyncio.Event(), asyncio.Event()
        self.reading.set()
        self.closing.set()
        self.busy = False
        self.ahead: list[str] = []
        self.full = False

    def mark(self) -> BoundaryMark:
        self.taken += 1
        self.boundaries[self.taken] = self.text
        return BoundaryMark(len(self.text), 0, self.taken)

    async def open(self) -> BoundaryMark:
        self.text = "P:"
        return self.mark()

    async def read_ahead(self, text: str, note: str = "") -> ReadAhead:
        assert not self.busy
        self.ahead.append(note + text)
        return ReadAhead(len(text), -0.5)

    async def read_user(self, text: str, note: str = "") -> BoundaryMark:
        assert not self.busy
        await self.reading.wait()
        self.text += f"<u>{note}{text}</u>"
        return self.mark()

    async def read_line(self, text: str) -> None:
        assert not self.busy
        self.text += text

    async def reply(self, turn: int, *, again: bool = False) -> AsyncGenerator[str, None]:
        assert not self.busy
        self.busy = True
        begun = self.text.rpartition("</u>")[2]
        pieces = [f"Otherwise:{' ' if piece else ''}{piece}" for piece in self.pieces[:1]] + self.pieces[1:]
        whole, made = "".join(self.pieces), ""
        try:
            for piece in pieces if again else self.pieces:
                made += piece
                if begun and len(made) <= whole.index(begun) + len(begun):
                    continue
                await self.gate.acquire()
                yield piece
                self.text += piece
        finally:
            self.busy = False

    async def mark_clause(self) -> BoundaryMark:
        return self.mark()

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        assert not self.busy, "a rollback never meets a decode"
        self.text = self.boundaries[handle] + heard + ("—" if cut else "")
        return RollbackReport(len(heard.split()), 1.0, self.mark())

    async def close_reply(self) -> BoundaryMark:
        assert not self.busy
        await self.closing.wait()
        self.text += ";"
        return self.mark()

    def forget(self, handles: Sequence[int]) -> None:
        for handle in handles:
            del self.boundaries[handle]

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        if not self.full:
            return None
        self.full = False
        self.text = "P:..."
        self.boundaries.clear()
        return 1, self.mark()


class HandMouth:
    """Makes sound of a clause at once, or when `voice` is set."""

    def __init__(self) -> None:
        self.live: int | None = None
        self.said: list[str] = []
        self.rests: list[tuple[int, int, int, int]] = []
        self.calls: list[str] = []
        self.prepared: list[str] = []
        self.clauses: list[list[str]] = []
        self.kept: dict[int, list[list[str]]] = {}
        self.voice = asyncio.Event()
        self.voice.set()

    async def run(self, emit: Emit) -> None:
        await asyncio.Event().wait()

    def begin(self, branch: int) -> None:
        self.live, self.clauses = branch, []

    async def say(self, branch: int, text: str) -> Spoken | None:
        await self.voice.wait()
        return self._queue(branch, text.split())

    async def say_rest(self, branch: int, source: int, clause: int, from_word: int) -> Spoken | None:
        self.rests.append((branch, source, clause, from_word))
        words = self.kept[source][clause][from_word:]
        assert words, "there is a word to begin with"
        return self._queue(branch, words)

    def _queue(self, branch: int, words: list[str]) -> Spoken | None:
        if branch != self.live:
            return None
        self.said.append(" ".join(words))
        self.clauses.append(words)
        return Spoken(len(words), 1.0, 1.0)

    async def prepare(self, text: str) -> None:
        self.prepared.append(text)

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

    def stop(self, branch: int, *, keep: bool = False) -> None:
        assert branch == self.live
        if keep:
            self.kept[branch] = self.clauses
        self.live = None
        self.calls.append("stop")

    def forget(self, branch: int) -> None:
        del self.kept[branch]


class Stage:
    """A session of these parts, and what it logged."""

    def __init__(self, reply: str = MOON, config: Config | None = None, *, parrots_notes: bool = True) -> None:
        self.clock, self.ears, self.brain, self.mouth = HandClock(), HandEars(), HandBrain(reply), HandMouth()
        self.log: list[fact.Event] = []
        self.session = Session(
            Parts(self.clock, self.ears, self.brain, self.mouth),
            config or Config(),
            sinks=[self.log.append],
            seed=0,
            clock_name="virtual",
            models={},
            parrots_notes=parrots_notes,
        )

    # ---- what happens ----

    async def tell(self, *events: fact.Event) -> None:
        for event in events:
            self.session.emit(event)
        await settle()

    async def turn(self, start_s: float, text: str) -> None:
        """The user says `text` for one second from `start_s`; the clock stops when the turn is committed."""
        await self.clock.advance(start_s)
        self.session.emit(fact.SpeechStarted(at_s=start_s))
        await self.clock.advance(start_s + 1)
        self.ears.text = text
        self.session.emit(fact.SpeechStopped(at_s=start_s + 1))
        await self.clock.advance(start_s + 3.6)

    async def cut(self, at_s: float, heard_words: int, text: str) -> None:
        """The user says `text` over the reply, of which `heard_words` were heard."""
        branch = self.branch
        self.session.emit(fact.PlayoutStarted(branch=branch, at_s=at_s - 1))
        await self.clock.advance(at_s)
        self.session.emit(fact.SpeechStarted(at_s=at_s))
        await self.clock.advance(at_s + 0.45)
        self.session.emit(fact.OutputHeld(branch=branch, at_s=at_s + 0.45, words=heard_words))
        utterance = self.session.state.user.utterance
        await self.clock.advance(at_s + 0.9)
        self.session.emit(fact.PartialTranscribed(utterance=utterance, stable=text, unstable=""))
        await self.clock.advance(at_s + 1)

    async def ask(self, text: str) -> None:
        """The user types a turn."""
        await self.tell(fact.TextTyped(text=text))

    async def hear(self, words: int | None = None) -> None:
        """So many words of the live reply leave the loudspeaker; None: all of it."""
        branch = self.branch
        await self.tell(fact.PlayoutStarted(branch=branch, at_s=self.clock.t_s))
        said = [word for clause in self.mouth.clauses for word in clause]
        for number in range(1, (len(said) if words is None else words) + 1):
            event = fact.WordHeard(branch=branch, words=number, text=said[number - 1], at_s=self.clock.t_s)
            self.session.emit(event)
        if words is None:
            await self.tell(fact.PlayoutFinished(branch=branch, at_s=self.clock.t_s))

    async def stop(self, words: int) -> None:
        """So many words of the live reply are heard, then the stop key is pressed."""
        await self.hear(words)
        branch = self.branch
        await self.tell(fact.StopPressed(), fact.OutputHeld(branch=branch, at_s=self.clock.t_s, words=words))

    # ---- what came of it ----

    @property
    def branch(self) -> int:
        return self.session.state.agent.branch

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.log if isinstance(event, kind)]

    def names(self) -> list[str]:
        return [type(event).__name__ for event in self.log]


def played(scene: Coroutine[Any, Any, None], stage: Stage) -> list[fact.Event]:
    """Run a scene beside the session; the log when both have ended.

    Whatever the scene was, the brain has the boundaries that the tree has.
    """

    async def both() -> None:
        end = asyncio.Event()
        session = asyncio.create_task(stage.session.run(end))
        await settle()
        await scene
        end.set()
        await session
        assert sorted(b.handle for b in stage.session.tree.nodes) == sorted(stage.brain.boundaries)

    asyncio.run(both())
    return stage.log
