"""The language model's side of the conversation: one live state, moved forward and put back.

What stands in the state is the conversation as it was heard. Everything here keeps that true: a boundary is taken only
between whole characters, a reply that was cut off ends with a dash where the sound ended, and old turns leave as text.

The way back to a boundary is a mark, which costs nothing. Where the rows that it leans on are gone, it is the longest
capsule of the same text, and what that lacks is read again. A capsule is taken whenever a turn is committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app.chunker import ABBREVIATIONS, CLOSERS
from app.config import Llm
from app.personas import choose
from app.ports import BoundaryMark, Clock, RollbackReport
from engine.capsule import Capsule, Mark
from engine.chat import Example
from engine.errors import ContextFull, PoolFull, StateError
from engine.sampler import Sampling
from engine.session import Engine
from engine.tokenizer import IncrementalDecoder

PERSONA = "persona"
"""What the capsule of the opening is called in the store."""
BOUNDARY = "boundary-"
CUT = "—"
"""Ends a turn that was cut off in the middle of a sentence."""

# A spoken answer that goes on for longer is one the user would have to interrupt.
REPLY_SENTENCES = 3
# Tokens of a long spoken question with all that the template writes around it.
USER_TURN_TOKENS = 150
# What closes a reply: the dash, the template's end of a turn, and some slack, since text fed again may be cut into
# other tokens than it was decoded from.
CLOSING_TOKENS = 16


class _Boundary(NamedTuple):
    """A place the state can be put back to, and what the conversation was there."""

    mark: Mark
    tokens: list[int]
    """The text up to it, by which a capsule of it is found."""
    turns: int
    """Whole turns in the state, those of example not counted."""
    user: str
    reply_begin: int | None
    """Where the open reply begins in the journal; None between turns."""


class LaneBrain:
    """A conversation in one lane of an engine."""

    def __init__(self, engine: Engine, config: Llm, *, clock: Clock, seed: int) -> None:
        self._lane = engine.lane()
        self._store = engine.store
        self._chat = engine.chat
        self._tokenizer = engine.tokenizer
        self._config = config
        self._clock = clock
        self._seed = seed
        self._persona = choose(config.persona)
        self._opening: _Boundary | None = None
        self._newest: Capsule | None = None
        """The last one taken; what it holds, the next one shares."""
        self._turns: list[Example] = []
        """The turns in the state, as heard."""
        self._user = ""
        self._reply_begin: int | None = None
        self._piece_begin: Mark | None = None
        """Where the newest piece begins, if it has more than one token."""
        self._boundaries: dict[int, _Boundary] = {}
        self._taken = 0
        # A model that has seen itself cut off would end its own sentences that way.
        dash, size = CUT.encode(), engine.tokenizer.size
        self._cut_ids = tuple(id for id in range(size) if dash in engine.tokenizer.token_bytes(id))

    async def open(self) -> BoundaryMark:
        """Read the persona, unless an earlier conversation did, and drop all else that is left of that.

        The persona's capsule is never evicted.
        """
        for name in self._store.names:
            if name.startswith(BOUNDARY):
                self._store.drop(name)
        opening = self._chat.opening(self._persona.system, self._persona.examples)
        self._restore_start_of(opening)
        await self._lane.append(opening[self._lane.position :])
        mark = self._commit(PERSONA)
        self._opening = self._boundaries[mark.handle]
        return mark

    async def read_user(self, text: str) -> BoundaryMark:
        """Append the user's turn and the header of the reply.

        Raises:
            ContextFull: The turn leaves no room for a reply; the state is as it was.
        """
        turn = self._chat.user_turn(text)
        needed_tokens = self._needed_tokens(len(turn))
        if needed_tokens > self._free_tokens():
            raise ContextFull(
                "that was too long to be answered",
                f"with its reply it needs {needed_tokens} tokens, and {self._free_tokens()} are free",
                "Say it in fewer words, or raise llm.context_tokens",
            )
        await self._lane.append(turn)
        self._user = text
        self._reply_begin = self._lane.position
        return self._commit()

    async def reply(self, turn: int) -> AsyncGenerator[str, None]:
        """Decode the reply.

        A piece is a token's text, or that of several tokens where a character needs them. White space at the start is
        left out, and the reply ends after three sentences even if the model would go on.
        """
        decoder = IncrementalDecoder(self._tokenizer)
        text = piece = ""
        sentences = 0
        self._piece_begin = None
        stops = self._tokenizer.control_ids
        decoding = self._lane.generate(self._sampling(turn), self._config.max_reply_tokens, stop_ids=stops)
        async with aclosing(decoding) as tokens:
            async for token in tokens:
                piece += decoder.feed(token)
                if decoder.pending:
                    self._piece_begin = self._piece_begin or self._lane.mark()
                    continue
                if text and piece[:1].isspace():
                    sentences += ends_sentence(text)
                    if sentences == REPLY_SENTENCES:
                        break
                piece = piece if text else piece.lstrip()
                if piece:
                    yield piece
                    text += piece
                piece, self._piece_begin = "", None
        if self._piece_begin is not None:
            self._lane.roll_back(self._piece_begin)
            self._piece_begin = None

    async def mark_clause(self) -> BoundaryMark:
        """The boundary before the newest piece of the reply."""
        mark = self._piece_begin or self._lane.mark()
        return self._keep(mark, self._lane.journal[: mark.position])

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Put the state back, and feed what was heard after that boundary."""
        boundary = self._boundaries[handle]
        since_s = self._clock.now_s()
        reread_tokens = await self._put_back(boundary)
        took_us = (self._clock.now_s() - since_s) * 1e6
        self._turns = self._turns[: boundary.turns]
        self._user, self._reply_begin = boundary.user, boundary.reply_begin
        fed = self._tokenizer.encode(heard)
        if cut:
            so_far = self._text_of_reply() + heard
            fed += self._tokenizer.encode("" if ends_sentence(so_far) else CUT)
        before = self._lane.position
        await self._lane.append(fed)
        mark = await self.close_reply() if cut else self._take()
        return RollbackReport(self._lane.position - before + reread_tokens, took_us, mark)

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn as it is in the state."""
        turn = Example(self._user, self._text_of_reply())
        await self._lane.append(self._chat.closing)
        self._turns.append(turn)
        self._user, self._reply_begin = "", None
        mark = self._commit()
        # Nobody waits for the model now.
        await asyncio.to_thread(self._store.tidy)
        return mark

    @property
    def turns(self) -> Sequence[Example]:
        """The whole turns in the state, as its tokens read when each was closed; without those of example."""
        return self._turns

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries. The opening stays: `make_room` begins there."""
        for handle in handles:
            self._boundaries.pop(handle, None)
            self._store.drop(_name(handle))

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """If the next turn may not fit, begin anew from the persona with the newest turns that fit half the context."""
        assert self._opening is not None, "open() comes first"
        turn_tokens = max(USER_TURN_TOKENS, len(self._chat.user_turn(text)))
        needed_tokens = self._needed_tokens(turn_tokens)
        if self._free_tokens() >= needed_tokens or self._lane.position == len(self._opening.tokens):
            return None
        await self._put_back(self._opening)
        room_tokens = min(self._lane.capacity // 2, self._lane.capacity - needed_tokens) - self._lane.position
        kept: list[Example] = []
        fed: list[int] = []
        for turn in reversed(self._turns):
            tokens = self._chat.past_turn(turn)
            if len(tokens) + len(fed) > room_tokens:
                break
            kept, fed = [turn, *kept], tokens + fed
        await self._lane.append(fed)
        self._turns = kept
        self.forget(list(self._boundaries))
        return len(kept), self._commit()

    def _needed_tokens(self, turn_tokens: int) -> int:
        return turn_tokens + self._config.max_reply_tokens + CLOSING_TOKENS

    def _free_tokens(self) -> int:
        return self._lane.capacity - self._lane.position

    def _sampling(self, turn: int) -> Sampling:
        config = self._config
        return Sampling(
            temperature=config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            repetition_penalty=config.repetition_penalty,
            # Where it falls on the user's words and on the marks between turns, answers lose their subject.
            penalty_from=self._lane.position,
            forbidden=self._cut_ids,
            seed=(self._seed + turn) % (1 << 63),
        )

    def _text_of_reply(self) -> str:
        """The open reply as it stands in the state."""
        assert self._reply_begin is not None, "a reply is open"
        return self._tokenizer.decode(self._lane.journal[self._reply_begin :])

    async def _put_back(self, boundary: _Boundary) -> int:
        """Make the state that of a boundary, and tell how many tokens had to be read again for it."""
        try:
            self._lane.roll_back(boundary.mark)
        except StateError:
            self._restore_start_of(boundary.tokens)
            missing = boundary.tokens[self._lane.position :]
            await self._lane.append(missing)
            return len(missing)
        return 0

    def _restore_start_of(self, tokens: list[int]) -> None:
        """Make the state that of the longest capsule of a text, or the empty one."""
        found = self._store.longest_match(tokens)
        if found is None:
            self._lane.clear()
            return
        try:
            self._lane.restore(found.capsule)
        except StateError:
            # It was never filled, or copying it back failed half way. The text is enough.
            self._lane.clear()

    def _commit(self, name: str | None = None) -> BoundaryMark:
        """Take a boundary with a capsule, which is evicted only after the next one was taken."""
        try:
            capsule = self._snapshot()
        except PoolFull:
            # The text is enough to come back.
            return self._take()
        mark = self._take(capsule.bytes)
        for known in self._store.names:
            if known.startswith(BOUNDARY):
                self._store.unpin(known)
        self._store.put(name or _name(mark.handle), capsule, pinned=True)
        self._newest = capsule
        return mark

    def _snapshot(self) -> Capsule:
        try:
            return self._lane.snapshot(parent=self._newest)
        except StateError:
            # The text did not grow from the newest one: a turn was taken back.
            return self._lane.snapshot()

    def _take(self, capsule_bytes: int = 0) -> BoundaryMark:
        """A boundary where the state stands."""
        return self._keep(self._lane.mark(), self._lane.journal, capsule_bytes)

    def _keep(self, mark: Mark, tokens: list[int], capsule_bytes: int = 0) -> BoundaryMark:
        self._taken += 1
        self._boundaries[self._taken] = _Boundary(mark, tokens, len(self._turns), self._user, self._reply_begin)
        return BoundaryMark(mark.position, capsule_bytes, self._taken)


def _name(handle: int) -> str:
    """Of a boundary's capsule in the store."""
    return f"{BOUNDARY}{handle}"


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the end of a sentence."""
    last = (text.split() or [""])[-1].rstrip(CLOSERS)
    initial = len(last) == 2 and last[0].isupper() and last[0] != "I"
    return last[-1:] in (".", "?", "!", "…") and not (initial or last.lower() in ABBREVIATIONS or last[:-1].isdigit())
