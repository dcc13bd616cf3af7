"""The value heads of linear attention, put back in the order of the model's own code.

A key head serves several value heads. The model has those of one key head side by side; llama.cpp's converter writes
the first of every key head, then the second of every key head, and so on, in each tensor that has value heads in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.spec import DeltaSpec
from engine.weights.blocks import Bytes, Floats
from engine.weights.checkpoint import WeightTensor
from engine.weights.gguf import PackedTensor

Order = np.ndarray[Any, np.dtype[np.intp]]


@dataclass(frozen=True)
class RegroupedTensor:
    """A tensor of a file whose rows or columns are moved when it is read."""

    packed: PackedTensor
    axis: int
    """0 if rows are moved, 1 if columns are."""
    order: Order
    """Where in the file each row or column lies."""
    whole_blocks: bool
    """Whether nothing moves out of its block, so that packed numbers can be moved as they are."""

    @property
    def name(self) -> str:
        """As in the file."""
        return self.packed.name

    @property
    def quant(self) -> str:
        """As in the file, or F32 if only its numbers can be moved."""
        return self.packed.quant if self.whole_blocks else "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the file."""
        return self.packed.shape

    def dequantise(self) -> Floats:
        """The numbers, float32[shape]."""
        return self.packed.dequantise().take(self.order, self.axis)

    def q4_parts(self) -> tuple[Bytes, Floats, Floats]:
        """As `PackedTensor.q4_parts`.

        Raises:
            ValueError: It is packed otherwise, or its blocks would not stay whole.
        """
        if not self.whole_blocks:
            raise ValueError(f"{self.name} has value heads that are not whole blocks of {self.packed.quant}")
        codes, scale, minimum = self.packed.q4_parts()
        width = codes.shape[1] // scale.shape[1] if self.axis else 1
        blocks = self.order[::width] // width
        return codes.take(self.order, self.axis), scale.take(blocks, self.axis), minimum.take(blocks, self.axis)


def regrouped(tensor: PackedTensor, delta: DeltaSpec) -> WeightTensor:
    """A tensor of a qwen35 file with its value heads grouped by key heads; the tensor itself if it has none to move.

    Args:
        tensor: Of the shape that `ModelSpec.tensors` says, named `blk.N.` or otherwise.
        delta: The model's linear attention.
    """
    keys = 2 * delta.key_heads * delta.key_dim
    # Axis, where on it the value heads begin, and the width of each.
    places = {
        "attn_qkv.weight": (0, keys, delta.value_dim),
        "attn_gate.weight": (0, 0, delta.value_dim),
        "ssm_beta.weight": (0, 0, 1),
        "ssm_alpha.weight": (0, 0, 1),
        "ssm_conv1d.weight": (0, keys, delta.value_dim),
        "ssm_dt.bias": (0, 0, 1),
        "ssm_a": (0, 0, 1),
        "ssm_out.weight": (1, 0, delta.value_dim),
    }
    place = places.get(tensor.name.split(".", 2)[-1])
    if place is None or delta.value_heads == delta.key_heads:
        return tensor
    axis, first, width = place
    heads = np.arange(delta.value_heads).reshape(-1, delta.key_heads).T.reshape(-1, 1)
    moved = first + heads * width + np.arange(width)
    order = np.concatenate([np.arange(first), moved.reshape(-1)])
    return RegroupedTensor(tensor, axis, order, axis == 0 or width % tensor.format.values == 0)
