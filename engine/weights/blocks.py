"""The block formats of GGUF tensors: how packed bytes become numbers.

A row of a quantised matrix is a run of blocks, each with its own scale. Layouts are those of ggml (`block_q4_0` and the
others in ggml-common.h); the arithmetic keeps ggml's order of operations in float32, so that results agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Records = NDArray[Any]
"""Blocks of one format, as a structured array with one record a block."""


class BlockFormat(NamedTuple):
    """One way to pack numbers."""

    layout: np.dtype[Any]
    """Fields of one block, packed, little-endian."""
    values: int
    """Numbers in one block."""
    decode: Callable[[Records], Floats]
    """Records [n] to numbers [n, values]."""

    @property
    def block_bytes(self) -> int:
        """Size of one block."""
        return self.layout.itemsize


def nibbles(packed: Bytes) -> Bytes:
    """uint8[n, bytes] to uint8[n, 2 * bytes]: all low halves first, then all high halves."""
    return np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)


def column(field: NDArray[Any]) -> Floats:
    """One number a block, as float32[n, 1]."""
    return _floats(field)[:, None]


def _floats(numbers: NDArray[Any]) -> Floats:
    return numbers.astype(np.float32)


def _decode_plain(records: Records) -> Floats:
    return column(records["x"])


def _decode_bf16(records: Records) -> Floats:
    return (records["x"].astype(np.uint32) << 16).view(np.float32)[:, None]


def _decode_q4_0(records: Records) -> Floats:
    return column(records["scale"]) * _floats(nibbles(records["codes"]).astype(np.int8) - 8)


def _decode_q4_1(records: Records) -> Floats:
    return column(records["scale"]) * _floats(nibbles(records["codes"])) + column(records["minimum"])


def _decode_q5_0(records: Records) -> Floats:
    return column(records["scale"]) * _floats(_five_bits(records).astype(np.int8) - 16)


def _decode_q5_1(records: Records) -> Floats:
    return column(records["scale"]) * _floats(_five_bits(records)) + column(records["minimum"])


def _five_bits(records: Records) -> Bytes:
    high = np.unpackbits(records["high"], axis=-1, bitorder="little")
    return nibbles(records["codes"]) | (high << np.uint8(4))


def _decode_q8_0(records: Records) -> Floats:
    return _floats(records["codes"]) * column(records["scale"])


def _decode_q4_k(records: Records) -> Floats:
    steps, offsets = _k_scales(records)
    codes = nibbles(records["codes"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return (steps * _floats(codes) - offsets).reshape(-1, 256)


def _decode_q5_k(records: Records) -> Floats:
    # Byte i of `high` has the fifth bit of number i of each of the eight groups, in the groups' order.
    steps, offsets = _k_scales(records)
    low = nibbles(records["codes"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    high = (records["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[:, None]) & 1
    return (steps * _floats(low | (high << 4)) - offsets).reshape(-1, 256)


def _k_scales(records: Records) -> tuple[Floats, Floats]:
    # Eight groups of 32. Six-bit scales and minima lie in twelve bytes: those of groups 0-3 in the low six bits of the
    # first two fours; those of groups 4-7 have their low nibbles in the last four and their top bits above the others'.
    low_scale, low_minimum, mixed = np.moveaxis(records["scales"].reshape(-1, 3, 4), 1, 0)
    scale = np.concatenate([low_scale & 63, (mixed & 15) | ((low_scale >> 2) & 48)], axis=-1)
    minimum = np.concatenate([low_minimum & 63, (mixed >> 4) | ((low_minimum >> 2) & 48)], axis=-1)
    steps = column(records["scale"]) * _floats(scale)
    offsets = column(records["minimum"]) * _floats(minimum)
    return steps[:, :, None], offsets[:, :, None]


def _decode_q6_k(records: Records) -> Floats:
    # Two halves of 128; in each, four runs of 32 share 64 bytes of low nibbles and 32 bytes of four two-bit tops.
    low = nibbles(records["low"].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = (records["high"].reshape(-1, 2, 1, 32) >> shifts) & 3
    codes = _floats((low | (high << 4)).astype(np.int8) - 32)
    steps: Floats = (column(records["scale"]) * _floats(records["scales"]))[:, :, None]
    return (steps * codes.reshape(-1, 16, 16)).reshape(-1, 256)


def _layout(*fields: tuple[str, str] | tuple[str, str, int]) -> np.dtype[Any]:
    return np.dtype(list(fields))


_SCALE, _MINIMUM, _CODES, _K_SCALES = ("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16), ("scales", "u1", 12)

_Q = GGMLQuantizationType
FORMATS: dict[GGMLQuantizationType, BlockFormat] = {
    _Q.F32: BlockFormat(_layout(("x", "<f4")), 1, _decode_plain),
    _Q.F16: BlockFormat(_layout(("x", "<f2")), 1, _decode_plain),
    _Q.BF16: BlockFormat(_layout(("x", "<u2")), 1, _decode_bf16),
    _Q.Q4_0: BlockFormat(_layout(_SCALE, _CODES), 32, _decode_q4_0),
    _Q.Q4_1: BlockFormat(_layout(_SCALE, _MINIMUM, _CODES), 32, _decode_q4_1),
    _Q.Q5_0: BlockFormat(_layout(_SCALE, ("high", "u1", 4), _CODES), 32, _decode_q5_0),
    _Q.Q5_1: BlockFormat(_layout(_SCALE, _MINIMUM, ("high", "u1", 4), _CODES), 32, _decode_q5_1),
    _Q.Q8_0: BlockFormat(_layout(_SCALE, ("codes", "i1", 32)), 32, _decode_q8_0),
    _Q.Q4_K: BlockFormat(_layout(_SCALE, _MINIMUM, _K_SCALES, ("codes", "u1", 128)), 256, _decode_q4_k),
    _Q.Q5_K: BlockFormat(
        _layout(_SCALE, _MINIMUM, _K_SCALES, ("high", "u1", 32), ("codes", "u1", 128)), 256, _decode_q5_k
    ),
    _Q.Q6_K: BlockFormat(
        _layout(("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _SCALE), 256, _decode_q6_k
    ),
}
"""Every format the engine reads."""
