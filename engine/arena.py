"""Buffers that survive a step, declared once. Everything that must know them all asks here."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Region(NamedTuple):
    """One buffer of the state."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    row_tokens: int
    """Tokens held by one row of the first dimension, which is then in order of position; 0: all is always live."""
    token_axis: int = 0
    """Where `row_tokens` > 1: the dimension of a row that counts its tokens."""
    derived: bool = False
    """It can be computed from the others, so a capsule leaves it out."""

    def live_rows(self, position: int) -> int:
        """Rows of the first dimension that hold something at a position, the last one perhaps in part."""
        return -(-position // self.row_tokens) if self.row_tokens else self.shape[0]

    def whole_rows(self, position: int) -> int:
        """Rows of which every token is live."""
        return position // self.row_tokens if self.row_tokens else self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


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

    def fixed_regions(self) -> Iterator[Region]:
        """The true regions that do not grow with the position."""
        return (region for region in self.true_regions() if not region.row_tokens)

    def live_bytes(self, position: int) -> int:
        """Bytes of whole rows that a capsule at a position carries."""
        return sum(region.live_rows(position) * region.row_bytes for region in self.true_regions())

    def usage(self, position: int) -> list[Usage]:
        """What each region weighs, all of it and its live part."""
        return [
            Usage(region.name, region.shape[0] * region.row_bytes, region.live_rows(position) * region.row_bytes)
            for region in self.regions
        ]


def dead_tail(region: Region, tensor: Tensor, position: int) -> Tensor | None:
    """The tokens at and after a position in the row that the position cuts; None if it cuts none."""
    whole = region.whole_rows(position)
    if whole == region.live_rows(position):
        return None
    used = position - whole * region.row_tokens
    return tensor[whole].narrow(region.token_axis, used, region.row_tokens - used)


def digests(regions: Iterator[Region], tensors: Tensors, position: int) -> dict[str, str]:
    """BLAKE2b-256 of each region's live bytes, and of nothing else.

    Args:
        regions: Which.
        tensors: The memory of each by name, at least up to its live rows.
        position: Tokens in the state.
    """
    found: dict[str, str] = {}
    for region in regions:
        tensor = tensors[region.name]
        whole = region.whole_rows(position)
        digest = hashlib.blake2b(_bytes(tensor[:whole]), digest_size=32)
        if whole < region.live_rows(position):
            used = position - whole * region.row_tokens
            digest.update(_bytes(tensor[whole].narrow(region.token_axis, 0, used)))
        found[region.name] = digest.hexdigest()
    return found


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
