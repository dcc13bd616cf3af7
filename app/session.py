"""The event loop of a conversation: takes events, asks `turns` what follows, carries it out with the ports.

Read `emit` first: every fact goes through it, in order, and whatever it asks for is begun before the next one is taken.
Work on the model's state is done by one worker in the order it was asked for, so a rollback never meets a decode.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal

import msgspec

from app import effects as ask
from app import events as fact
from app import heard
from app.config import Config
from app.errors import explain, leaf
from app.ports import BoundaryMark, Parts
from app.reply import Reply
from app.state import State
from app.tree import Boundary, Kind, Tree
from app.turns import step

Sink = Callable[[fact.Event], None]
Job = Callable[[], Coroutine[Any, Any, None]]

# Jobs for the model that wait. A turn queues two or three and takes a person seconds, so a full queue is a bug of ours.
WAITING_JOBS = 64


class _Ended(Exception):
    """Unwinds the task group when the session is asked to end."""


class Session:
    """One conversation from its first event to its last."""

    def __init__(
        self,
        parts: Parts,
        config: Config,
        *,
        sinks: Sequence[Sink],
        seed: int,
        clock_name: Literal["wall", "virtual"],
        models: dict[str, str],
    ) -> None:
        self._parts = parts
        self._config = config
        self._sinks = sinks
        self._opened = fact.SessionOpened(clock=clock_name, seed=seed, models=models)
        self._state = State()
        self._tree = Tree()
        self._reply: Reply | None = None
        self._inbox: deque[fact.Event] = deque()
        self._deciding = False
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(WAITING_JOBS)
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def state(self) -> State:
        """What the decisions depend on, for views and checks."""
        return self._state

    @property
    def tree(self) -> Tree:
        """The live boundaries."""
        return self._tree

    async def run(self, until: asyncio.Event | None = None) -> None:
        """Talk until `until` is set, or for ever; the log always ends with SessionClosed.

        Raises:
            Exception: What a port could not cope with; it is the reason in SessionClosed.
        """
        reason = "ended"
        try:
            await self._open()
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._parts.ears.run(self.emit))
                tasks.create_task(self._parts.mouth.run(self.emit))
                tasks.create_task(self._work())
                await (until or asyncio.Event()).wait()
                raise _Ended
        except BaseExceptionGroup as group:
            failures = group.split(_Ended)[1]
            if failures is not None:
                first = leaf(failures)
                reason = explain(first) or repr(first)
                raise first from None
        except BaseException as error:
            reason = "cancelled" if isinstance(error, asyncio.CancelledError) else explain(error) or repr(error)
            raise
        finally:
            self._tasks = None
            self._log(fact.SessionClosed(reason=reason))

    async def _open(self) -> None:
        mark = await self._parts.brain.open()
        self._log(self._opened)
        self._take("A", 0, 0, mark)

    def emit(self, event: fact.Event) -> None:
        """Take an event: stamp and log it, decide, begin what was decided. Call it on the loop's thread."""
        self._inbox.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._inbox:
                stamped = self._log(self._inbox.popleft())
                self._state, effects = step(self._state, stamped, self._config.turns)
                for effect in effects:
                    self._carry_out(effect)
        finally:
            self._deciding = False

    def _log(self, event: fact.Event) -> fact.Event:
        stamped = msgspec.structs.replace(event, t_s=round(self._parts.clock.now_s(), 6))
        broken: Exception | None = None
        for sink in self._sinks:
            try:
                sink(stamped)
            except Exception as error:
                broken = broken or error
        if broken is not None:
            raise broken  # once all others have the event: a screen that is gone must not cost the journal its end
        return stamped

    def _carry_out(self, effect: ask.Effect) -> None:
        ears, mouth = self._parts.ears, self._parts.mouth
        match effect:
            case ask.Announce():
                self._log(effect.fact)
            case ask.SetTimer():
                self._spawn(self._fire(effect))
            case ask.StartUtterance():
                ears.start_utterance(effect.utterance, effect.from_s)
            case ask.Transcribe():
                self._spawn(self._transcribe(effect))
            case ask.EndUtterance():
                ears.end_utterance(effect.utterance)
            case ask.StartReply():
                self._reply = reply = Reply(effect.branch, effect.turn)
                mouth.begin(reply.branch)
                text = effect.text
                self._jobs.put_nowait(lambda: self._answer(reply, text))
            case ask.Duck():
                mouth.duck()
            case ask.Unduck():
                mouth.unduck()
            case ask.Hold():
                mouth.hold()
            case ask.Resume():
                mouth.unduck()
                mouth.resume()
            case ask.Yield():
                ended, words = self._end_reply(), effect.words
                self._jobs.put_nowait(lambda: self._cut_off(ended, words))
            case ask.Abandon():
                unheard = self._end_reply()
                self._jobs.put_nowait(lambda: self._abandon(unheard))
            case ask.CloseReply():
                whole = self._live_reply()
                self._jobs.put_nowait(lambda: self._close(whole))

    def _live_reply(self) -> Reply:
        assert self._reply is not None, "decisions name the reply that is live"
        return self._reply

    def _end_reply(self) -> Reply:
        reply = self._live_reply()
        reply.die()
        self._parts.mouth.unduck()
        self._parts.mouth.stop(reply.branch)
        return reply

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None, "effects are carried out while the session runs"
        self._tasks.create_task(work)

    async def _fire(self, timer: ask.SetTimer) -> None:
        await self._parts.clock.sleep_until(timer.at_s)
        self.emit(fact.TimerFired(name=timer.name, serial=timer.serial))

    async def _transcribe(self, wanted: ask.Transcribe) -> None:
        since_s = self._parts.clock.now_s()
        text = await self._parts.ears.transcribe(wanted.utterance, wanted.until_s)
        took_ms = round((self._parts.clock.now_s() - since_s) * 1000, 3)
        self.emit(fact.FinalTranscribed(utterance=wanted.utterance, request=wanted.request, text=text, took_ms=took_ms))

    # The jobs of the model's worker, one at a time.

    async def _work(self) -> None:
        while True:
            job = await self._jobs.get()
            await job()

    def _take(self, kind: Kind, number: int, turn: int, mark: BoundaryMark) -> None:
        self._tree = self._tree.take(kind, number, turn, mark.position, mark.handle)
        tip = self._tree.tip
        self._log(
            fact.BoundaryTaken(
                boundary=tip.serial,
                name=tip.name,
                parent=tip.parent,
                turn=turn,
                position=tip.position,
                capsule_bytes=mark.capsule_bytes,
            )
        )

    async def _answer(self, reply: Reply, text: str) -> None:
        if reply.dead:
            return
        try:
            await self._make_room(text)
            since_s = self._parts.clock.now_s()
            mark = await self._parts.brain.read_user(text)
            took_ms = round((self._parts.clock.now_s() - since_s) * 1000, 3)
            tokens = mark.position - self._tree.tip.position
            self._take("U", reply.turn, reply.turn, mark)
            self.emit(fact.UserTurnAppended(branch=reply.branch, tokens=tokens, took_ms=took_ms))
            self._spawn(self._speak(reply))
            await reply.decode(self._parts.brain, self.emit, self._mark_clause)
        except Exception as error:
            self._fail(reply, error)

    async def _speak(self, reply: Reply) -> None:
        try:
            await reply.speak(self._parts.mouth, self.emit)
        except Exception as error:
            self._fail(reply, error)

    def _fail(self, reply: Reply, error: Exception) -> None:
        """A reply that can't be made ends with a reason the user can act on; anything else is a bug of ours."""
        if explain(error) is None:
            raise error
        self.emit(
            fact.ReplyFailed(
                branch=reply.branch,
                what=getattr(error, "what", ""),
                why=getattr(error, "why", ""),
                fix=getattr(error, "fix", ""),
            )
        )

    async def _mark_clause(self, reply: Reply) -> None:
        mark = await self._parts.brain.mark_clause()
        self._take("W", len(reply.clauses), reply.turn, mark)

    async def _cut_off(self, reply: Reply, words: int) -> None:
        """Put the state back to what was heard, and close the agent's turn there."""
        if not self._tree.has_read(reply.turn):
            # The user's turn itself could not be read.
            await self._abandon(reply)
            return
        cut = heard.locate(reply.clauses, words)
        mark = await self._back_to(self._tree.heard(reply.turn, cut.clauses), reply, cut.tail, cut=True)
        whole = reply.complete and cut.heard == "".join(reply.clauses)
        await self._commit(reply, cut.heard, mark, interrupted=not whole)

    async def _abandon(self, reply: Reply) -> None:
        """Put the state back to before the user's turn."""
        mark = await self._back_to(self._tree.base(), reply, "", cut=False)
        self._parts.brain.forget([mark.handle])

    async def _back_to(self, boundary: Boundary, reply: Reply, tail: str, *, cut: bool) -> BoundaryMark:
        report = await self._parts.brain.roll_back(boundary.handle, tail, cut=cut)
        self._tree, gone = self._tree.back_to(boundary)
        self._parts.brain.forget(gone)
        self._log(
            fact.RolledBack(
                branch=reply.branch,
                boundary=boundary.name,
                refed_tokens=report.refed_tokens,
                rollback_us=report.rollback_us,
            )
        )
        return report.mark

    async def _close(self, reply: Reply) -> None:
        mark = await self._parts.brain.close_reply()
        await self._commit(reply, "".join(reply.clauses), mark, interrupted=False)

    async def _commit(self, reply: Reply, text: str, mark: BoundaryMark, *, interrupted: bool) -> None:
        """The agent's turn as heard is in the state: boundary A. Then, while nobody waits, make room."""
        self._take("A", reply.turn, reply.turn, mark)
        self._tree, gone = self._tree.prune()
        self._parts.brain.forget(gone)
        self._log(
            fact.ReplyCommitted(
                turn=reply.turn,
                branch=reply.branch,
                heard=text.strip(),
                words=heard.count(text),
                interrupted=interrupted,
            )
        )
        await self._make_room("")

    async def _make_room(self, text: str) -> None:
        """If the context is full, let the oldest turns go. Nearly always done while nobody waits."""
        if room := await self._parts.brain.make_room(text):
            kept_turns, mark = room
            turn = self._tree.base().turn
            self._tree = Tree(taken=self._tree.taken)
            self._log(fact.ContextTrimmed(kept_turns=kept_turns, tokens=mark.position))
            self._take("A", turn, turn, mark)
