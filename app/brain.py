"""The language model's side of the conversation: one live state, moved forward and put back.

What stands in the state is the conversation as it was heard. Everything here keeps that true: a boundary is taken only
between whole characters, a reply that was cut off ends with a dash where the sound ended, and old turns leave as text.

A turn that may not be over is read ahead of its end. It lies above the base, the boundary where the state would stand
without it, and whatever is not a part of the turn in the end is taken back to the token.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import takewhile

from app.boundaries import Boundaries, Boundary, Talk
from app.chunker import ends_sentence
from app.config import Llm
from app.endpoint import begins_with_end_mark
from app.personas import choose
from app.ports import BoundaryMark, Clock, ReadAhead, RollbackReport
from engine.capsule import Mark
from engine.chat import Example
from engine.errors import ContextFull, StateError
from engine.sampler import Sampling
from engine.session import Engine
from engine.tokenizer import IncrementalDecoder

PERSONA = "persona"
"""What the capsule of the opening is called in the store."""
CUT = "—"
"""Ends a turn that was cut off in the middle of a sentence."""

# A spoken answer that goes on for longer is one the user would have to interrupt.
REPLY_SENTENCES = 3
# Tokens of a long spoken question with all that the template writes around it.
USER_TURN_TOKENS = 150
# What closes a reply: the dash, the template's end of a turn, and some slack, since text fed again may be cut into
# other tokens than it was decoded from.
CLOSING_TOKENS = 16
# Another answer is drawn at least this warm: at temperature 0 it would be the same one.
AGAIN_TEMPERATURE = 0.8
# Between the seeds of two attempts: more than there are turns, so that no two of them meet.
ATTEMPT_SEEDS = 1 << 32


class LaneBrain:
    """A conversation in one lane of an engine."""

    def __init__(self, engine: Engine, config: Llm, *, clock: Clock, seed: int) -> None:
        self._lane = engine.lane()
        self._chat = engine.chat
        self._tokenizer = engine.tokenizer
        self._tidy = engine.store.tidy
        self._boundaries = Boundaries(self._lane, engine.store)
        self._config = config
        self._clock = clock
        self._seed = seed
        self._persona = choose(config.persona)
        self._opening: Boundary | None = None
        self._talk = Talk()
        self._base: Boundary | None = None
        """Where a turn that was read ahead begins; None if none was."""
        self._ahead: list[Mark] = []
        """Where each reading of it ended, as far as its text still stands."""
        self._piece_begin: Mark | None = None
        """Where the newest piece begins, if it has more than one token."""
        self._attempts = 0
        """How often another answer was asked for."""
        # A model that has seen itself cut off would end its own sentences that way.
        dash, size = CUT.encode(), engine.tokenizer.size
        self._cut_ids = tuple(id for id in range(size) if dash in engine.tokenizer.token_bytes(id))
        marks = (id for id in range(size) if begins_with_end_mark(engine.tokenizer.token_bytes(id)))
        self._user_end_ids = self._chat.user_end_ids.union(marks)
        """What would end the user's turn, or the sentence that it ends with."""

    @property
    def turns(self) -> Sequence[Example]:
        """The whole turns in the state, as its tokens read when each was closed; without those of example."""
        return self._talk.turns

    async def open(self) -> BoundaryMark:
        """Read the persona, unless an earlier conversation did, and drop all else that is left of that.

        The persona's capsule is never evicted.
        """
        self._boundaries.forget_all()
        self._forget_ahead()
        await self._boundaries.restore(self._chat.opening(self._persona.system, self._persona.examples))
        mark = self._boundaries.commit(Talk(), PERSONA)
        self._talk, self._opening = Talk(), self._boundaries[mark.handle]
        self._attempts = 0
        return mark

    async def read_ahead(self, text: str, note: str = "") -> ReadAhead:
        """Read what the user said so far, and tell how likely the turn ends there.

        Where it leaves no room for a reply nothing is read, and nothing is told.
        """
        said = _with_note(text, note)
        base = self._find_base()
        if self._needed_tokens(len(self._chat.user_turn(said))) > self._free_tokens():
            return ReadAhead(0, None)
        tokens = await self._read_on(base, self._chat.user_so_far(said))
        if not self._ahead or self._ahead[-1].position < self._lane.position:
            self._ahead.append(self._lane.mark())
        return ReadAhead(tokens, await self._lane.next_logprob(self._user_end_ids))

    async def read_user(self, text: str, note: str = "") -> BoundaryMark:
        """Append the user's turn and the header of the reply.

        Raises:
            ContextFull: The turn leaves no room for a reply; the state is as it was.
        """
        turn = self._chat.user_turn(_with_note(text, note))
        needed_tokens = self._needed_tokens(len(turn))
        if needed_tokens > self._free_tokens():
            raise ContextFull(
                "that was too long to be answered",
                f"with its reply it needs {needed_tokens} tokens, and {self._free_tokens()} are free",
                "Say it in fewer words, or raise llm.context_tokens",
            )
        await self._read_on(self._find_base(), turn)
        self._forget_ahead()
        self._talk = self._talk._replace(user=text, reply_begin=self._lane.position)
        return self._boundaries.commit(self._talk)

    async def read_line(self, text: str) -> None:
        """Append to the open reply what was not decoded.

        Raises:
            ContextFull: It doesn't fit. Nothing was appended.
        """
        assert self._talk.reply_begin is not None, "a reply is open"
        self._piece_begin = None
        await self._lane.append(self._tokenizer.encode(text))

    async def reply(self, turn: int, *, again: bool = False) -> AsyncGenerator[str, None]:
        """Decode the reply, or the rest of one that was begun with lines.

        A piece is a token's text, or that of several tokens where a character needs them. White space at the start is
        left out, and the reply ends after three sentences even if the model would go on.
        """
        self._attempts += again
        text = self._text_of_reply()
        sentences = sum(map(ends_sentence, text.split()[:-1]))
        decoder, piece = IncrementalDecoder(self._tokenizer), ""
        self._piece_begin = None
        decoding = self._lane.generate(
            self._sampling(turn, self._attempts if again else 0),
            max(0, self._config.max_reply_tokens - (self._lane.position - self._reply_begin)),
            stop_ids=self._tokenizer.control_ids,
        )
        async with aclosing(decoding) as tokens:
            async for token in tokens:
                piece += decoder.feed(token)
                if decoder.pending:
                    self._piece_begin = self._piece_begin or self._lane.mark()
                    continue
                if text and piece[:1].isspace():
                    sentences += ends_sentence(text)
                    if sentences >= REPLY_SENTENCES:
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
        return self._boundaries.take(self._talk, self._piece_begin)

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Put the state back, and feed what was heard after that boundary: the very tokens if it was decoded there."""
        boundary = self._boundaries[handle]
        fed = self._tokens_of(heard, boundary)
        self._forget_ahead()
        since_s = self._clock.now_s()
        reread_tokens = await self._boundaries.put_back(boundary)
        took_us = (self._clock.now_s() - since_s) * 1e6
        self._talk = boundary.talk
        if cut:
            so_far = self._text_of_reply() + heard
            fed += self._tokenizer.encode("" if ends_sentence(so_far) else CUT)
        before = self._lane.position
        await self._lane.append(fed)
        mark = await self.close_reply() if cut else self._boundaries.take(self._talk)
        return RollbackReport(self._lane.position - before + reread_tokens, took_us, mark)

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn as it is in the state."""
        turn = Example(self._talk.user, self._text_of_reply())
        await self._lane.append(self._chat.closing)
        self._talk = Talk((*self._talk.turns, turn))
        mark = self._boundaries.commit(self._talk)
        # Nobody waits for the model now.
        await asyncio.to_thread(self._tidy)
        return mark

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries. The opening stays: `make_room` begins there."""
        self._boundaries.forget(handles)

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """If the next turn may not fit, begin anew from the persona with the newest turns that fit half the context.

        All boundaries are forgotten then. What was read ahead stays if there is room.
        """
        assert self._opening is not None, "open() comes first"
        turn_tokens = max(USER_TURN_TOKENS, len(self._chat.user_turn(text)))
        needed_tokens = self._needed_tokens(turn_tokens)
        if self._free_tokens() >= needed_tokens or self._base_position() == len(self._opening.tokens):
            return None
        self._forget_ahead()
        await self._boundaries.put_back(self._opening)
        room_tokens = min(self._lane.capacity // 2, self._lane.capacity - needed_tokens) - self._lane.position
        kept: tuple[Example, ...] = ()
        fed: list[int] = []
        for turn in reversed(self._talk.turns):
            tokens = self._chat.past_turn(turn)
            if len(tokens) + len(fed) > room_tokens:
                break
            kept, fed = (turn, *kept), tokens + fed
        await self._lane.append(fed)
        self._talk = Talk(kept)
        self._boundaries.forget_all()
        return len(kept), self._boundaries.commit(self._talk)

    def _find_base(self) -> Boundary:
        """Where the user's turn begins."""
        assert self._talk.reply_begin is None, "the user's turn comes between two replies"
        if self._base is None:
            self._base = self._boundaries.here(self._talk)
        return self._base

    def _base_position(self) -> int:
        return self._lane.position if self._base is None else self._base.mark.position

    def _forget_ahead(self) -> None:
        self._base = None
        self._ahead.clear()

    async def _read_on(self, base: Boundary, turn: list[int]) -> int:
        """Make what stands above the base a turn, and tell how many tokens were read for it.

        What it shares with the text there is kept as far as one reading of that went.
        """
        begin = base.mark.position
        read = self._lane.journal[begin:]
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(read, turn, strict=False)))
        self._ahead = [mark for mark in self._ahead if mark.position <= begin + common]
        reread_tokens = 0 if common == len(read) else await self._back_to_newest(base)
        rest = turn[self._lane.position - begin :]
        await self._lane.append(rest)
        return reread_tokens + len(rest)

    async def _back_to_newest(self, base: Boundary) -> int:
        """Go back to the newest reading, or to the base; how many tokens had to be read again for that."""
        if self._ahead:
            try:
                self._lane.roll_back(self._ahead[-1])
            except StateError:
                self._ahead.clear()
            else:
                return 0
        return await self._boundaries.put_back(base)

    def _tokens_of(self, heard: str, boundary: Boundary) -> list[int]:
        """What was heard after a boundary, in the tokens it was decoded in.

        Encoded anew is only what was not decoded there, and the end of it if a token says more than was heard.
        """
        begin = len(boundary.tokens)
        line = self._lane.journal
        decoded = line[begin:] if line[:begin] == boundary.tokens else []
        wanted, made = heard.encode(), b""
        whole, whole_bytes = 0, 0
        for count, id in enumerate(decoded, 1):
            made += self._tokenizer.token_bytes(id)
            if begin == boundary.talk.reply_begin:
                made = made.lstrip()  # white space at the start of a reply was not spoken
            if id in self._tokenizer.control_ids or not wanted.startswith(made):
                break
            if _between_characters(wanted, len(made)) and len(made) > whole_bytes:
                whole, whole_bytes = count, len(made)
        return decoded[:whole] + self._tokenizer.encode(wanted[whole_bytes:].decode())

    def _needed_tokens(self, turn_tokens: int) -> int:
        return turn_tokens + self._config.max_reply_tokens + CLOSING_TOKENS

    def _free_tokens(self) -> int:
        """Room for the next turn."""
        return self._lane.capacity - self._base_position()

    def _sampling(self, turn: int, attempt: int) -> Sampling:
        config = self._config
        return Sampling(
            temperature=max(config.temperature, AGAIN_TEMPERATURE) if attempt else config.temperature,
            top_k=config.top_k,
            top_p=config.top_p,
            repetition_penalty=config.repetition_penalty,
            # Where it falls on the user's words and on the marks between turns, answers lose their subject.
            penalty_from=self._reply_begin,
            forbidden=self._cut_ids,
            seed=(self._seed + turn + attempt * ATTEMPT_SEEDS) % (1 << 63),
        )

    @property
    def _reply_begin(self) -> int:
        assert self._talk.reply_begin is not None, "a reply is open"
        return self._talk.reply_begin

    def _text_of_reply(self) -> str:
        """The open reply as it stands in the state."""
        return self._tokenizer.decode(self._lane.journal[self._reply_begin :])


def _with_note(text: str, note: str) -> str:
    """A user's turn with a line before it that nobody said."""
    return f"{note}\n{text}" if note else text


def _between_characters(text: bytes, place: int) -> bool:
    """Whether no character of UTF-8 reaches across a place."""
    return place == len(text) or text[place] & 0xC0 != 0x80
