"""One attempt at a reply: decode, cut into clauses, speak.

Decoding and speaking are two tasks with a short queue between them, so that the model's state is free again as soon as
the reply is decoded, and a rollback never waits for a synthesis. A dead reply stops at the next token and at the next
clause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from app import events as fact
from app.chunker import Chunker, Clause
from app.ports import Brain, Emit, Mouth

# Clauses that wait for the voice. Together with the playout buffer this bounds how far the model runs ahead of the ear.
WAITING_CLAUSES = 4

MarkClause = Callable[["Reply"], Awaitable[None]]
"""Takes the boundary after the reply's newest clause."""


class Reply:
    """One branch of the conversation while its reply is made."""

    def __init__(self, branch: int, turn: int) -> None:
        self.branch = branch
        self.turn = turn
        self.dead = False
        self.complete = False
        """The model has written all of it."""
        self.clauses: list[str] = []
        """What the model wrote, clause by clause; joined it is the reply so far."""
        self._waiting: asyncio.Queue[Clause | None] = asyncio.Queue(WAITING_CLAUSES)
        # Nobody hears the second clause before the first one has become sound, so until then all cores are the voice's.
        self._first_is_sound = asyncio.Event()

    def die(self) -> None:
        """Nobody wants this reply any more. Decoding ends at the next token even if it waits for the voice."""
        self.dead = True
        ended = False
        while not self._waiting.empty():
            ended |= self._waiting.get_nowait() is None
        if ended:
            self._waiting.put_nowait(None)
        self._first_is_sound.set()

    async def decode(self, brain: Brain, emit: Emit, mark_clause: MarkClause) -> None:
        """Decode until the reply ends or dies.

        Args:
            brain: Stands at the boundary U of this turn.
            emit: Where events go.
            mark_clause: Called at the end of each clause, while the state holds exactly the clauses so far.
        """
        chunker = Chunker()
        tokens = 0
        try:
            async with aclosing(brain.reply(self.turn)) as pieces:
                async for piece in pieces:
                    if self.dead:
                        return
                    if tokens == 0:
                        emit(fact.FirstTokenDecoded(branch=self.branch))
                    tokens += 1
                    if clause := chunker.feed(piece):
                        await self._cut(clause, emit, mark_clause)
            if self.dead:
                return
            if clause := chunker.finish():
                await self._cut(clause, emit, mark_clause)
            self.complete = True
            emit(fact.ReplyDecoded(branch=self.branch, text="".join(self.clauses), tokens=tokens))
        finally:
            await self._waiting.put(None)

    async def _cut(self, clause: Clause, emit: Emit, mark_clause: MarkClause) -> None:
        self.clauses.append(clause.text)
        await mark_clause(self)
        emit(fact.ClauseDecoded(branch=self.branch, clause=len(self.clauses) - 1, text=clause.text))
        if not self.dead:
            await self._waiting.put(clause)
            await self._first_is_sound.wait()

    async def speak(self, mouth: Mouth, emit: Emit) -> None:
        """Turn clauses into sound until there are no more; a dead reply's clauses are only drained."""
        number = 0
        try:
            while clause := await self._waiting.get():
                if not self.dead:
                    await self._say(number, clause, mouth, emit)
                    number += 1
                self._first_is_sound.set()
        except BaseException:
            self.die()
            raise
        if not self.dead:
            mouth.finish(self.branch)

    async def _say(self, number: int, clause: Clause, mouth: Mouth, emit: Emit) -> None:
        spoken = await mouth.say(self.branch, clause.spoken)
        if spoken is None or self.dead:
            emit(fact.DeadBranchDropped(branch=self.branch, what=f"clause {number}"))
            return
        words, seconds, took_ms = spoken
        emit(fact.ClauseSynthesised(branch=self.branch, clause=number, words=words, seconds=seconds, took_ms=took_ms))
