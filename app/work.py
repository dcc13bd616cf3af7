"""What is done with the model's state: one job at a time, in the order it was asked for, so that a rollback never meets
a decode. Each job keeps the tree of boundaries true to the state, and the state true to what was heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec

from app import effects as ask
from app import events as fact
from app.errors import BacktalkError
from app.heard import Keep, count, first_words, last_words, locate, words_kept
from app.ports import BoundaryMark, Emit, Parts, RollbackReport
from app.reply import Reply, Tail
from app.tree import Boundary, Kind, Tree

# Jobs that wait. A turn queues two or three; who holds a key down while a slow model reads queues dozens.
WAITING_JOBS = 512
# How much of a reply that was cut off the model is reminded of.
NOTED_WORDS = 6
SILENCE = "…"
"""The user's turn, as the model reads it, before the agent speaks unasked."""

Arguments = ParamSpec("Arguments")
Job = Callable[[], Coroutine[Any, Any, None]]


class Work:
    """The model's worker: its state, its tree, and what is left of replies that were cut off.

    Args:
        parts: Of these the brain, the clock, and the mouth, for the sound it keeps.
        keep: What stays of a reply that was cut off.
        cut_note: Tells the model with its next turn where it was cut off (`{heard}`); empty: it is not told.
        emit: Takes facts that decisions wait for.
        log: Takes facts for the record.
    """

    def __init__(
        self, parts: Parts, keep: Keep, cut_note: str, emit: Emit, log: Callable[[fact.Event], object]
    ) -> None:
        self._brain, self._clock, self._mouth = parts.brain, parts.clock, parts.mouth
        self._keep: Keep = keep
        self._cut_note = cut_note
        self._emit, self._log = emit, log
        self._jobs: asyncio.Queue[Job] = asyncio.Queue(WAITING_JOBS)
        self._tails: dict[int, Tail] = {}
        self.tree = Tree()
        self.ahead: ask.ReadAhead | None = None
        """The one reading ahead that is still wanted."""

    def begin(self, mark: BoundaryMark) -> None:
        """The model has read its persona: boundary A0."""
        self._take("A", 0, 0, mark)

    async def run(self) -> None:
        """Do one job after the other until cancelled."""
        while True:
            job = await self._jobs.get()
            await job()

    def later(
        self, job: Callable[Arguments, Coroutine[Any, Any, None]], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> None:
        """Do one of the jobs below once those before it are done."""
        self._jobs.put_nowait(partial(job, *args, **kwargs))

    # ---- the rest of a reply ----

    def take_tail(self, branch: int) -> Tail:
        """The unheard rest of a branch; its sound is the caller's to forget from now on."""
        return self._tails.pop(branch)

    def forget_tail(self, branch: int) -> None:
        """The unheard rest of a branch is not wanted any more, if it is still there."""
        if tail := self._tails.pop(branch, None):
            self._forget_sound(tail.sources)

    def _keep_tail(self, reply: Reply, words: int) -> None:
        """Decisions answer `TailKept` by letting go of this rest or of the one before."""
        tail = reply.rest(words)
        if reply.failed or not tail.parts:
            self._forget_sound(reply.sources)
            return
        self._forget_sound(reply.sources - tail.sources)
        self._tails[reply.branch] = tail
        self._emit(fact.TailKept(branch=reply.branch, turn=reply.turn, text=tail.text.rstrip(), complete=tail.complete))

    def _forget_sound(self, branches: set[int]) -> None:
        for branch in sorted(branches):
            self._mouth.forget(branch)

    # ---- jobs: the user's turn and the reply ----

    async def read_ahead(self, wanted: ask.ReadAhead) -> None:
        """Read what the user said so far, unless more of it is known by now. Leaves no boundary."""
        if wanted is not self.ahead:
            return
        since_s = self._clock.now_s()
        read = await self._brain.read_ahead(wanted.text, self._note())
        self._emit(
            fact.UserTextRead(
                utterance=wanted.utterance,
                request=wanted.request,
                tokens=read.tokens,
                end_logprob=read.end_logprob,
                took_ms=self._took_ms(since_s),
            )
        )

    async def answer(self, reply: Reply, text: str) -> None:
        """Read the user's turn and write the reply. A reply that is dead already still has its turn read."""
        if reply.abandoned:
            return
        try:
            await self._read(reply, text)
            if not reply.dead:
                await reply.write(self._brain, self._emit, self._mark_clause)
        except Exception as error:
            reply.fail(error, self._emit)

    async def _read(self, reply: Reply, text: str) -> None:
        """Put the state at the end of the user's turn: boundary U."""
        since_s, tokens = self._clock.now_s(), 0
        asked = self.tree.asked(reply.turn) if reply.again else None
        if asked is not None:
            await self._back_to(asked, reply)
        elif reply.again and self.tree.tip.turn == reply.turn:
            raise BacktalkError("another answer can't be given", "the model's context lost the turn", "Ask it anew")
        else:
            note, said = self._note(), text or SILENCE
            await self._make_room(f"{note} {said}".lstrip())
            mark = await self._brain.read_user(said, note)
            tokens = mark.position - self.tree.tip.position
            self._take("U", reply.turn, reply.turn, mark, text)
        reply.read = True
        self._emit(fact.UserTurnAppended(branch=reply.branch, tokens=tokens, took_ms=self._took_ms(since_s)))

    def _note(self) -> str:
        """A line for the model if its last reply was cut off."""
        cut_after = self.tree.tip.cut_after
        return self._cut_note.format(heard=cut_after) if cut_after else ""

    async def _mark_clause(self, reply: Reply) -> None:
        number = len(self.tree.clauses())
        self._take("W", number, reply.turn, await self._brain.mark_clause(), reply.texts[number - 1])

    async def cut_off(self, reply: Reply, words: int) -> None:
        """Put the state back to what stays of the reply, and close the agent's turn there."""
        if not reply.read:
            # The user's turn itself could not be read.
            await self.abandon(reply)
            return
        texts, boundaries = reply.texts, self.tree.clauses()
        written = "".join(texts)
        heard = first_words(written, words)
        whole = reply.complete and heard == written
        kept_words = words if whole else words_kept(written, words, self._keep)
        cut = locate(texts, kept_words, len(boundaries) - 1)
        report = await self._back_to(boundaries[cut.clauses], reply, cut.tail, cut=True)
        self._commit(reply, report.mark, heard, cut.heard, interrupted=not whole)
        self._keep_tail(reply, words)
        await self._make_room("")

    async def abandon(self, reply: Reply) -> None:
        """Put the state back to before the user's turn."""
        await self._back_to(self.tree.before(reply.turn) or self.tree.base(), reply)
        self._forget_sound(reply.sources)

    async def close(self, reply: Reply) -> None:
        """Close the agent's turn as it is: all of it was heard."""
        heard = "".join(reply.texts)
        self._commit(reply, await self._brain.close_reply(), heard, heard, interrupted=False)
        self._forget_sound(reply.sources)
        await self._make_room("")

    def _commit(self, reply: Reply, mark: BoundaryMark, heard: str, kept: str, *, interrupted: bool) -> None:
        """The agent's turn is in the state: boundary A."""
        self._take(
            "A", reply.turn, reply.turn, mark, kept.strip(), last_words(heard, NOTED_WORDS) if interrupted else ""
        )
        self.tree, gone = self.tree.prune()
        self._brain.forget(gone)
        self._log(
            fact.ReplyCommitted(
                turn=reply.turn,
                branch=reply.branch,
                heard=heard.strip(),
                words=count(heard),
                interrupted=interrupted,
                kept=None if kept == heard else kept.strip(),
            )
        )

    # ---- jobs: moves on the tree ----

    async def move_back(self, turn: int) -> None:
        """Go on from before a turn."""
        await self._move(self.tree.before(turn), f"turn {turn} can't be taken back")

    async def take_up(self, serial: int) -> None:
        """Go on from a boundary A, live or abandoned."""
        await self._move(self.tree.agent(serial), f"boundary {serial} can't be taken up")

    async def _move(self, boundary: Boundary | None, else_what: str) -> None:
        left = self.tree.tip.serial
        if boundary is None:
            self._emit(fact.MoveRefused(what=else_what, why="no answer ends there, or its context is gone"))
            return
        report = await self._roll_back(boundary)
        asked = self.tree.asked(boundary.turn)
        self._emit(
            fact.Moved(
                boundary=boundary.serial,
                name=boundary.name,
                turn=boundary.turn,
                text=asked.text if asked else "",
                left=left,
                rollback_us=report.rollback_us,
            )
        )

    # ---- state and tree ----

    async def _back_to(self, boundary: Boundary, reply: Reply, tail: str = "", *, cut: bool = False) -> RollbackReport:
        report = await self._roll_back(boundary, tail, cut=cut)
        self._log(
            fact.RolledBack(
                branch=reply.branch,
                boundary=boundary.name,
                refed_tokens=report.refed_tokens,
                rollback_us=report.rollback_us,
            )
        )
        return report

    async def _roll_back(self, boundary: Boundary, tail: str = "", *, cut: bool = False) -> RollbackReport:
        report = await self._brain.roll_back(boundary.handle, tail, cut=cut)
        self.tree, gone = self.tree.move(boundary)
        # Where nothing was fed the state stands on the boundary itself.
        self._brain.forget(gone if cut else [*gone, report.mark.handle])
        return report

    def _take(
        self, kind: Kind, number: int, turn: int, mark: BoundaryMark, text: str = "", cut_after: str = ""
    ) -> None:
        self.tree = self.tree.take(kind, number, turn, mark, text, cut_after)
        tip = self.tree.tip
        self._log(
            fact.BoundaryTaken(
                boundary=tip.serial,
                name=tip.name,
                parent=tip.parent,
                turn=turn,
                position=tip.position,
                capsule_bytes=mark.capsule_bytes,
                text=text,
            )
        )

    async def _make_room(self, text: str) -> None:
        """If the context is full, let the oldest turns go. Nearly always done while nobody waits."""
        if room := await self._brain.make_room(text):
            kept_turns, mark = room
            tip = self.tree.tip
            self.tree = Tree(taken=self.tree.taken)
            self._log(fact.ContextTrimmed(kept_turns=kept_turns, tokens=mark.position))
            self._take("A", tip.turn, tip.turn, mark, tip.text, tip.cut_after)

    def _took_ms(self, since_s: float) -> float:
        return round((self._clock.now_s() - since_s) * 1000, 3)
