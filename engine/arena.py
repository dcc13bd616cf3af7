"""Buffers that survive a step, declared once. Everything that must know them all asks here.

What a region holds is numbered in *units*: a token's row, the state at the start of a chunk of tokens, or one unit that
is always there. A unit is written once and then stands until its place is needed for another: in a region that grows
that is never, in a ring when `slots` units more were written. So what is live at a position is a run of units, and what
a delta has to carry are those that its parent lacks.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK_TOKENS = 64
"""Tokens of a block of the KV cache, and of a chunk of the recurrence. Both lie at multiples of it."""


class Live(Enum):
    """How a region's live units follow from the position P."""

    ALWAYS = "always"
    """Unit 0."""
    PREFIX = "prefix"
    """One unit a token: [0, P)."""
    WINDOW = "window"
    """One unit a token: the last `window` of [0, P)."""
    CHUNK = "chunk"
    """One unit a token: those of the chunk that P lies in."""
    BASE = "base"
    """One unit a chunk, the state at its start: that of the chunk that P lies in."""


class Region(NamedTuple):
    """One buffer of the state."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    live: Live
    row_units: int = 1
    """Units in a row of the first dimension."""
    unit_axis: int = 0
    """Where `row_units` > 1: the dimension of a row that counts them."""
    window: int = 0
    derived: bool = False
    """It can be computed from the others, so a capsule leaves it out."""

    def units(self, position: int) -> range:
        """The units that are live at a position."""
        match self.live:
            case Live.ALWAYS:
                return range(1)
            case Live.PREFIX:
                return range(position)
            case Live.WINDOW:
                return range(max(0, position - self.window), position)
            case Live.CHUNK:
                return range(position - position % CHUNK_TOKENS, position)
            case Live.BASE:
                return range(position // CHUNK_TOKENS, position // CHUNK_TOKENS + 1)

    @property
    def slots(self) -> int:
        """Units that have a place at the same time."""
        return self.shape[0] * self.row_units

    @property
    def unit_bytes(self) -> int:
        """Size of a unit. An ALWAYS region is one unit."""
        size = math.prod(self.shape) * self.dtype.itemsize
        return size if self.live is Live.ALWAYS else size // self.slots

    @property
    def bytes(self) -> int:
        """Size of the whole buffer."""
        return math.prod(self.shape) * self.dtype.itemsize

    def live_bytes(self, position: int) -> int:
        """Size of the live units."""
        return len(self.units(position)) * self.unit_bytes

    def lost_at(self, position: int, capacity_tokens: int) -> int:
        """The first token whose writing takes the place of a unit that is live at a position; the capacity if none."""
        first = self.units(position).start
        match self.live:
            case Live.WINDOW | Live.CHUNK:
                return min(capacity_tokens, first + self.slots)
            case Live.BASE:
                # The state at the start of a chunk is written with the last token of the chunk before it.
                return min(capacity_tokens, (first + self.slots) * CHUNK_TOKENS - 1)
            case _:
                return capacity_tokens

    def runs(self, units: range) -> list[range]:
        """Some units, cut into parts of rows, and runs of whole rows between them. They tell how the units are packed.

        Args:
            units: Which; no more than have a place.
        """
        if self.live is Live.ALWAYS:
            return [units]
        found: list[range] = []
        unit = units.start
        while unit < units.stop:
            row, offset = divmod(unit % self.slots, self.row_units)
            left = units.stop - unit
            if offset or left < self.row_units:
                count = min(self.row_units - offset, left)
            else:
                count = min(left // self.row_units, self.shape[0] - row) * self.row_units
            found.append(range(unit, unit + count))
            unit += count
        return found

    def pieces(self, tensor: Tensor, units: range) -> list[Tensor]:
        """Views of some units, one for each of their runs.

        Args:
            tensor: Memory of the region's shape.
            units: Which; no more than have a place.
        """
        return [self._piece(tensor, run.start % self.slots, len(run)) for run in self.runs(units)]

    def packed_pieces(self, memory: Tensor, held: range, units: range) -> list[Tensor]:
        """Views of some units in memory that holds runs of them one after the other, shaped as `pieces` has them.

        Args:
            memory: uint8[len(held) * unit_bytes].
            held: What lies in it.
            units: Which are wanted, all of them held.
        """
        found: list[Tensor] = []
        wanted, taken = self.runs(units), 0
        for run in self.runs(held):
            size = len(run) * self.unit_bytes
            packed = memory[taken : taken + size].view(self.dtype).view(self._run_shape(run))
            taken += size
            for part in wanted:
                if part and part.start in run:
                    first = part.start - run.start
                    whole = packed.dim() == len(self.shape)
                    found.append(
                        self._piece(packed, first, len(part))
                        if whole
                        else packed.narrow(self.unit_axis, first, len(part))
                    )
        return found

    def _run_shape(self, run: range) -> tuple[int, ...]:
        """Of one run: whole rows, or a part of a row without the dimension of rows."""
        if self.live is Live.ALWAYS:
            return self.shape
        if len(run) % self.row_units == 0:
            return (len(run) // self.row_units, *self.shape[1:])
        row = list(self.shape[1:])
        row[self.unit_axis] = len(run)
        return tuple(row)

    def _piece(self, tensor: Tensor, place: int, count: int) -> Tensor:
        """A run of units from a place in a tensor of rows on."""
        if self.live is Live.ALWAYS:
            return tensor
        row, offset = divmod(place, self.row_units)
        if count % self.row_units:
            return tensor[row].narrow(self.unit_axis, offset, count)
        return tensor[row : row + count // self.row_units]


class Usage(NamedTuple):
    """What a region weighs."""

    name: str
    bytes: int
    live_bytes: int


Tensors = Mapping[str, Tensor]


class Arena:
    """Static memory for a set of regions: allocated once, zeroed, never moved."""

    def __init__(self, regions: tuple[Region, ...]) -> None:
        self.regions = regions
        self.tensors = {region.name: torch.zeros(region.shape, dtype=region.dtype) for region in regions}
        assert len(self.tensors) == len(regions), "a region is declared twice"

    def true_regions(self) -> Iterator[Region]:
        """The regions that a capsule has to carry."""
        return (region for region in self.regions if not region.derived)

    def live_bytes(self, position: int) -> int:
        """Bytes that a capsule at a position carries."""
        return sum(region.live_bytes(position) for region in self.true_regions())

    def usage(self, position: int) -> list[Usage]:
        """What each region weighs, all of it and its live part."""
        return [Usage(region.name, region.bytes, region.live_bytes(position)) for region in self.regions]

    def live_pieces(self, position: int) -> list[Tensor]:
        """Views of all live bytes of the true regions."""
        return [
            piece
            for region in self.true_regions()
            for piece in region.pieces(self.tensors[region.name], region.units(position))
        ]

    def digests(self, position: int) -> dict[str, str]:
        """BLAKE2b-256 of each true region's live bytes, and of nothing else."""
        return {
            region.name: digest_of(region.pieces(self.tensors[region.name], region.units(position)))
            for region in self.true_regions()
        }


def digest_of(pieces: list[Tensor]) -> str:
    """BLAKE2b-256 over the bytes of some tensors, one after the other."""
    digest = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        digest.update(bytes_of(piece))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in the order of its indices. Copies only where they lie apart."""
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
