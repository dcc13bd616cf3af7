"""What all layers of one call of the model share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engine.arena import CHUNK_TOKENS
from engine.backends import cpu
from engine.spec import ModelSpec


class Call(NamedTuple):
    """Some tokens that are read at once, all in one chunk."""

    tokens: int
    """How many; rows beyond them are padding."""
    position: int
    """Of the first."""
    rotation: Tensor
    """complex64[rows, 1, rotary_dims / 2]."""
    mask: Tensor
    """[blocks, 1, attention rows, 64], 0 or -inf."""

    @property
    def chunk(self) -> int:
        """Which chunk it lies in."""
        return self.position // CHUNK_TOKENS

    @property
    def offset(self) -> int:
        """Where in the chunk it begins."""
        return self.position % CHUNK_TOKENS


class Masks:
    """The mask of a call: everything before its block is seen, and of the block what lies before each row."""

    def __init__(self, spec: ModelSpec, blocks: int, rows: int, dtype: torch.dtype) -> None:
        """Make the memory.

        Args:
            spec: The model.
            blocks: Of the longest text.
            rows: Attention rows of the longest call.
            dtype: What products are computed in.
        """
        self._group = spec.group
        # Row i sees the keys of its block up to its own; a call at offset o within a block takes the rows from o on.
        sees = torch.full((2 * CHUNK_TOKENS, CHUNK_TOKENS), -torch.inf).triu(1).to(dtype)
        self._causal = torch.cat(
            [sees.repeat_interleave(spec.group, 0), sees.new_zeros(cpu.ATTENTION_ROWS, CHUNK_TOKENS)]
        )
        self.memory = torch.zeros(blocks, 1, rows, CHUNK_TOKENS, dtype=dtype)

    def at(self, block: int, offset: int, rows: int) -> Tensor:
        """[block + 1, 1, rows, 64] for a call at an offset in a block. It stands until the next is asked for."""
        mask = self.memory[: block + 1, :, :rows]
        mask[:block].zero_()
        start = offset * self._group
        mask[block, 0].copy_(self._causal[start : start + rows])
        return mask
