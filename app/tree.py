"""The conversation as a tree of boundaries. Pure: each change returns a new tree.

    A0 ── U1 ── W1 ── W2 ── A1 ── U2 ── W1 …
    └ the persona          └ what was heard of reply 1

A boundary is where the model's state can be put back to: A after the agent's turn as heard, U after the user's turn, W
after each clause of a reply. `W` boundaries matter only while their reply is live. What a rollback leaves behind is
abandoned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["A", "U", "W"]

# How many committed turns can be gone back to. Their capsules share rows with the live state, so this bounds
# bookkeeping.
KEPT_TURNS = 64


@dataclass(frozen=True, slots=True)
class Boundary:
    """A node of the tree.

    Attributes:
        serial: Unique in the session.
        kind: A, U or W.
        number: The turn for A and U, the count of whole clauses for W.
        parent: Serial of the boundary before it; None for the first.
        turn: The turn it belongs to.
        position: Tokens in the model's state.
        handle: Names the capsule to the brain.
    """

    serial: int
    kind: Kind
    number: int
    parent: int | None
    turn: int
    position: int
    handle: int

    @property
    def name(self) -> str:
        """A1, U2, W3."""
        return f"{self.kind}{self.number}"


@dataclass(frozen=True, slots=True)
class Tree:
    """The live line of boundaries, oldest first, and how many were ever taken."""

    live: tuple[Boundary, ...] = ()
    taken: int = 0

    def take(self, kind: Kind, number: int, turn: int, position: int, handle: int) -> Tree:
        """Add a boundary at the end of the live line."""
        parent = self.live[-1].serial if self.live else None
        boundary = Boundary(self.taken, kind, number, parent, turn, position, handle)
        return replace(self, live=(*self.live, boundary), taken=self.taken + 1)

    @property
    def tip(self) -> Boundary:
        """The newest live boundary."""
        return self.live[-1]

    def base(self) -> Boundary:
        """The newest A: where the next turn starts, and where a turn nobody heard an answer to goes back to."""
        return next(b for b in reversed(self.live) if b.kind == "A")

    def heard(self, turn: int, clauses: int) -> Boundary:
        """The boundary after `clauses` whole clauses of the reply to `turn`; U if there are none."""
        wanted = ("W", clauses) if clauses else ("U", turn)
        return next(b for b in reversed(self.live) if b.turn == turn and (b.kind, b.number) == wanted)

    def has_read(self, turn: int) -> bool:
        """Whether the user's turn is in the state."""
        return any(b.kind == "U" and b.turn == turn for b in self.live)

    def back_to(self, boundary: Boundary) -> tuple[Tree, list[int]]:
        """Abandon all after `boundary`.

        Returns:
            The tree, and the handles that are no longer needed.
        """
        keep = self.live.index(boundary) + 1
        return replace(self, live=self.live[:keep]), [b.handle for b in self.live[keep:]]

    def prune(self) -> tuple[Tree, list[int]]:
        """After a commit: drop the inner boundaries of committed turns, and turns too old to go back to.

        The first boundary (the persona) always stays.

        Returns:
            The tree, and the handles that are no longer needed.
        """
        committed = [b for b in self.live if b.kind == "A"]
        kept = {committed[0].serial, *(b.serial for b in committed[-KEPT_TURNS:])}
        live = tuple(b for b in self.live if b.serial in kept)
        return replace(self, live=live), [b.handle for b in self.live if b.serial not in kept]
