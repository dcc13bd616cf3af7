"""One attempt at a reply: read what is to be said anyway, decode the rest, cut it into clauses, speak.

Decoding and speaking are two tasks with a short queue between them, so that the model's state is free again as soon as
the reply is decoded, and a rollback never waits for a synthesis. A dead reply stops at the next token and at the next
clause. What is known beforehand (a line, the rest of an earlier reply) is spoken at once, while the model still reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app import events as fact
from app.chunker import Chunker, Clause
from app.errors import explain
from app.heard import count, first_words
from app.ports import Brain, Emit, Mouth

# Clauses that wait for the voice. Together with the playout buffer this bounds how far the model runs ahead of the ear.
WAITING_CLAUSES = 4

MarkClause = Callable[["Reply"], Awaitable[None]]
"""Takes the boundary after the newest clause that the model's state holds."""


class Sound(NamedTuple):
    """Where the mouth has the sound of a clause: from a word on, in a clause of a branch that said it."""

    branch: int
    clause: int
    from_word: int


class Part(NamedTuple):
    """A clause of a reply, and its sound if it was made."""

    clause: Clause
    sound: Sound | None = None

    def after(self, words: int) -> Part:
        """What follows its first words."""
        text, spoken = self.clause
        rest = Clause(text.removeprefix(first_words(text, words)), " ".join(spoken.split()[words:]))
        if self.sound is None:
            return Part(rest)
        return Part(rest, self.sound._replace(from_word=self.sound.from_word + words))


class Tail(NamedTuple):
    """The unheard rest of a reply that was cut off."""

    branch: int
    parts: tuple[Part, ...]
    complete: bool
    """The model had written all of it."""

    @property
    def text(self) -> str:
        """As the model wrote it."""
        return "".join(part.clause.text for part in self.parts)

    @property
    def sources(self) -> set[int]:
        """The branches whose sound it needs."""
        return {part.sound.branch for part in self.parts if part.sound}


class Reply:
    """One branch of the conversation while its reply is made.

    Args:
        branch: Its number.
        turn: The user's turn that it answers.
        known: What is said in any case, before the model is asked for more.
        complete: The model is not asked for more.
        again: The model is asked for another answer than it gave before.
    """

    def __init__(
        self, branch: int, turn: int, known: Sequence[Part] = (), *, complete: bool = False, again: bool = False
    ) -> None:
        self.branch = branch
        self.turn = turn
        self.again = again
        self.dead = False
        self.abandoned = False
        """It is as if it never was."""
        self.failed = False
        self.read = False
        """The user's turn is in the model's state."""
        self.complete = complete
        """The model has written all of it."""
        self.parts = list(known)
        """What is to be said so far, clause by clause."""
        self.sources = {part.sound.branch for part in known if part.sound}
        """The branches whose kept sound is this reply's to forget."""
        self._known = len(known)
        self._waiting: asyncio.Queue[int | None] = asyncio.Queue(max(WAITING_CLAUSES, len(known)))
        for number in range(len(known)):
            self._waiting.put_nowait(number)
        # Nobody hears the second clause before the first one has become sound, so until then all cores are the voice's.
        self._first_is_sound = asyncio.Event()

    @property
    def texts(self) -> list[str]:
        """The clauses; joined they are the reply so far, exactly as the model wrote it."""
        return [part.clause.text for part in self.parts]

    def die(self) -> None:
        """Nobody wants this reply any more. Decoding ends at the next token even if it waits for the voice."""
        self.dead = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)
        self._first_is_sound.set()

    def fail(self, error: Exception, emit: Emit) -> None:
        """A reply that can't be made ends with a reason the user can act on; anything else is a bug of ours."""
        if explain(error) is None:
            raise error
        self.failed = True
        self.die()
        what, why, fix = (getattr(error, name, "") for name in ("what", "why", "fix"))
        emit(fact.ReplyFailed(branch=self.branch, what=what, why=why, fix=fix))

    def rest(self, words: int) -> Tail:
        """What follows its first words, as far as it is written in whole clauses."""
        parts: list[Part] = []
        for part in self.parts:
            here = min(words, count(part.clause.text))
            words -= here
            if here < count(part.clause.text):
                parts.append(part.after(here))
        if parts:
            first = parts[0].clause
            parts[0] = parts[0]._replace(clause=first._replace(text=first.text.lstrip()))
        return Tail(self.branch, tuple(parts), self.complete)

    # ---- the model's side ----

    async def write(self, brain: Brain, emit: Emit, mark_clause: MarkClause) -> None:
        """Let the model read what is known and decode the rest, until the reply ends or dies.

        Args:
            brain: Stands at the boundary U of this turn.
            emit: Where events go.
            mark_clause: Called at the end of each clause, while the state holds exactly the clauses so far.
        """
        tokens = 0
        try:
            for number in range(self._known):
                if self.dead:
                    return
                await brain.read_line(self.parts[number].clause.text)
                await self._tell(number, emit, mark_clause)
            if not self.complete:
                tokens = await self._decode(brain, emit, mark_clause)
            if self.dead:
                return
            self.complete = True
            emit(fact.ReplyDecoded(branch=self.branch, text="".join(self.texts), tokens=tokens))
        finally:
            if not self.dead:
                await self._waiting.put(None)

    async def _decode(self, brain: Brain, emit: Emit, mark_clause: MarkClause) -> int:
        """Decode until the reply ends or dies; how many tokens it took."""
        chunker = Chunker()
        tokens = 0
        async with aclosing(brain.reply(self.turn, again=self.again)) as pieces:
            async for piece in pieces:
                if self.dead:
                    emit(fact.DeadBranchDropped(branch=self.branch, what="a token"))
                    return tokens
                if tokens == 0:
                    emit(fact.FirstTokenDecoded(branch=self.branch))
                tokens += 1
                if clause := chunker.feed(piece):
                    await self._cut(clause, emit, mark_clause)
        if not self.dead and (clause := chunker.finish()):
            await self._cut(clause, emit, mark_clause)
        return tokens

    async def _cut(self, clause: Clause, emit: Emit, mark_clause: MarkClause) -> None:
        number = len(self.parts)
        self.parts.append(Part(clause))
        await self._tell(number, emit, mark_clause)
        if not self.dead:
            await self._waiting.put(number)
            await self._first_is_sound.wait()

    async def _tell(self, number: int, emit: Emit, mark_clause: MarkClause) -> None:
        await mark_clause(self)
        emit(fact.ClauseDecoded(branch=self.branch, clause=number, text=self.parts[number].clause.text))

    # ---- the voice's side ----

    async def speak(self, mouth: Mouth, emit: Emit) -> None:
        """Turn clauses into sound until there are no more, or the reply dies."""
        try:
            while (number := await self._waiting.get()) is not None:
                await self._say(number, mouth, emit)
                self._first_is_sound.set()
        except Exception as error:
            self.fail(error, emit)
        if not self.dead:
            mouth.finish(self.branch)

    async def _say(self, number: int, mouth: Mouth, emit: Emit) -> None:
        clause, sound = self.parts[number]
        if sound:
            spoken = await mouth.say_rest(self.branch, sound.branch, sound.clause, sound.from_word)
        else:
            spoken = await mouth.say(self.branch, clause.spoken)
        if spoken is None or self.dead:
            emit(fact.DeadBranchDropped(branch=self.branch, what=f"clause {number}"))
            return
        self.parts[number] = Part(clause, Sound(self.branch, number, 0))
        words, seconds, took_ms = spoken
        emit(fact.ClauseSynthesised(branch=self.branch, clause=number, words=words, seconds=seconds, took_ms=took_ms))
