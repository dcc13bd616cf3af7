"""The live state of one lane: every buffer that survives a step, and how its live part follows from the position.

Nothing in it is ever changed in place, except the few bytes that are always live: a token adds its own rows. The KV
cache is position-block-major, [block][layer][k|v][kv head][64 tokens][head_dim], so the first P tokens of all layers
are one run of bytes.

A gated delta net is kept in two parts: its recurrent state at the start of the 64-token chunk that the position lies
in, and for each token since then what it added (its key, the value it corrected, the decay up to it). Both lie in rings
of `RING_CHUNKS` chunks. The state as other engines keep it, after the newest token, is never formed: it would have to
be written whole at every token. So going back by less than the ring is one number here too, as it is in a KV cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from engine.arena import CHUNK_TOKENS, Arena, Live, Region
from engine.spec import DeltaSpec, ModelSpec

RING_CHUNKS = 4
"""Of the recurrence: a boundary stays in reach while at least 192 tokens are read after it, and at most 253."""
POSITION, SEED = 0, 1
"""Places in the counters."""
LINEAGE_BYTES = 16


def declare(spec: ModelSpec, capacity_tokens: int, dtype: torch.dtype) -> tuple[Region, ...]:
    """Every buffer of a model's state.

    Args:
        spec: The model.
        capacity_tokens: The longest text the state can hold.
        dtype: What products are computed in, and keys, values and the inputs of convolutions kept in.
    """
    blocks = -(-capacity_tokens // CHUNK_TOKENS)
    rows = (2, spec.kv_heads, CHUNK_TOKENS, spec.head_dim)
    regions = [
        Region("kv", dtype, (blocks, spec.attention_layers, *rows), Live.PREFIX, CHUNK_TOKENS, unit_axis=3),
        Region("journal", torch.int32, (capacity_tokens,), Live.PREFIX),
        # A digest of all tokens up to each: two texts are equal up to a token if this is.
        Region("lineage", torch.uint8, (capacity_tokens, LINEAGE_BYTES), Live.PREFIX),
        # The last row of the network, normalised: the next token can be chosen again without running the model.
        Region("hidden", torch.float32, (spec.hidden,), Live.ALWAYS),
        Region("counters", torch.int64, (2,), Live.ALWAYS),
    ]
    if spec.delta:
        regions += _declare_delta(spec.delta, spec.delta_layers, dtype)
    if spec.draft_head:
        # Row j is made of token j and of the network's last row for the token before it.
        regions.append(Region("draft_kv", dtype, (blocks, *rows), Live.PREFIX, CHUNK_TOKENS, unit_axis=2))
    return tuple(regions)


def _declare_delta(delta: DeltaSpec, layers: int, dtype: torch.dtype) -> list[Region]:
    chunk = (RING_CHUNKS, layers)
    state = (delta.value_heads, delta.key_dim, delta.value_dim)
    keys = (delta.key_heads, CHUNK_TOKENS, delta.key_dim)
    values = (delta.value_heads, CHUNK_TOKENS, delta.value_dim)
    decay = (delta.value_heads, CHUNK_TOKENS)
    inputs = (RING_CHUNKS * CHUNK_TOKENS, layers, delta.channels)
    return [
        Region("recurrent", torch.float32, (*chunk, *state), Live.BASE),
        Region("delta_keys", torch.float32, (*chunk, *keys), Live.CHUNK, CHUNK_TOKENS, unit_axis=2),
        Region("delta_values", torch.float32, (*chunk, *values), Live.CHUNK, CHUNK_TOKENS, unit_axis=2),
        # The logarithm of the decay since the start of the chunk, in float64 so that summing on is exact.
        Region("delta_decay", torch.float64, (*chunk, *decay), Live.CHUNK, CHUNK_TOKENS, unit_axis=2),
        Region("conv", dtype, inputs, Live.WINDOW, window=delta.kernel - 1),
    ]


class LaneState:
    """One live set of buffers.

    Attributes:
        arena: The registry and the memory: `arena.tensors` has each region's buffer by name, shaped as declared.
        hidden: float32[hidden], what the head reads for the next token; meaningless at position 0.
        capacity: Tokens it can hold.
    """

    def __init__(self, spec: ModelSpec, capacity_tokens: int, dtype: torch.dtype) -> None:
        self.arena = Arena(declare(spec, capacity_tokens, dtype))
        self.capacity = capacity_tokens
        self.hidden: Tensor = self.arena.tensors["hidden"]
        self._journal: np.ndarray = self.arena.tensors["journal"].numpy()
        self._lineage: np.ndarray = self.arena.tensors["lineage"].numpy()
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

    @property
    def lineage(self) -> bytes:
        """A digest of all tokens in the state."""
        return self._lineage[self.position - 1].tobytes() if self.position else bytes(LINEAGE_BYTES)

    def commit(self, tokens: Sequence[int], hidden: Tensor | None = None) -> None:
        """Make rows that were written above the position part of the state. What is live changes last.

        Args:
            tokens: Whose rows they are.
            hidden: What the head reads from now on; None leaves it as it is.
        """
        first, end = self.position, self.position + len(tokens)
        digest = self.lineage
        for place, token in enumerate(tokens, first):
            digest = next_lineage(digest, token)
            self._lineage[place] = np.frombuffer(digest, np.uint8)
        self._journal[first:end] = tokens
        self.note_written(first, end)
        if hidden is not None:
            self.hidden.copy_(hidden)
        self._counters[POSITION] = end

    def discard(self, end: int) -> None:
        """Zero what was written above the position, up to the token `end`.

        No bits depend on it as long as it is numbers. What is no number would spread: zero times it is none either.
        """
        for region in self.arena.regions:
            # A state at the start of a chunk is written whole before it is read.
            if region.live not in (Live.ALWAYS, Live.BASE):
                for piece in region.pieces(self.arena.tensors[region.name], range(self.position, end)):
                    piece.zero_()

    def rewind(self) -> None:
        """Forget everything but the seed."""
        for region in self.arena.true_regions():
            if region.live is not Live.ALWAYS:
                for piece in region.pieces(self.arena.tensors[region.name], region.units(0)):
                    piece.zero_()
        self.hidden.zero_()
        self._counters[POSITION] = 0
        self.note_written(0, self.capacity)

    def note_written(self, first: int, end: int) -> None:
        """Rows of the tokens [first, end) are new."""
        self.writes += 1
        self._written[first:end] = self.writes

    def stands(self, position: int, since: int) -> bool:
        """Whether all that was live at a position is still in its place.

        Args:
            position: Where the state stood then.
            since: What `writes` was then.
        """
        # Tokens are written in their order, so whatever takes a place in a ring has first come by the token that does.
        lost_at = self.lost_at(position)
        in_place = lost_at >= self.capacity or int(self._written[lost_at]) <= since
        return in_place and self.unwritten(position, since)

    def unwritten(self, position: int, since: int) -> bool:
        """Whether the tokens below a position are still those that were there when `writes` was `since`."""
        return int(self._written[:position].max(initial=0)) <= since

    def lost_at(self, position: int) -> int:
        """The first token whose writing takes the place of something that is live at a position."""
        return min(region.lost_at(position, self.capacity) for region in self.arena.true_regions())


def next_lineage(digest: bytes, token: int) -> bytes:
    """The digest of a text and one more token."""
    return hashlib.blake2b(digest + int(token).to_bytes(4, "little"), digest_size=LINEAGE_BYTES).digest()
