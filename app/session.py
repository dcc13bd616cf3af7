"""The event loop of a conversation: takes events, asks `turns` what follows, carries it out with the ports.

Read `emit` first: every fact goes through it, in order, and whatever it asks for is begun before the next one is taken.
What is to be done with the model's state is queued for app/work.py, the voice of a reply is a task of its own, and all
else is a call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from app import effects as ask
from app import endpoint, language
from app import events as fact
from app.chunker import Clause, speakable
from app.config import Config
from app.errors import explain, leaf
from app.ports import Parts
from app.reply import Part, Reply
from app.rules import Rules
from app.state import State
from app.tree import Tree
from app.turns import step
from app.work import Work

Sink = Callable[[fact.Event], None]


class _Ended(Exception):
    """Unwinds the task group when the session is asked to end."""


class Session:
    """One conversation from its first event to its last.

    Args:
        parts: The world.
        config: How it is held.
        sinks: Take every event, on the event loop's thread.
        seed: For the log.
        clock_name: For the log.
        models: For the log: kind of model to its name.
        parrots_notes: The model is known to say notes aloud that are meant for it alone.

    Raises:
        ConfigError: The language is unknown.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        *,
        sinks: Sequence[Sink],
        seed: int,
        clock_name: fact.ClockName,
        models: dict[str, str],
        parrots_notes: bool = False,
    ) -> None:
        self._parts = parts
        self._sinks = sinks
        turns, spoken = config.turns, language.load(config.language)
        self._rules = Rules(turns, spoken, endpoint.load_weights())
        self._opened = fact.SessionOpened(
            clock=clock_name,
            seed=seed,
            models=models,
            settings={
                "turns": msgspec.to_builtins(turns),
                "language": spoken.code,
                "mode": config.audio.mode,
                "weights": msgspec.to_builtins(self._rules.weights),
            },
        )
        noted = turns.note == "on" or (turns.note == "auto" and not parrots_notes)
        self._work = Work(parts, turns.keep, spoken.cut_note if noted else "", self.emit, self._log)
        self._state = State(mode=config.audio.mode)
        self._reply: Reply | None = None
        self._inbox: deque[fact.Event] = deque()
        self._deciding = False
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def state(self) -> State:
        """What the decisions depend on, for views and checks."""
        return self._state

    @property
    def tree(self) -> Tree:
        """The boundaries that stand."""
        return self._work.tree

    async def run(self, until: asyncio.Event | None = None) -> None:
        """Talk until `until` is set, or for ever; the log always ends with SessionClosed.

        Raises:
            Exception: What a port could not cope with; it is the reason in SessionClosed.
        """
        reason = "ended"
        try:
            self._parts.ears.set_mode(self._state.mode)
            mark = await self._parts.brain.open()
            self._log(self._opened)
            self._work.begin(mark)
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._parts.ears.run(self.emit))
                tasks.create_task(self._parts.mouth.run(self.emit))
                tasks.create_task(self._work.run())
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
            self._log(fact.SessionClosed(reason=reason, tree=self.tree.digest()))

    def emit(self, event: fact.Event) -> None:
        """Take an event: stamp and log it, decide, begin what was decided. Call it on the loop's thread."""
        self._inbox.append(event)
        if self._deciding:
            return
        self._deciding = True
        try:
            while self._inbox:
                stamped = self._log(self._inbox.popleft())
                self._state, effects = step(self._state, stamped, self._rules)
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
        ears, mouth, work = self._parts.ears, self._parts.mouth, self._work
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
                work.ahead = None
                ears.end_utterance(effect.utterance)
            case ask.SetMode():
                ears.set_mode(effect.mode)
            case ask.SetTalkKey():
                ears.set_talk_key(effect.down)
            case ask.PrepareLine():
                self._spawn(self._prepare(effect.text))
            case ask.Duck():
                mouth.duck()
            case ask.Unduck():
                mouth.unduck()
            case ask.Hold():
                mouth.hold()
            case ask.Resume():
                mouth.unduck()
                mouth.resume()
            case ask.ReadAhead():
                work.ahead = effect
                work.later(work.read_ahead, effect)
            case ask.StartReply():
                self._start(effect)
            case ask.Yield():
                work.later(work.cut_off, self._silence(effect.branch, keep=True), effect.words)
            case ask.Abandon():
                reply = self._silence(effect.branch, keep=False)
                reply.abandoned = True
                work.later(work.abandon, reply)
            case ask.CloseReply():
                work.later(work.close, self._live_reply(effect.branch))
            case ask.MoveBack():
                work.later(work.move_back, effect.turn)
            case ask.TakeUp():
                work.later(work.take_up, effect.boundary)
            case ask.ForgetTail():
                work.forget_tail(effect.branch)

    def _start(self, wanted: ask.StartReply) -> None:
        branch, turn = wanted.branch, wanted.turn
        if wanted.tail_of is not None:
            tail = self._work.take_tail(wanted.tail_of)
            reply = Reply(branch, turn, tail.parts, complete=tail.complete)
        elif wanted.line:
            reply = Reply(branch, turn, [Part(Clause(wanted.line, speakable(wanted.line)))], complete=True)
        else:
            reply = Reply(branch, turn, again=wanted.again)
        self._reply = reply
        self._parts.mouth.begin(branch)
        self._spawn(reply.speak(self._parts.mouth, self.emit))
        self._work.later(self._work.answer, reply, wanted.text)

    def _live_reply(self, branch: int) -> Reply:
        assert self._reply is not None, "decisions name the reply that is live"
        assert self._reply.branch == branch, "decisions name the reply that is live"
        return self._reply

    def _silence(self, branch: int, *, keep: bool) -> Reply:
        """End a reply. If its sound is kept, it is the reply's to forget."""
        reply = self._live_reply(branch)
        reply.die()
        if keep:
            reply.sources.add(branch)
        self._parts.mouth.unduck()
        self._parts.mouth.stop(branch, keep=keep)
        return reply

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._tasks is not None, "effects are carried out while the session runs"
        self._tasks.create_task(work)

    async def _fire(self, timer: ask.SetTimer) -> None:
        await self._parts.clock.sleep_until(timer.at_s)
        self.emit(fact.TimerFired(name=timer.name, serial=timer.serial))

    async def _transcribe(self, wanted: ask.Transcribe) -> None:
        since_s = self._parts.clock.now_s()
        heard = await self._parts.ears.transcribe(wanted.utterance, wanted.until_s)
        self.emit(
            fact.FinalTranscribed(
                utterance=wanted.utterance,
                request=wanted.request,
                text=heard.text,
                took_ms=round((self._parts.clock.now_s() - since_s) * 1000, 3),
                acoustic=dict(heard.acoustic),
            )
        )

    async def _prepare(self, text: str) -> None:
        try:
            await self._parts.mouth.prepare(speakable(text))
        except Exception as error:
            # A voice that can't speak fails again when the line is to be said, and is told of then.
            if explain(error) is None:
                raise
