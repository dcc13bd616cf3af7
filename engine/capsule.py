"""Copies of the live state, and the way back to one: byte for byte, or refused with a reason.

A `Capsule` owns a copy of every true region's live units, or shares them with the capsule it grew from. A `Mark` owns
only the few bytes that are always live, and leans on the rows of the live state: going back to it moves a number, as
long as nobody has written in their places since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from engine.arena import Live, Region, digest_of
from engine.copier import Copy, Pair, copy_bytes
from engine.errors import StateError
from engine.fingerprint import Fingerprint
from engine.pool import Pool
from engine.state import POSITION, LaneState

MAX_DEPTH = 8
"""Segments of a region, at most: a snapshot that would need more is made without its parent."""

REREAD = "Read its tokens again: lane.rebuild(capsule)"


@dataclass(frozen=True, eq=False)
class Segment:
    """Some units of one region.

    Attributes:
        region: Whose.
        units: Which.
        memory: uint8[len(units) * unit_bytes], the runs of the units one after the other.
    """

    region: Region
    units: range
    memory: Tensor

    @cached_property
    def pieces(self) -> list[Tensor]:
        """Views of the units, shaped as `Region.pieces` has them."""
        return self.region.packed_pieces(self.memory, self.units, self.units)


Segments = Mapping[str, tuple[Segment, ...]]
"""What a capsule holds: by the name of the region, in the order of their units."""


@dataclass(eq=False)
class Capsule:
    """The state at a boundary. What it holds never changes; it can only lose it.

    Attributes:
        fingerprint: What the state fits.
        position: Tokens in the state.
        tokens: They themselves; kept when the rest is evicted.
        seed: Of the sampler's noise; kept as well.
        lineage: The digest of all tokens.
        segments: By the name of the region, in the order of their units. They are filled once the capsule is ready.
        borrowed: Those of them that are the parent's.
        copies: What still fills segments.
    """

    fingerprint: Fingerprint
    position: int
    tokens: list[int]
    seed: int
    lineage: bytes
    segments: Segments
    borrowed: frozenset[Segment] = frozenset()
    copies: tuple[Copy, ...] = ()

    @property
    def total_bytes(self) -> int:
        """What a restore of it moves."""
        return sum(segment.memory.nbytes for chain in self.segments.values() for segment in chain)

    @property
    def bytes(self) -> int:
        """What it weighs without what is its parent's."""
        return self.total_bytes - sum(segment.memory.nbytes for segment in self.borrowed)

    @property
    def depth(self) -> int:
        """The most segments that a region has."""
        return max(map(len, self.segments.values()), default=0)

    @property
    def ready(self) -> bool:
        """Whether all is copied, so that reading it needs no waiting."""
        return all(copy.done for copy in self.copies)

    @property
    def evicted(self) -> bool:
        """Whether only the tokens are left."""
        return not self.segments

    def wait(self) -> Segments:
        """Have all of it copied; what the copier has not done yet is done here.

        Returns:
            All that it holds: who has it is not troubled if somebody evicts the capsule meanwhile.

        Raises:
            StateError: It was evicted, or a copy failed.
        """
        # In this order: it is evicted in the other one.
        copies, segments = self.copies, self.segments
        if not segments:
            raise StateError("the capsule can't be read", "it was evicted", REREAD)
        for copy in copies:
            copy.run()
            if copy.error is not None:
                raise StateError("the capsule can't be read", f"it was never filled: {copy.error!r}", REREAD)
        self.copies = ()
        return segments

    def evict(self) -> None:
        """Let go of the memory. What is shared with other capsules is free once they let go of it too."""
        for copy in self.copies:
            copy.run()
        self.segments, self.borrowed, self.copies = {}, frozenset(), ()

    def packed(self, name: str) -> Tensor:
        """A region's live units as one run of memory, uint8[bytes], in the order of `Region.runs`.

        Raises:
            StateError: The capsule was evicted or never filled.
        """
        return _packed(self.wait()[name])

    def region_digests(self) -> dict[str, str]:
        """Digest of each region's live bytes.

        Raises:
            StateError: The capsule was evicted or never filled.
        """
        return {name: digest_of([_packed(chain)]) for name, chain in self.wait().items()}

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


def take(state: LaneState, fingerprint: Fingerprint, pool: Pool, parent: Capsule | None = None) -> tuple[Capsule, Copy]:
    """Copy the few bytes that change in place, and say what else is to be copied.

    Args:
        state: What to copy.
        fingerprint: What the state fits.
        pool: Where to.
        parent: An earlier capsule of the same text, whose rows the state still has. What it holds is shared.

    Returns:
        The capsule, and the copy that has to be made before what it reads is overwritten.

    Raises:
        PoolFull: There is no room for it. Nothing was copied.
    """
    position = state.position
    if parent is not None and parent.depth >= MAX_DEPTH:
        parent = None
    # Looked at before its segments: it may be evicted meanwhile, and be waited for no more.
    older = tuple(copy for copy in parent.copies if not copy.done or copy.error) if parent else ()
    borrowed: dict[str, tuple[Segment, ...]] = {}
    wanted: list[tuple[Region, range]] = []
    for region in state.arena.true_regions():
        units = region.units(position)
        borrowed[region.name] = chain = _shared(region, units, parent)
        rest = range(chain[-1].units.stop if chain else units.start, units.stop)
        if rest:
            wanted.append((region, rest))
    chains = dict(borrowed)
    pairs: list[Pair] = []
    memories = pool.allocate_all([len(units) * region.unit_bytes for region, units in wanted])
    for (region, units), memory in zip(wanted, memories, strict=True):
        segment = Segment(region, units, memory)
        chains[region.name] += (segment,)
        copied = zip(segment.pieces, region.pieces(state.arena.tensors[region.name], units), strict=True)
        if region.live is Live.ALWAYS:
            _copy_all(copied)
        else:
            pairs += copied
    copy = Copy(pairs, position, state.lost_at(position))
    capsule = Capsule(
        fingerprint,
        position,
        state.journal(),
        state.seed,
        state.lineage,
        chains,
        frozenset(segment for chain in borrowed.values() for segment in chain),
        (*older, copy),
    )
    return capsule, copy


def plan_restore(state: LaneState, fingerprint: Fingerprint, capsule: Capsule) -> list[Pair]:
    """Everything that has to be copied so that the live state is that of a capsule, the counters last.

    Raises:
        StateError: The capsule is of another model, format or layout, longer than the state, or not whole.
    """
    segments = capsule.wait()
    if capsule.fingerprint.digest != fingerprint.digest:
        raise _refused("; ".join(fingerprint.difference(capsule.fingerprint)[:3]), REREAD)
    if capsule.position > state.capacity:
        raise _refused(
            f"it holds {capsule.position} tokens, and this context has room for {state.capacity}",
            "Load the engine with a larger context_tokens",
        )
    pairs: list[Pair] = []
    for region in _counters_last(state):
        chain = segments.get(region.name, ())
        if not _covers(chain, region, capsule.position):
            raise _refused(f"its region {region.name} is not whole", REREAD)
        for segment in chain:
            pairs += zip(region.pieces(state.arena.tensors[region.name], segment.units), segment.pieces, strict=True)
    if int(pairs[-1][1][POSITION]) != capsule.position:
        raise _refused("its counters tell another position", REREAD)
    return pairs


def plan_fork(target: LaneState, source: LaneState) -> list[Pair]:
    """Everything that has to be copied so that one live state is as another, the counters last."""
    pairs: list[Pair] = []
    for region in _counters_last(source):
        units = region.units(source.position)
        ours, theirs = (state.arena.tensors[region.name] for state in (target, source))
        pairs += zip(region.pieces(ours, units), region.pieces(theirs, units), strict=True)
    return pairs


def mark(state: LaneState) -> Mark:
    """Remember the boundary on which the state stands. Copies the few bytes only that change in place."""
    fixed = {
        region.name: state.arena.tensors[region.name].clone()
        for region in _counters_last(state)
        if region.live is Live.ALWAYS
    }
    return Mark(state, state.position, state.writes, fixed)


def plan_rollback(state: LaneState, to: Mark) -> list[Pair]:
    """Everything that has to be copied to go back, or forward, to a boundary of the same state, the counters last.

    Raises:
        StateError: The mark is of another lane, or rows it leans on were overwritten since.
    """
    if to.state is not state:
        raise _refused("the mark was taken in another lane", "Roll back the lane that made it")
    if not state.stands(to.position, to.write):
        raise _refused(
            f"rows that the state at token {to.position} needs were overwritten after the mark was taken",
            "Restore a capsule, or read the tokens again",
        )
    return [(state.arena.tensors[name], tensor) for name, tensor in to.fixed.items()]


def _shared(region: Region, units: range, parent: Capsule | None) -> tuple[Segment, ...]:
    """What of a region's units a parent has, if it has them from the first on."""
    if parent is None or region.live is Live.ALWAYS:
        return ()
    held = region.units(parent.position)
    return parent.segments.get(region.name, ()) if held.start == units.start and held.stop <= units.stop else ()


def _covers(chain: tuple[Segment, ...], region: Region, position: int) -> bool:
    """Whether segments hold all units that are live at a position, in the form of this region."""
    units = region.units(position)
    if not chain:
        return not units
    whole = (chain[0].units.start, chain[-1].units.stop) == (units.start, units.stop)
    joined = all(before.units.stop == after.units.start for before, after in pairwise(chain))
    return whole and joined and all(_fits(segment, region) for segment in chain)


def _fits(segment: Segment, region: Region) -> bool:
    """Whether memory is of a region. One that grows may have been longer, or shorter."""
    theirs = segment.region
    if region.live is Live.PREFIX:
        theirs = theirs._replace(shape=(region.shape[0], *theirs.shape[1:]))
    return theirs == region and segment.memory.nbytes == len(segment.units) * region.unit_bytes


def _counters_last(state: LaneState) -> list[Region]:
    return sorted(state.arena.true_regions(), key=lambda region: region.name == "counters")


def merged(chain: tuple[Segment, ...], memory: Tensor) -> Segment:
    """Neighbouring segments as one.

    Args:
        chain: One at least, all of them filled.
        memory: uint8[bytes of the chain].
    """
    # The last one was taken where there was room for all units. One before it may be of a shorter context.
    region, units = chain[-1].region, range(chain[0].units.start, chain[-1].units.stop)
    for segment in chain:
        _copy_all(zip(region.packed_pieces(memory, units, segment.units), segment.pieces, strict=True))
    return Segment(region, units, memory)


def _packed(chain: tuple[Segment, ...]) -> Tensor:
    """The bytes of a chain in one run."""
    if len(chain) == 1:
        return chain[0].memory
    memory = torch.empty(sum(segment.memory.nbytes for segment in chain), dtype=torch.uint8)
    return merged(chain, memory).memory if chain else memory


def _copy_all(pairs: Iterable[Pair]) -> None:
    for target, source in pairs:
        copy_bytes(target, source)


def _refused(why: str, fix: str) -> StateError:
    return StateError("the state can't be put back", why, fix)
