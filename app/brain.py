"""The language model's side of the conversation: one live state, moved forward and put back.

What stands in the state is the conversation as it was heard. Everything here keeps that true: a boundary is taken only
between whole characters, a reply that was cut off ends with a dash where the sound ended, and old turns leave as text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

from app.chunker import ABBREVIATIONS, CLOSERS
from app.config import Llm
from app.personas import choose
from app.ports import BoundaryMark, Clock, RollbackReport
from engine.capsule import Capsule, Mark
from engine.chat import Example
from engine.errors import ContextFull
from engine.sampler import Sampling
from engine.session import Engine
from engine.tokenizer import IncrementalDecoder

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

    state: Mark | Capsule
    turns: int
    """Whole turns in the state, those of example not counted."""
    user: str
    reply_begin: int | None
    """Where the open reply begins in the journal; None between turns."""


class LaneBrain:
    """A conversation in one lane of an engine."""

    def __init__(self, engine: Engine, config: Llm, *, clock: Clock, seed: int) -> None:
        self._lane = engine.lane()
        self._chat = engine.chat
        self._tokenizer = engine.tokenizer
        self._config = config
        self._clock = clock
        self._seed = seed
        self._persona = choose(config.persona)
        self._opening: Capsule | None = None
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
        """Read the persona. Its boundary is a copy, so that it outlives everything."""
        await self._lane.append(self._chat.opening(self._persona.system, self._persona.examples))
        self._opening = self._lane.snapshot()
        return self._take(self._opening)

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
        return self._take(self._lane.mark())

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
        return self._take(self._piece_begin or self._lane.mark())

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Put the state back, and feed what was heard after that boundary."""
        boundary = self._boundaries[handle]
        since_s = self._clock.now_s()
        self._restore(boundary.state)
        took_us = (self._clock.now_s() - since_s) * 1e6
        self._turns = self._turns[: boundary.turns]
        self._user, self._reply_begin = boundary.user, boundary.reply_begin
        fed = self._tokenizer.encode(heard)
        if cut:
            so_far = self._text_of_reply() + heard
            fed += self._tokenizer.encode("" if ends_sentence(so_far) else CUT)
        before = self._lane.position
        await self._lane.append(fed)
        mark = await self.close_reply() if cut else self._take(self._lane.mark())
        return RollbackReport(self._lane.position - before, took_us, mark)

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn as it is in the state."""
        turn = Example(self._user, self._text_of_reply())
        await self._lane.append(self._chat.closing)
        self._turns.append(turn)
        self._user, self._reply_begin = "", None
        return self._take(self._lane.mark())

    @property
    def turns(self) -> Sequence[Example]:
        """The whole turns in the state, as its tokens read when each was closed; without those of example."""
        return self._turns

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries. The opening stays: `make_room` begins there."""
        for handle in handles:
            self._boundaries.pop(handle, None)

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """If the next turn may not fit, begin anew from the persona with the newest turns that fit half the context."""
        assert self._opening is not None, "open() comes first"
        turn_tokens = max(USER_TURN_TOKENS, len(self._chat.user_turn(text)))
        needed_tokens = self._needed_tokens(turn_tokens)
        if self._free_tokens() >= needed_tokens or self._lane.position == self._opening.position:
            return None
        self._restore(self._opening)
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
        self._boundaries.clear()
        return len(kept), self._take(self._lane.mark())

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

    def _restore(self, state: Mark | Capsule) -> None:
        if isinstance(state, Capsule):
            self._lane.restore(state)
        else:
            self._lane.roll_back(state)

    def _take(self, state: Mark | Capsule) -> BoundaryMark:
        self._taken += 1
        self._boundaries[self._taken] = _Boundary(state, len(self._turns), self._user, self._reply_begin)
        capsule_bytes = state.bytes if isinstance(state, Capsule) else 0
        return BoundaryMark(state.position, capsule_bytes, self._taken)


def ends_sentence(text: str) -> bool:
    """Whether a text ends with the end of a sentence."""
    last = (text.split() or [""])[-1].rstrip(CLOSERS)
    initial = len(last) == 2 and last[0].isupper() and last[0] != "I"
    return last[-1:] in (".", "?", "!", "…") and not (initial or last.lower() in ABBREVIATIONS or last[:-1].isdigit())
