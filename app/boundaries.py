"""The places that the model's state can be put back to, and the ways there.

The way back to a boundary is a mark, which costs nothing. Where the rows that it leans on are gone, it is the longest
capsule of the same text, and what that lacks is read again. What a boundary knows of the conversation is a value, so it
stays true when the conversation has gone on another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from weakref import ref

from app.ports import BoundaryMark
from engine.capsule import Capsule, Mark
from engine.chat import Example
from engine.errors import PoolFull, StateError
from engine.lane import Lane
from engine.store import Store

_PREFIX = "boundary-"

Held = Callable[[], Capsule | None]
"""A capsule that somebody else keeps, as long as he does."""


class Talk(NamedTuple):
    """The conversation as it stands in the model's state."""

    turns: tuple[Example, ...] = ()
    """Whole turns, those of example not counted."""
    user: str = ""
    """What the user said in the turn that is open."""
    reply_begin: int | None = None
    """Where the open reply begins in the journal; None between turns."""


class Boundary(NamedTuple):
    """A place the state can be put back to."""

    mark: Mark
    tokens: list[int]
    """The text up to it, by which a capsule of it is found."""
    talk: Talk
    capsule: Held
    """The newest one of this text: what follows it shares its rows."""


class Boundaries:
    """The boundaries of one lane, by handle."""

    def __init__(self, lane: Lane, store: Store) -> None:
        self._lane = lane
        self._store = store
        self._newest: Held = _nothing
        """Of the text in the lane."""
        self._known: dict[int, Boundary] = {}
        self._taken = 0

    def __getitem__(self, handle: int) -> Boundary:
        return self._known[handle]

    def commit(self, talk: Talk, name: str | None = None) -> BoundaryMark:
        """Take a boundary where the state stands, with a capsule that is evicted only after the next one was taken.

        Args:
            talk: The conversation there.
            name: Of the capsule in the store, which then is never evicted and shares nothing with an older one; None
                for a name that goes with the handle.
        """
        try:
            capsule = self._lane.snapshot() if name else self._snapshot()
        except PoolFull:
            # The text is enough to come back.
            return self.take(talk)
        self._newest = ref(capsule)
        mark = self.take(talk, capsule_bytes=capsule.bytes)
        for known in self._store.names:
            if known.startswith(_PREFIX):
                self._store.unpin(known)
        self._store.put(name or _name(mark.handle), capsule, pinned=True)
        return mark

    def take(self, talk: Talk, mark: Mark | None = None, capsule_bytes: int = 0) -> BoundaryMark:
        """Take a boundary at a mark of the text in the lane; None for where the state stands."""
        self._taken += 1
        boundary = self.here(talk, mark)
        self._known[self._taken] = boundary
        return BoundaryMark(boundary.mark.position, capsule_bytes, self._taken)

    def here(self, talk: Talk, mark: Mark | None = None) -> Boundary:
        """What `take` would take, without keeping it."""
        mark = mark or self._lane.mark()
        return Boundary(mark, self._lane.journal[: mark.position], talk, self._newest)

    def forget(self, handles: Sequence[int]) -> None:
        """Drop boundaries and their capsules. Those of them that are not there are none the worse for it."""
        for handle in handles:
            self._known.pop(handle, None)
            self._store.drop(_name(handle))

    def forget_all(self) -> None:
        """Drop all boundaries, those that an earlier conversation left in the store as well."""
        self._known.clear()
        for name in self._store.names:
            if name.startswith(_PREFIX):
                self._store.drop(name)

    async def put_back(self, boundary: Boundary) -> int:
        """Make the state that of a boundary, and tell how many tokens had to be read again for it."""
        try:
            self._lane.roll_back(boundary.mark)
        except StateError:
            return await self.restore(boundary.tokens)
        self._newest = boundary.capsule
        return 0

    async def restore(self, tokens: list[int]) -> int:
        """Make the state that of a text, and tell how many tokens had to be read for it.

        It comes from the longest capsule of the text, if there is one, and what that lacks is read.
        """
        found = self._store.longest_match(tokens)
        self._newest = _nothing
        if found is None:
            self._lane.clear()
        else:
            try:
                self._lane.restore(found.capsule)
                self._newest = ref(found.capsule)
            except StateError:
                # It was never filled, or copying it back failed half way. The text is enough.
                self._lane.clear()
        missing = tokens[self._lane.position :]
        await self._lane.append(missing)
        return len(missing)

    def _snapshot(self) -> Capsule:
        try:
            return self._lane.snapshot(parent=self._newest())
        except StateError:
            # It was evicted, or never filled.
            return self._lane.snapshot()


def _nothing() -> None:
    """No capsule is held."""


def _name(handle: int) -> str:
    """Of a boundary's capsule in the store."""
    return f"{_PREFIX}{handle}"
