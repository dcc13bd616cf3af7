"""The operations of a forward pass on the CPU, in torch.

Everything here is row-invariant, or is made so by the caller's choice of row counts: a token's row has the same bits
whatever else is in the call. `rows.py` finds out which counts have that property on this machine.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.errors import BackendError
from engine.weights.checkpoint import WeightTensor

BLOCK_COLUMNS = 32
_ROWS_AT_A_TIME = 4096
Codes = np.ndarray[Any, np.dtype[np.uint8]]
_ops: Any = torch.ops.aten

ATTENTION_ROWS = 4
"""Calls of `attend` have a multiple of this many rows: fewer than four left over in a tile of 32 take another path in
the matrix library, with other bits."""


class Linear(Protocol):
    """A matrix that multiplies rows: [n, columns] to [n, rows]."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def nbytes(self) -> int:
        """Size of the weights."""
        ...

    def cancelling(self) -> Linear:
        """A matrix of this kind and shape, whose right half is its left one mirrored, with the other sign."""
        ...

    def __call__(self, rows: Tensor) -> Tensor:
        """Multiply. The result is new memory."""
        ...


class PlainLinear:
    """Weights as numbers, float32 or bfloat16."""

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight
        self.shape = (weight.shape[0], weight.shape[1])
        self.nbytes = weight.nbytes

    def cancelling(self) -> PlainLinear:
        """As `Linear.cancelling`."""
        half = torch.from_numpy(_some_codes(self.shape[0], self.shape[1] // 2)).float() - 7.3
        odd = half.new_zeros(len(half), self.shape[1] % 2)
        return PlainLinear(torch.cat([half, -half.flip(1), odd], dim=1).to(self._weight.dtype))

    def __call__(self, rows: Tensor) -> Tensor:
        """[n, columns] to [n, rows] in the weights' type."""
        return torch.nn.functional.linear(rows, self._weight)


class Int4Linear:
    """Weights as 4-bit codes with a scale and an offset for 32 columns: the GGUF's own codes, scales in bfloat16."""

    def __init__(self, codes: np.ndarray, scale: np.ndarray, minimum: np.ndarray) -> None:
        """Pack a matrix.

        Args:
            codes: uint8[rows, columns] in 0..15.
            scale: float32[rows, columns / 32].
            minimum: float32[rows, columns / 32].
        """
        self.shape = (codes.shape[0], codes.shape[1])
        self._packed: Tensor = _ops._convert_weight_to_int4pack_for_cpu(torch.from_numpy(codes.astype(np.int32)), 1)
        # The operation computes (code - 8) * scale + offset.
        offset = minimum + 8.0 * scale
        pairs = np.stack([scale.T, offset.T], axis=-1)
        self._scales = torch.from_numpy(np.ascontiguousarray(pairs)).to(torch.bfloat16)
        self.nbytes = self._packed.nbytes + self._scales.nbytes

    def cancelling(self) -> Int4Linear:
        """As `Linear.cancelling`."""
        half = _some_codes(self.shape[0], self.shape[1] // 2)
        scale = np.full((self.shape[0], self.shape[1] // BLOCK_COLUMNS), 0.25, np.float32)
        return Int4Linear(np.concatenate([half, 15 - half[:, ::-1]], axis=1), scale, -7.5 * scale)

    def __call__(self, rows: Tensor) -> Tensor:
        """bfloat16[n, columns] to bfloat16[n, rows]."""
        return _ops._weight_int4pack_mm_for_cpu(rows, self._packed, BLOCK_COLUMNS, self._scales)


class Int8Linear:
    """Weights as 8-bit codes with one scale a row."""

    def __init__(self, weight: Tensor) -> None:
        """Quantise float32[rows, columns]."""
        self.shape = (weight.shape[0], weight.shape[1])
        lowest, highest = weight.aminmax(dim=1)
        # Codes are rounded against the scale as the operation will read it, in bfloat16.
        self._scales = (torch.maximum(-lowest, highest) / 127.0).clamp_min(1e-12).to(torch.bfloat16)
        self._codes = torch.empty(self.shape, dtype=torch.int8)
        # Some rows at a time: a head may be the largest matrix of a model by far.
        parts = (whole.split(_ROWS_AT_A_TIME) for whole in (weight, self._scales.float().unsqueeze(1), self._codes))
        for numbers, scale, codes in zip(*parts, strict=True):
            codes.copy_((numbers / scale).round_().clamp_(-127, 127))
        self.nbytes = self._codes.nbytes + self._scales.nbytes

    def cancelling(self) -> Int8Linear:
        """As `Linear.cancelling`."""
        half = torch.from_numpy(_some_codes(self.shape[0], self.shape[1] // 2)).float() - 7.0
        odd = half.new_zeros(len(half), self.shape[1] % 2)
        return Int8Linear(torch.cat([half, -half.flip(1), odd], dim=1))

    def __call__(self, rows: Tensor) -> Tensor:
        """bfloat16[n, columns] to bfloat16[n, rows]."""
        return _ops._weight_int8pack_mm(rows, self._codes, self._scales)


def _some_codes(rows: int, columns: int) -> Codes:
    """Arbitrary numbers in 0..15, uint8[rows, columns], always the same."""
    return np.random.default_rng(0).integers(0, 16, (rows, columns), np.uint8)


def int4_fits(tensor: WeightTensor) -> bool:
    """Whether a matrix can be used as `Int4Linear`: packed in 4-bit blocks, in a width the operation takes."""
    return tensor.quant in ("Q4_0", "Q4_1") and tensor.shape[0] % 16 == 0 and tensor.shape[1] % BLOCK_COLUMNS == 0


def has_int4() -> bool:
    """Whether this build of torch has the 4-bit and 8-bit products."""
    return hasattr(_ops, "_weight_int4pack_mm_for_cpu") and hasattr(_ops, "_weight_int8pack_mm")


def has_fast_bf16() -> bool:
    """Whether the processor multiplies bfloat16 itself."""
    capability: Any = torch.backends.cpu.get_cpu_capability()
    return "AVX512" in str(capability) and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention over blocks of keys: each block by itself, then merged in order of position.

    Every block has the same size and place in the order whatever the length, so a row does not depend on how far the
    cache is filled beyond it. Merging by log-sum-exp is that of flash decoding (Dao et al. 2023).

    Args:
        query: [kv_heads, n, head_dim]; n, a multiple of 4, counts the query heads of a group and the tokens.
        keys: [blocks, kv_heads, 64, head_dim], any strides.
        values: As `keys`.
        mask: [blocks, 1, n, 64], 0 or -inf. Each row sees a key in each block.

    Returns:
        float32[kv_heads, n, head_dim].
    """
    blocks = keys.shape[0]
    parts, log_sums = _ops._scaled_dot_product_flash_attention_for_cpu(
        query.unsqueeze(0).expand(blocks, -1, -1, -1), keys, values, 0.0, False, attn_mask=mask
    )
    if blocks == 1:
        return parts[0].float()
    # Along the last dimension, so that a row's exponentials are computed alike wherever the row lies.
    weights = torch.softmax(log_sums.permute(1, 2, 0), 2).permute(2, 0, 1).unsqueeze(-1)
    return (parts * weights).sum(0)


def one_plus_exp_of_minus(rows: Tensor) -> Tensor:
    """1 / sigmoid, in new memory. An element has the same bits wherever it lies; in torch's own sigmoid it has not."""
    return rows.neg().exp_().add_(1.0)


def silu(rows: Tensor) -> Tensor:
    """rows * sigmoid(rows), float32 in new memory. An element has the same bits wherever it lies."""
    whole = rows.float()
    below = one_plus_exp_of_minus(whole)
    return torch.div(whole, below, out=below)


def require_int4() -> None:
    """Raises BackendError where torch lacks the packed products."""
    if not has_int4():
        raise BackendError("the format int4 can't be used", "this build of torch lacks its operations", "Use bf16")
