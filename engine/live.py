"""A live state and what must not be forgotten about it: who still reads it, where it was, and its text if it is lost.

What would change a place that a pending copy still reads has that copy finished first. What overwrites the whole state
is a transaction: all is checked, then the state counts as lost, then bytes are copied, then it lives. A state that is
lost half way keeps the text it had, and is made again from that.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from engine import capsule as capsules
from engine.capsule import Capsule, Mark
from engine.copier import Copy, Pair, copy_bytes
from engine.errors import LaneDead, StateError
from engine.fingerprint import Fingerprint
from engine.pool import Pool
from engine.state import LaneState

_REVIVE = "Append or generate, and it is read again from its tokens; or restore a capsule"


_epochs = itertools.count()
"""One after the other, also where several threads ask at once."""


class Text(NamedTuple):
    """What a state can be made again from."""

    tokens: list[int]
    seed: int


class _Visit(NamedTuple):
    """When the state was that of a capsule."""

    position: int
    writes: int


class LiveSet:
    """One live state. Whoever uses it holds the engine's lock.

    Attributes:
        state: The buffers. Of no meaning while `lost` is set.
        lost: The text that the state has to be made of again; None as long as it lives.
        epoch: Another number whenever the state was moved by something else than a step.
    """

    def __init__(self, state: LaneState) -> None:
        self.state = state
        self.lost: Text | None = None
        self.epoch = next(_epochs)
        self._copies: WeakSet[Copy] = WeakSet()
        """Those that may still read the state."""
        self._visits: WeakKeyDictionary[Capsule, _Visit] = WeakKeyDictionary()

    @property
    def position(self) -> int:
        """Tokens in the state, or in the text that was lost."""
        return len(self.lost.tokens) if self.lost else self.state.position

    @property
    def seed(self) -> int:
        """Seed of the sampler's noise."""
        return self.lost.seed if self.lost else self.state.seed

    @seed.setter
    def seed(self, seed: int) -> None:
        self.state.seed = seed
        if self.lost is not None:
            self.lost = self.lost._replace(seed=seed)

    @property
    def text(self) -> Text:
        """What the state holds, or held."""
        return self.lost or Text(self.state.journal(), self.state.seed)

    def require(self) -> None:
        """Refuse what needs a state that lives.

        Raises:
            LaneDead: It is lost.
        """
        if self.lost is not None:
            raise LaneDead("the lane can't be used so", "a restore failed and its state is lost", _REVIVE)

    def finish_copies(self, first: int = -1, end: int = 0) -> None:
        """Have copies made that read what writing the tokens [first, end) overwrites; all of them by default."""
        for copy in list(self._copies):
            if copy.in_the_way_of(first, end):
                copy.run()
            if copy.done:
                self._copies.discard(copy)

    def snapshot(self, fingerprint: Fingerprint, pool: Pool, parent: Capsule | None) -> tuple[Capsule, Copy]:
        """As `capsule.take`.

        Raises:
            PoolFull: There is no room for it. Nothing was copied.
            StateError: The state did not grow from the parent's, or the parent was evicted or never filled.
        """
        if parent is not None:
            self._check_parent(parent)
        capsule, copy = capsules.take(self.state, fingerprint, pool, parent)
        self._visits[capsule] = _Visit(capsule.position, self.state.writes)
        self._copies.add(copy)
        return capsule, copy

    def restore(self, fingerprint: Fingerprint, capsule: Capsule) -> None:
        """Make the state that of a capsule.

        Raises:
            StateError: As `capsule.plan_restore`. The state is untouched.
            LaneDead: A copy failed half way.
        """
        self._overwrite(capsules.plan_restore(self.state, fingerprint, capsule))
        self._visits[capsule] = _Visit(capsule.position, self.state.writes)

    def become(self, other: LiveSet) -> None:
        """Make the state that of another, and know the capsules that the other knows.

        Raises:
            LaneDead: A copy failed half way.
        """
        self._overwrite(capsules.plan_fork(self.state, other.state))
        for capsule, visit in other._visits.items():
            if other.state.unwritten(*visit):
                self._visits[capsule] = _Visit(visit.position, self.state.writes)

    def roll_back(self, to: Mark) -> None:
        """Go back, or forward, to a mark.

        Raises:
            StateError: As `capsule.plan_rollback`. The state is untouched.
            LaneDead: A copy failed half way.
        """
        pairs = capsules.plan_rollback(self.state, to)
        self.move()
        try:
            self._copy(pairs)
        except BaseException:
            # The counters are copied last, and tell a text whose rows are all there.
            self.lost = self.text
            raise

    def clear(self) -> None:
        """Forget everything but the seed."""
        self.finish_copies()
        self.lost = Text([], self.seed)
        self.move()
        self.state.rewind()
        self.state.seed, self.lost = self.lost.seed, None

    def move(self) -> int:
        """Begin a new epoch: whatever was asked for before does nothing. May be called without the lock."""
        self.epoch = epoch = next(_epochs)
        return epoch

    def end(self, epoch: int) -> None:
        """What was asked for in an epoch does nothing more. Not an error if that has passed."""
        if self.epoch == epoch:
            self.move()

    def _overwrite(self, pairs: Sequence[Pair]) -> None:
        self.finish_copies()
        self.lost = self.text
        self.move()
        self.state.note_written(0, self.state.capacity)
        self._copy(pairs)
        self.lost = None

    def _copy(self, pairs: Sequence[Pair]) -> None:
        try:
            for target, source in pairs:
                copy_bytes(target, source)
        except Exception as error:
            raise LaneDead("the state can't be put back", f"copying it failed: {error}", _REVIVE) from error

    def _check_parent(self, parent: Capsule) -> None:
        visit = self._visits.get(parent)
        if parent.evicted:
            why = "its parent was evicted"
        elif any(copy.error for copy in parent.copies):
            why = "its parent was never filled"
        elif visit is None:
            why = "this lane never was where its parent is"
        elif visit.position > self.state.position or not self.state.unwritten(*visit):
            why = f"this lane's {self.state.position} tokens did not grow from its parent's {visit.position}"
        else:
            return
        raise StateError("the capsule can't share another's memory", why, "Take it without a parent")
