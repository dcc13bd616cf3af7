"""The live state of one lane: every buffer that survives a step, and how its live part follows from the position.

The KV cache is position-block-major, [block][layer][k|v][kv head][64 tokens][head_dim]: the first P tokens of all
layers are one run of bytes, so a snapshot is one copy and a cut is one number. Its rows below the position never
change; what lies above is dead and finite, and masked where a kernel reads it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.arena import Arena, Region
from engine.spec import ModelSpec

BLOCK_TOKENS = 64
POSITION, SEED = 0, 1
"""Places in the counters."""


def declare(spec: ModelSpec, capacity_tokens: int, kv_dtype: torch.dtype) -> tuple[Region, ...]:
    """Every buffer of a dense model's state.

    Args:
        spec: The model.
        capacity_tokens: The longest text the state can hold.
        kv_dtype: What keys and values are kept in.
    """
    blocks = -(-capacity_tokens // BLOCK_TOKENS)
    kv_shape = (blocks, spec.layers, 2, spec.kv_heads, BLOCK_TOKENS, spec.head_dim)
    return (
        Region("kv", kv_dtype, kv_shape, row_tokens=BLOCK_TOKENS, token_axis=3),
        Region("journal", torch.int32, (capacity_tokens,), row_tokens=1),
        # The last row of the network, normalised: the next token can be chosen again without running the model.
        Region("hidden", torch.float32, (spec.hidden,), row_tokens=0),
        Region("counters", torch.int64, (2,), row_tokens=0),
    )


class LaneState:
    """One live set of buffers.

    Attributes:
        kv: [blocks, layers, 2, kv_heads, 64, head_dim].
        hidden: float32[hidden], what the head reads for the next token; meaningless at position 0.
        capacity: Tokens it can hold.
    """

    def __init__(self, spec: ModelSpec, capacity_tokens: int, kv_dtype: torch.dtype) -> None:
        self.arena = Arena(declare(spec, capacity_tokens, kv_dtype))
        self.capacity = capacity_tokens
        self.kv: Tensor = self.arena.tensors["kv"]
        self.hidden: Tensor = self.arena.tensors["hidden"]
        self._journal: np.ndarray = self.arena.tensors["journal"].numpy()
        self._counters: np.ndarray = self.arena.tensors["counters"].numpy()
        # When each token's rows were last written, so that a mark knows whether those below it are still its own. It
        # decides what is refused and never what is computed, so it is no part of the state.
        self._written = np.zeros(capacity_tokens, np.int64)
        self.writes = 0

    @property
    def position(self) -> int:
        """Tokens in the state."""
        return int(self._counters[POSITION])

    @property
    def seed(self) -> int:
        """Seed of the sampler's noise."""
        return int(self._counters[SEED])

    @seed.setter
    def seed(self, seed: int) -> None:
        self._counters[SEED] = seed

    def journal(self, first: int = 0) -> list[int]:
        """The tokens in the state from `first` on."""
        return self._journal[first : self.position].tolist()

    def commit(self, tokens: Sequence[int]) -> None:
        """Make rows that were written above the position part of the state."""
        first, end = self.position, self.position + len(tokens)
        self._journal[first:end] = tokens
        self.note_written(first, end)
        self._counters[POSITION] = end

    def rewind(self) -> None:
        """Forget everything."""
        self._counters[POSITION] = 0

    def note_written(self, first: int, end: int) -> None:
        """Rows of the tokens [first, end) are new."""
        self.writes += 1
        self._written[first:end] = self.writes

    def newest_write(self, end: int) -> int:
        """The latest write among the rows of the tokens [0, end)."""
        return int(self._written[:end].max(initial=0))
