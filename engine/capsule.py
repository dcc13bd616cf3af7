"""Copies of the live state, and the way back to one: byte for byte, or refused with a reason.

A `Capsule` owns a copy of every true region up to its position. A `Mark` owns only the few regions that do not grow,
and leans on the rows of the live state: going back to it moves a number, as long as nobody has written below it since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from engine.arena import dead_tail, digests
from engine.errors import StateError
from engine.state import LaneState


@dataclass(frozen=True, eq=False)
class Capsule:
    """The state at a boundary, in buffers of its own.

    Attributes:
        fingerprint: What the state fits: weights, format and layout, in hexadecimal.
        position: Tokens in the state.
        tensors: The live rows of each true region by name; tokens of the last row beyond the position are zero.
    """

    fingerprint: str
    position: int
    tensors: Mapping[str, Tensor]
    state: LaneState
    """Where it was taken. Only the declarations of its regions are used."""

    @property
    def bytes(self) -> int:
        """What it weighs."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def region_digests(self) -> dict[str, str]:
        """Digest of each region's live bytes."""
        return digests(self.state.arena.true_regions(), self.tensors, self.position)

    def digest(self) -> str:
        """One digest of all live bytes. Equal to the lane's where the states are equal."""
        return combined(self.position, self.region_digests())


@dataclass(frozen=True, eq=False)
class Mark:
    """A boundary of a lane that leans on the lane's own rows."""

    state: LaneState
    position: int
    write: int
    """The newest write to the state when it was taken."""
    fixed: Mapping[str, Tensor]


def combined(position: int, regions: Mapping[str, str]) -> str:
    """One digest of the position and the digests of all regions."""
    told = "".join(f"{name}={digest};" for name, digest in sorted(regions.items()))
    return hashlib.blake2b(f"{position};{told}".encode(), digest_size=32).hexdigest()


def state_digests(state: LaneState) -> dict[str, str]:
    """Digest of each true region's live bytes."""
    return digests(state.arena.true_regions(), state.arena.tensors, state.position)


def take(state: LaneState, fingerprint: str, reuse: Capsule | None = None) -> Capsule:
    """Copy the live state.

    Args:
        state: What to copy.
        fingerprint: What the state fits.
        reuse: A capsule nobody needs any more. Its memory is taken over where it has the right size.
    """
    position = state.position
    tensors: dict[str, Tensor] = {}
    for region in state.arena.true_regions():
        live = state.arena.tensors[region.name][: region.live_rows(position)]
        old = reuse.tensors.get(region.name) if reuse is not None else None
        target = (
            old
            if old is not None and old.shape == live.shape and old.dtype == live.dtype
            else live.new_empty(live.shape)
        )
        target.copy_(live)
        tail = dead_tail(region, target, position)
        if tail is not None:
            # What was said after the boundary has no place in the capsule.
            tail.zero_()
        tensors[region.name] = target
    return Capsule(fingerprint, position, tensors, state)


def put_back(state: LaneState, fingerprint: str, capsule: Capsule) -> None:
    """Make the live state that of a capsule.

    Raises:
        StateError: The capsule is of another model, format or layout, or longer than the state. Nothing was changed.
    """
    if capsule.fingerprint != fingerprint:
        raise _refused("it was taken from another model or weight format", "Rebuild the state from the token journal")
    if capsule.position > state.capacity:
        raise _refused(
            f"it holds {capsule.position} tokens, and this context has room for {state.capacity}",
            "Load the engine with a larger context_tokens",
        )
    copies: list[tuple[Tensor, Tensor]] = []
    for region in state.arena.true_regions():
        source = capsule.tensors.get(region.name)
        target = state.arena.tensors[region.name][: region.live_rows(capsule.position)]
        if source is None or source.shape != target.shape or source.dtype != target.dtype:
            raise _refused(f"its region {region.name} does not fit the state's", "Take the capsule again")
        copies.append((target, source))
    state.note_written(0, capsule.position)
    for target, source in copies:
        target.copy_(source)


def mark(state: LaneState) -> Mark:
    """Remember the boundary on which the state stands. Copies the few fixed regions only."""
    fixed = {region.name: state.arena.tensors[region.name].clone() for region in state.arena.fixed_regions()}
    return Mark(state, state.position, state.writes, fixed)


def roll_back(state: LaneState, to: Mark) -> None:
    """Go back, or forward, to a boundary whose rows still lie in the state.

    Raises:
        StateError: The mark is of another lane, or rows below it were overwritten since. Nothing was changed.
    """
    if to.state is not state:
        raise _refused("the mark was taken in another lane", "Roll back the lane that made it")
    if state.newest_write(to.position) > to.write:
        raise _refused(
            f"rows below token {to.position} were overwritten after it was taken",
            "Restore a capsule, or rebuild the state from the token journal",
        )
    for name, tensor in to.fixed.items():
        state.arena.tensors[name].copy_(tensor)


def _refused(why: str, fix: str) -> StateError:
    return StateError("the state can't be put back", why, fix)
