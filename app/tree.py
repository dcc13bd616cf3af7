"""The conversation as a tree of boundaries. Pure: each change returns a new tree.

    A0 ── U1 ── A1 ── U2 ── W1 ── W2      live: the line that ends at the tip
     │     └─── A1                        abandoned: another answer was asked for
     └─── U1 ── A1                        abandoned: the exchange was taken back

A boundary is where the model's state can be put back to: A after the agent's turn as heard, U after the user's turn, W
after each clause of a reply. Going back is a move of the tip. What it leaves behind is abandoned, and can be taken up
again at any A. W matters only while its reply is live, and U only with an answer to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from app.ports import BoundaryMark

Kind = Literal["A", "U", "W"]

# How many committed turns can be gone back to, and how many abandoned ends can be taken up. Their capsules share rows
# with the live state, so this bounds bookkeeping.
KEPT_TURNS = 64
KEPT_LEAVES = 32


@dataclass(frozen=True, slots=True)
class Boundary:
    """A node of the tree."""

    serial: int
    """Unique in the session."""
    kind: Kind
    number: int
    """The turn for A and U, the count of whole clauses for W."""
    parent: int | None
    """Serial of the boundary before it, which may be forgotten by now; None for the first."""
    turn: int
    """The turn it belongs to."""
    position: int
    """Tokens in the model's state."""
    handle: int
    """Names the capsule to the brain."""
    text: str = ""
    """The user's turn (U), the clause (W), what the state keeps of the agent's turn (A)."""
    cut_after: str = ""
    """The last words heard of a reply that was cut off (A)."""

    @property
    def name(self) -> str:
        """A1, U2, W3."""
        return f"{self.kind}{self.number}"


@dataclass(frozen=True, slots=True)
class Tree:
    """All boundaries that stand, oldest first."""

    nodes: tuple[Boundary, ...] = ()
    at: int = -1
    """Serial of the tip."""
    taken: int = 0
    """How many were ever taken."""

    def take(self, kind: Kind, number: int, turn: int, mark: BoundaryMark, text: str = "", cut_after: str = "") -> Tree:
        """Add a boundary after the tip, and go there. An A follows the user's turn, not a clause."""
        parent = next((b.serial for b in reversed(self.live) if kind == "W" or b.kind != "W"), None)
        new = Boundary(self.taken, kind, number, parent, turn, mark.position, mark.handle, text, cut_after)
        return Tree((*self.nodes, new), new.serial, self.taken + 1)

    @property
    def live(self) -> tuple[Boundary, ...]:
        """The line that ends at the tip, oldest first."""
        known = {b.serial: b for b in self.nodes}
        line: list[Boundary] = []
        at: int | None = self.at
        while at is not None and (boundary := known.get(at)):
            line.append(boundary)
            at = boundary.parent
        return tuple(reversed(line))

    @property
    def tip(self) -> Boundary:
        """Where the state stands."""
        return next(b for b in reversed(self.nodes) if b.serial == self.at)

    def base(self) -> Boundary:
        """The newest live A: where the next turn starts, and where a turn nobody heard an answer to goes back to."""
        return next(b for b in reversed(self.live) if b.kind == "A")

    def before(self, turn: int) -> Boundary | None:
        """The live A before a turn; None if it is forgotten."""
        return next((b for b in reversed(self.live) if b.kind == "A" and b.turn < turn), None)

    def asked(self, turn: int) -> Boundary | None:
        """The live U of a turn; None if it is forgotten or was never read."""
        return next((b for b in reversed(self.live) if b.kind == "U" and b.turn == turn), None)

    def agent(self, serial: int) -> Boundary | None:
        """The A of a serial number, live or abandoned; None if it is forgotten or another kind."""
        return next((b for b in self.nodes if b.kind == "A" and b.serial == serial), None)

    def clauses(self) -> tuple[Boundary, ...]:
        """The user's turn that is being answered, and the boundaries after each clause of the answer."""
        line = self.live
        begin = next(at for at in range(len(line) - 1, -1, -1) if line[at].kind == "U")
        return line[begin:]

    def move(self, boundary: Boundary) -> tuple[Tree, list[int]]:
        """Make a boundary the tip.

        Returns:
            The tree, and the handles that are no longer needed.
        """
        return replace(self, at=boundary.serial).prune()

    def prune(self) -> tuple[Tree, list[int]]:
        """Forget what nobody can go back to any more.

        That is clauses of replies that are over, questions without an answer that were left behind, turns too old, and
        the oldest abandoned ends.

        Returns:
            The tree, and the handles that are no longer needed.
        """
        live = self.live
        ends = [at for at, b in enumerate(live) if b.kind == "A"]
        oldest = ends[-KEPT_TURNS] if len(ends) >= KEPT_TURNS else 0
        kept = {b.serial for b in live[oldest:]}
        forgotten = {b.serial for b in live[:oldest]}
        left = [b for b in self.nodes if b.kind == "A" and b.serial not in kept | forgotten]
        inner = _above(left, self.nodes)
        for leaf in [b for b in left if b.serial not in inner][-KEPT_LEAVES:]:
            kept |= {leaf.serial, *_above([leaf], self.nodes)} - forgotten
        nodes = tuple(b for b in self.nodes if b.serial in kept)
        return replace(self, nodes=nodes), [b.handle for b in self.nodes if b.serial not in kept]

    def digest(self) -> str:
        """SHA-256 of all answered turns, live and abandoned: what was said, and what follows what."""
        ends = [b for b in self.nodes if b.kind == "A"]
        counted = {b.serial for b in ends} | _above(ends, self.nodes)
        nodes = [b for b in self.nodes if b.serial in counted]
        places = {b.serial: place for place, b in enumerate(nodes)}
        live = {b.serial for b in self.live}
        told = [
            (b.kind, b.number, None if b.parent is None else places.get(b.parent), b.turn, b.text, b.serial in live)
            for b in nodes
        ]
        return hashlib.sha256(msgspec.json.encode(told)).hexdigest()


def _above(boundaries: Iterable[Boundary], nodes: Iterable[Boundary]) -> set[int]:
    """Serial numbers of all boundaries before these, as far as they stand."""
    parents = {b.serial: b.parent for b in nodes}
    found: set[int] = set()
    for boundary in boundaries:
        at = boundary.parent
        while at is not None and at in parents and at not in found:
            found.add(at)
            at = parents[at]
    return found
