"""A brain without a model, for virtual time: its state is a list of pieces, and it says what it was told to say.

The state can be read back as the turns it holds, so that a test can compare it with what was heard.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from enum import Enum
from typing import NamedTuple

from app.errors import BacktalkError
from app.language import load, words_of
from app.ports import BoundaryMark, ReadAhead, RollbackReport
from app.replay.paces import Jitter, Times

CUT = "—"
_PIECE = re.compile(r"\s*\S{1,5}|\s+$")
_AGAIN = "Put differently: "
# Natural log of the probability that a user's turn ends where it may, and after a word that asks for another.
_ENDS, _GOES_ON = -0.1, -6.0


class _Mark(Enum):
    """What stands between the texts of a state."""

    PERSONA = "persona"
    USER = "user"
    NOTE = "note"
    AGENT = "agent"
    END = "end"


class Said(NamedTuple):
    """A turn as it stands in the model's state."""

    role: str
    """user, note or agent."""
    text: str


class ScriptedBrain:
    """Satisfies `app.ports.Brain` with a list of pieces for a state.

    Args:
        times: How long reading and decoding take.
        jitter: How irregularly, and how often it fails.
        replies: The answers to turn n are the n-th, or the last: the first one, and the others when asked for another.
        context_pieces: Room for pieces; when it runs short only the newest turns are kept.
    """

    def __init__(
        self, times: Times, jitter: Jitter, replies: Sequence[Sequence[str]], context_pieces: int = 100_000
    ) -> None:
        assert replies, "a scripted model needs its replies"
        self._times, self._jitter = times, jitter
        self._replies = replies
        self._context_pieces = context_pieces
        self._english = load("en")
        self._state: list[str | _Mark] = []
        self._ahead: list[str | _Mark] = []
        """What was read of a turn that may not be over. Stands behind the state, and is no part of it."""
        self._pending: str | None = None
        self._decoding = self._moving = False
        self._asked_again: dict[int, int] = {}
        """Turn to how many other answers were asked for."""
        self._boundaries: dict[int, tuple[str | _Mark, ...]] = {}
        self._taken = 0

    @property
    def said(self) -> list[Said]:
        """The turns in the state."""
        found: list[Said] = []
        for piece in self._state:
            if isinstance(piece, _Mark):
                found.append(Said(piece.value, ""))
            else:
                found[-1] = Said(found[-1].role, found[-1].text + piece)
        return [one for one in found if one.role not in ("persona", "end")]

    @property
    def live_boundaries(self) -> int:
        """Boundaries that were not forgotten."""
        return len(self._boundaries)

    async def open(self) -> BoundaryMark:
        """The persona is one piece."""
        self._state = [_Mark.PERSONA]
        return self._take()

    async def read_ahead(self, text: str, note: str = "") -> ReadAhead:
        """Read what is not yet read of a turn that may go on."""
        self._assert_between_turns()
        turn = _user_turn(text, note)
        if len(self._state) + len(turn) > self._context_pieces:
            return ReadAhead(0, None)
        unread = turn[self._shared(turn) :]
        self._moving = True
        await self._jitter.take(self._times.read_word * len(unread))
        self._moving = False
        self._ahead = turn
        return ReadAhead(len(unread), _GOES_ON if self._english.ends_dangling(words_of(text)) else _ENDS)

    async def read_user(self, text: str, note: str = "") -> BoundaryMark:
        """Append the user's turn."""
        self._assert_between_turns()
        turn = _user_turn(text, note)
        unread = turn[self._shared(turn) :]
        await self._move(self._times.read_word * len(unread))
        if self._jitter.happens(self._jitter.faults.unread):
            self._moving = False
            raise BacktalkError("that can't be answered", "the scripted model was told not to read it", "say it again")
        self._state += [*turn, _Mark.AGENT]
        return self._end_move()

    async def read_line(self, text: str) -> None:
        """Append to the open reply."""
        self._assert_open()
        pieces = _PIECE.findall(text)
        assert "".join(pieces) == text, "pieces joined are the text"
        await self._move(self._times.read_word * len(pieces))
        self._state += pieces
        self._moving = False

    async def reply(self, turn: int, *, again: bool = False) -> AsyncGenerator[str, None]:
        """Decode the scripted reply piece by piece; of one that was begun, the rest."""
        self._assert_open()
        self._ahead = []
        self._decoding = True
        wait_s = self._times.first_token
        pieces = _PIECE.findall(self._answer(turn, again=again))
        breaks_at = len(pieces) // 2 if self._jitter.happens(self._jitter.faults.failing) else None
        try:
            for number, piece in enumerate(pieces):
                await self._jitter.take(wait_s)
                if number == breaks_at:
                    raise BacktalkError("the reply broke off", "the scripted model was told so", "ask again")
                wait_s = self._times.token
                self._feed_pending()
                self._pending = piece
                yield piece
            await self._jitter.take(wait_s)
            self._feed_pending()
        finally:
            self._decoding = False
            self._pending = None

    async def mark_clause(self) -> BoundaryMark:
        """The boundary before the newest piece."""
        assert self._is_open, "clauses are of a reply"
        return self._take()

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Restore, and feed what was heard."""
        fed = _PIECE.findall(heard)
        assert "".join(fed) == heard, "pieces joined are the text"
        await self._move(self._times.rollback + self._times.read_word * len(fed))
        self._state = [*self._boundaries[handle], *fed]
        assert self._is_open or not (cut or fed), "only a reply is cut, and only a reply was heard"
        if cut:
            self._state += [CUT, _Mark.END]
        return RollbackReport(len(fed) + cut, round(self._times.rollback * 1e6, 3), self._end_move())

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn."""
        self._assert_open()
        await self._move(0.0)
        self._state.append(_Mark.END)
        return self._end_move()

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries that are there."""
        for handle in handles:
            del self._boundaries[handle]

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """Keep the newest two turns if less than a quarter of the context is free."""
        self._assert_between_turns()
        if len(self._state) + len(_PIECE.findall(text)) < self._context_pieces * 3 / 4:
            return None
        starts = [place for place, piece in enumerate(self._state) if piece is _Mark.USER]
        if not starts:
            return None
        begin = starts[-2] if len(starts) > 1 else starts[-1]
        if self._state[begin - 2] is _Mark.NOTE:
            begin -= 2
        self._state = [self._state[0], *self._state[begin:]]
        self._ahead = []
        self._boundaries.clear()
        return min(2, len(starts)), self._take()

    def _answer(self, turn: int, *, again: bool) -> str:
        begun = self._text_of_reply()
        if begun:
            return self._rest_after(begun)
        answers = self._replies[min(turn, len(self._replies)) - 1]
        if again:
            self._asked_again[turn] = self._asked_again.get(turn, 0) + 1
        nth = self._asked_again.get(turn, 0) if again else 0
        if nth < len(answers):
            return answers[nth].strip()
        return (_AGAIN * (nth - len(answers) + 1) + answers[-1]).strip()

    def _rest_after(self, begun: str) -> str:
        """What follows these words in the first answer that has them; nothing if none has."""
        answers = (answer.strip() for answers in self._replies for answer in answers)
        return next((answer.partition(begun)[2] for answer in answers if begun in answer), "")

    def _text_of_reply(self) -> str:
        at = max(place for place, piece in enumerate(self._state) if piece is _Mark.AGENT)
        return "".join(piece for piece in self._state[at + 1 :] if isinstance(piece, str)).strip()

    @property
    def _is_open(self) -> bool:
        """Whether a reply is open."""
        marks = (piece for piece in reversed(self._state) if isinstance(piece, _Mark))
        return next(marks) is _Mark.AGENT

    def _assert_open(self) -> None:
        self._assert_still()
        assert self._is_open, "it belongs to an open reply"

    def _assert_between_turns(self) -> None:
        self._assert_still()
        assert not self._is_open, "a turn begins after a closed one"

    def _assert_still(self) -> None:
        assert not self._decoding, "one caller at a time moves the state"
        assert not self._moving, "one caller at a time moves the state"

    def _shared(self, turn: Sequence[str | _Mark]) -> int:
        """How many pieces of a turn were read ahead."""
        pairs = zip(turn, self._ahead, strict=False)
        return next((at for at, (piece, read) in enumerate(pairs) if piece != read), min(len(turn), len(self._ahead)))

    def _feed_pending(self) -> None:
        if self._pending is not None:
            self._state.append(self._pending)
            self._pending = None

    async def _move(self, seconds: float) -> None:
        """Begin to change the state, which drops what was read ahead, and let the time of it pass."""
        self._assert_still()
        self._moving = True
        self._ahead = []
        await self._jitter.take(seconds)

    def _end_move(self) -> BoundaryMark:
        self._moving = False
        return self._take()

    def _take(self) -> BoundaryMark:
        self._taken += 1
        self._boundaries[self._taken] = tuple(self._state)
        return BoundaryMark(len(self._state), 0, self._taken)


def _user_turn(text: str, note: str) -> list[str | _Mark]:
    noted = [_Mark.NOTE, note] if note else []
    return [*noted, _Mark.USER, *_PIECE.findall(text)]
