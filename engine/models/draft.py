"""The draft head: one block that guesses a token further (multi-token prediction, DeepSeek-V3, arXiv 2412.19437, 2.2).

Its row for token j is made of the token and of the network's last normalised row for the token before it, and is
rotated at j. The first token has none before it: its row is made of zeros and never seen.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine.models.attention import Attention, AttentionScratch
from engine.models.call import Call
from engine.models.feed_forward import FeedForward
from engine.models.reader import Reader
from engine.spec import ModelSpec


class DraftHead:
    """Weights of the block."""

    def __init__(self, reader: Reader, spec: ModelSpec, scratch: AttentionScratch) -> None:
        prefix = f"blk.{spec.layers}."
        self._hidden, self._epsilon, self._dtype = spec.hidden, spec.norm_epsilon, reader.dtype
        self._embedding_norm = reader.numbers(f"{prefix}nextn.enorm.weight")
        self._hidden_norm = reader.numbers(f"{prefix}nextn.hnorm.weight")
        self._join = reader.linear((f"{prefix}nextn.eh_proj.weight", None))
        self._norm = reader.numbers(f"{prefix}attn_norm.weight")
        self._attention = Attention(reader, spec, spec.layers, scratch)
        self._feed_forward = FeedForward(reader, spec, spec.layers)
        self._final_norm = reader.numbers(f"{prefix}nextn.shared_head_norm.weight")
        self.matrices = [self._join, *self._attention.matrices]
        """What is computed for every token that is read."""

    def read(self, embedded: Tensor, before: Tensor, call: Call, target: Tensor) -> None:
        """Keep the keys and values of the tokens of a call.

        Args:
            embedded: float32[rows, hidden], the tokens' embeddings.
            before: float32[rows, hidden], the network's last normalised row for the token before each.
            call: The call of the network.
            target: [k|v, kv_heads, tokens, head_dim], rows of the draft head's own cache.
        """
        self._attention.project(self._narrow(self._joined(embedded, before), self._norm), call, target)

    def guess(
        self, embedded: Tensor, before: Tensor, call: Call, target: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """The normalised row that the head reads for the token after the one of the call, float32[rows, hidden].

        Args:
            embedded: As `read` takes it.
            before: As `read` takes it.
            call: One token, with a mask that hides the first row of the cache.
            target: As `read` takes it.
            keys: [blocks, kv_heads, 64, head_dim], all that can be seen, what is written here included.
            values: As `keys`.
        """
        residual = self._joined(embedded, before)
        residual += self._attention(self._narrow(residual, self._norm), call, target, keys, values)
        residual += self._feed_forward(residual)
        return functional.rms_norm(residual, (self._hidden,), self._final_norm, self._epsilon)

    def _joined(self, embedded: Tensor, before: Tensor) -> Tensor:
        sides = (self._narrow(embedded, self._embedding_norm), self._narrow(before, self._hidden_norm))
        return self._join(torch.cat(sides, dim=1)).float()

    def _narrow(self, rows: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(rows, (self._hidden,), weight, self._epsilon).to(self._dtype)
