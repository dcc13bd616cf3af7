"""A gated delta net (Yang et al. 2024, arXiv 2412.06464): a layer whose memory of the text has a fixed size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from engine.arena import CHUNK_TOKENS, Tensors
from engine.backends import cpu_delta
from engine.models.call import Call
from engine.models.reader import Reader
from engine.spec import ModelSpec


class DeltaMemory(NamedTuple):
    """One layer's part of the state, as a call needs it."""

    base: Tensor
    """float32[value_heads, key_dim, value_dim], the recurrent state at the start of the chunk."""
    next_base: Tensor
    """The same at the start of the next chunk, written when this one is full."""
    keys: Tensor
    """float32[key_heads, 64, key_dim], what the chunk's tokens wrote so far."""
    values: Tensor
    """float32[value_heads, 64, value_dim]."""
    decay: Tensor
    """float64[value_heads, 64]."""
    inputs: Tensor
    """[ring, channels], inputs of the convolution."""


def memories(tensors: Tensors, call: Call) -> Iterator[DeltaMemory]:
    """Every layer's part of the state.

    Args:
        tensors: The state's buffers by name.
        call: Which chunk is meant.
    """
    ring = len(tensors["recurrent"])
    here, following = call.chunk % ring, (call.chunk + 1) % ring
    return map(
        DeltaMemory,
        tensors["recurrent"][here].unbind(),
        tensors["recurrent"][following].unbind(),
        tensors["delta_keys"][here].unbind(),
        tensors["delta_values"][here].unbind(),
        tensors["delta_decay"][here].unbind(),
        tensors["conv"].unbind(1),
    )


class DeltaNet:
    """Weights of one layer."""

    def __init__(self, reader: Reader, spec: ModelSpec, layer: int) -> None:
        assert spec.delta is not None
        prefix = f"blk.{layer}."
        self._delta, self._epsilon = spec.delta, spec.norm_epsilon
        self._inputs = reader.linear((f"{prefix}attn_qkv.weight", None), (f"{prefix}attn_gate.weight", None))
        self._gates = reader.linear((f"{prefix}ssm_beta.weight", None), (f"{prefix}ssm_alpha.weight", None))
        self._output = reader.linear((f"{prefix}ssm_out.weight", None))
        self.matrices = [self._inputs, self._gates, self._output]
        # The weights for an age side by side in memory.
        self._kernel = reader.numbers(f"{prefix}ssm_conv1d.weight").t().contiguous().t()
        self._decay = reader.numbers(f"{prefix}ssm_a")
        self._decay_bias = reader.numbers(f"{prefix}ssm_dt.bias")
        self._norm = reader.numbers(f"{prefix}ssm_norm.weight")

    def __call__(self, rows: Tensor, call: Call, memory: DeltaMemory) -> Tensor:
        """What the layer adds to the residual stream, [rows, hidden].

        Args:
            rows: [rows, hidden], normalised, in the product's type.
            call: What all layers share.
            memory: The layer's part of the state.
        """
        delta, count = self._delta, call.tokens
        mixed, gate = self._inputs(rows).split((delta.channels, delta.values), dim=1)
        seen = cpu_delta.convolve(memory.inputs, mixed, self._kernel, call.position, count)
        width = 2 * delta.key_heads * delta.key_dim
        pairs = cpu_delta.normalise(seen[:, :width].unflatten(1, (2, delta.key_heads, delta.key_dim)))
        heads = (delta.value_heads, delta.value_dim)
        beta, alpha = self._gates(rows).float().chunk(2, dim=1)
        strength, log_decay = cpu_delta.gates(beta, alpha, self._decay, self._decay_bias)
        read = cpu_delta.delta_rule(
            memory.base,
            memory.keys,
            memory.values,
            memory.decay,
            pairs,
            seen[:, width:].unflatten(1, heads),
            log_decay,
            strength,
            call.offset,
            count,
        )
        if call.offset + count == CHUNK_TOKENS:
            cpu_delta.fold(memory.base, memory.keys, memory.values, memory.decay, memory.next_base)
        normed = cpu_delta.gated_norm(read, gate.unflatten(1, heads), self._norm, self._epsilon)
        return self._output(normed.flatten(1).to(rows.dtype))
