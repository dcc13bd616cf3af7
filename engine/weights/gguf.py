"""GGUF files: metadata and packed tensors, read without trusting a single length in them.

The container is parsed here rather than with `gguf.GGUFReader`, which believes the lengths it reads: a damaged count
makes it loop or allocate without end. Only its enumerations are used. Format: docs/gguf.md of ggml, versions 2 and 3.
"""

from __future__ import annotations

import math
import os
import struct
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import numpy as np
from gguf.constants import GGMLQuantizationType, GGUFValueType

from engine.errors import ModelFileError
from engine.weights.blocks import FORMATS, BlockFormat, Bytes, Floats, column, nibbles

Value = int | float | str | bool | list[Any]
Kind = TypeVar("Kind", int, float, str, bool, list[Any])

MAX_ENTRIES = 1 << 16
"""Metadata keys, and tensors: the largest real files have a few thousand."""
MAX_ITEMS = 1 << 22
"""Items of one array: the largest real vocabularies have a quarter of a million tokens and half a million merges."""
MAX_TEXT_BYTES = 1 << 24

_SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
}
_ROWS_AT_A_TIME = 1024


class PackedTensor(NamedTuple):
    """A tensor as it lies in the file."""

    name: str
    quant: str
    """The block format: Q4_1, F32 and so on."""
    shape: tuple[int, ...]
    """Outermost first, as torch has it: (rows, columns) for a matrix."""
    blocks: Bytes
    """uint8[rows, row_bytes], a read-only view of the file; `rows` is the product of all but the last dimension."""

    @property
    def format(self) -> BlockFormat:
        """How the blocks are packed."""
        return FORMATS[GGMLQuantizationType[self.quant]]

    def dequantise(self) -> Floats:
        """The numbers, float32[shape]. A scale that is not finite gives numbers that are not."""
        layout, _, decode = self.format
        numbers = np.empty((len(self.blocks), self.shape[-1]), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            for first in range(0, len(numbers), _ROWS_AT_A_TIME):
                rows = self.blocks[first : first + _ROWS_AT_A_TIME]
                numbers[first : first + len(rows)] = decode(rows.reshape(-1).view(layout)).reshape(len(rows), -1)
        return numbers.reshape(self.shape)

    def q4_parts(self) -> tuple[Bytes, Floats, Floats]:
        """The parts of a Q4_0 or Q4_1 matrix: number = scale * code + minimum, one scale and minimum for 32 columns.

        Returns:
            codes uint8[rows, columns] in 0..15; scale and minimum float32[rows, columns / 32]. For Q4_0 the minimum is
            -8 * scale, which is exact, though scale * code + minimum may round where scale * (code - 8) does not.

        Raises:
            ValueError: The tensor is packed in another format.
        """
        if self.quant not in ("Q4_0", "Q4_1"):
            raise ValueError(f"{self.name} is {self.quant}, neither Q4_0 nor Q4_1")
        records = self.blocks.reshape(-1).view(self.format.layout)
        scale = column(records["scale"])
        minimum = column(records["minimum"]) if self.quant == "Q4_1" else np.float32(-8) * scale
        rows = len(self.blocks)
        return nibbles(records["codes"]).reshape(rows, -1), scale.reshape(rows, -1), minimum.reshape(rows, -1)

    def q8_parts(self) -> tuple[np.ndarray[Any, np.dtype[np.int8]], Floats]:
        """The parts of a Q8_0 matrix: number = scale * code, one scale for 32 columns.

        Returns:
            codes int8[rows, columns]; scale float32[rows, columns / 32].

        Raises:
            ValueError: The tensor is packed in another format.
        """
        if self.quant != "Q8_0":
            raise ValueError(f"{self.name} is {self.quant}, not Q8_0")
        records = self.blocks.reshape(-1).view(self.format.layout)
        rows = len(self.blocks)
        return records["codes"].reshape(rows, -1), column(records["scale"]).reshape(rows, -1)


class GGUFFile(NamedTuple):
    """An open GGUF file."""

    path: Path
    metadata: dict[str, Value]
    tensors: dict[str, PackedTensor]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> GGUFFile:
        """Map a file and check all of its structure; tensors stay on disk until they are used.

        Raises:
            ModelFileError: The file can't be read, is damaged, or holds a format the engine doesn't read.
        """
        return _Reader(Path(path)).read()

    def get(self, key: str, kind: type[Kind]) -> Kind | None:
        """A metadata value, or None if the file has no such key. An int passes for a float.

        Raises:
            ModelFileError: The value is of another kind.
        """
        value: Any = self.metadata.get(key)
        if kind is float and type(value) is int:
            value = float(value)
        if value is not None and type(value) is not kind:
            _refuse(self.path, f"its metadata has {type(value).__name__} where {key} is {kind.__name__}")
        return cast("Kind | None", value)

    def require(self, key: str, kind: type[Kind]) -> Kind:
        """A metadata value.

        Raises:
            ModelFileError: The file has no such key, or its value is of another kind.
        """
        value = self.get(key, kind)
        if value is None:
            _refuse(self.path, f"its metadata lacks {key}")
        return value


def _refuse(path: Path, why: str, fix: str = "Fetch the file again, or choose another model") -> NoReturn:
    raise ModelFileError(f"the model file {path} can't be used", why, fix)


class _TensorInfo(NamedTuple):
    name: str
    shape: tuple[int, ...]
    quant: GGMLQuantizationType
    offset: int


class _Reader:
    """Reads the header front to back; every length is checked against what is left of the file before it is used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if path.stat().st_size < 24:
                self._fail("it is too short to be a GGUF file")
            self.data: Bytes = np.memmap(path, np.uint8, mode="r")
        except OSError as error:
            _refuse(path, error.strerror or str(error), "Check the path and the file's permissions")
        self.buffer = self.data.data
        self.at = 0

    def read(self) -> GGUFFile:
        tensor_count, key_count = self._read_start()
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._read_text("a metadata key")
            if key in metadata:
                self._fail(f"its metadata has {key} twice")
            metadata[key] = self._read_value(key)
        infos = [self._read_tensor_info() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
            self._fail(f"general.alignment is {alignment!r}, not a power of two")
        return GGUFFile(self.path, metadata, self._place_tensors(infos, alignment))

    def _fail(self, why: str) -> NoReturn:
        _refuse(self.path, why)

    def _read_start(self) -> tuple[int, int]:
        if bytes(self._take(4, "the magic number")) != b"GGUF":
            self._fail("it does not begin with the letters GGUF")
        version = self._read_number("<I")
        if version not in (2, 3):
            self._fail(
                f"it is big-endian or of version {version}, and only little-endian files of version 2 or 3 are read"
            )
        tensor_count, key_count = self._read_number("<Q"), self._read_number("<Q")
        if tensor_count > MAX_ENTRIES or key_count > MAX_ENTRIES:
            self._fail(f"it claims {key_count} metadata keys and {tensor_count} tensors, more than any real model has")
        return tensor_count, key_count

    def _take(self, length_bytes: int, what: str) -> memoryview:
        if length_bytes > len(self.buffer) - self.at:
            self._fail(f"it ends within {what}, at byte {len(self.buffer)}")
        taken = self.buffer[self.at : self.at + length_bytes]
        self.at += length_bytes
        return taken

    def _read_number(self, code: str) -> int:
        return struct.unpack(code, self._take(struct.calcsize(code), "a number of its header"))[0]

    def _read_text(self, what: str) -> str:
        length_bytes = self._read_number("<Q")
        if length_bytes > MAX_TEXT_BYTES:
            self._fail(f"{what} claims to be {length_bytes} bytes long")
        try:
            return str(self._take(length_bytes, what), "utf-8")
        except UnicodeDecodeError:
            self._fail(f"{what} is not UTF-8")

    def _read_value(self, key: str) -> Value:
        kind = self._read_kind(key)
        if kind is not GGUFValueType.ARRAY:
            return self._read_items(kind, 1, key)[0]
        kind, count = self._read_kind(key), self._read_number("<Q")
        if kind is GGUFValueType.ARRAY:
            self._fail(f"{key} is an array of arrays, which no known model uses")
        if count > MAX_ITEMS:
            self._fail(f"{key} claims {count} items, more than any real model has")
        return self._read_items(kind, count, key)

    def _read_kind(self, key: str) -> GGUFValueType:
        code = self._read_number("<I")
        try:
            return GGUFValueType(code)
        except ValueError:
            self._fail(f"{key} is of the unknown type {code}")

    def _read_items(self, kind: GGUFValueType, count: int, key: str) -> list[Any]:
        if kind is GGUFValueType.STRING:
            return [self._read_text(key) for _ in range(count)]
        dtype = np.dtype(_SCALARS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize, key), dtype).tolist()

    def _read_tensor_info(self) -> _TensorInfo:
        name = self._read_text("a tensor's name")
        dimensions = self._read_number("<I")
        if not 1 <= dimensions <= 4:
            self._fail(f"the tensor {name} has {dimensions} dimensions")
        # The file has the innermost dimension first.
        shape = tuple(self._read_number("<Q") for _ in range(dimensions))[::-1]
        code, offset = self._read_number("<I"), self._read_number("<Q")
        quant = next((quant for quant in GGMLQuantizationType if quant == code), None)
        if quant is None or quant not in FORMATS:
            known = ", ".join(format.name for format in FORMATS)
            _refuse(
                self.path,
                f"the tensor {name} is packed as {quant.name if quant else code}, and only {known} are read",
                "Choose another quantisation of the model, such as Q8_0, Q4_1 or Q4_0",
            )
        values = FORMATS[quant].values
        if 0 in shape or shape[-1] % values:
            self._fail(f"the tensor {name} has the shape {shape}, whose rows are not whole blocks of {values}")
        return _TensorInfo(name, shape, quant, offset)

    def _place_tensors(self, infos: list[_TensorInfo], alignment: int) -> dict[str, PackedTensor]:
        base = -(-self.at // alignment) * alignment
        tensors: dict[str, PackedTensor] = {}
        free_from = 0
        for name, shape, quant, offset in sorted(infos, key=attrgetter("offset")):
            row_bytes = shape[-1] // FORMATS[quant].values * FORMATS[quant].block_bytes
            rows = math.prod(shape[:-1])
            start, end = base + offset, base + offset + rows * row_bytes
            if end > len(self.data):
                self._fail(f"the tensor {name} ends at byte {end}, and the file at byte {len(self.data)}")
            if name in tensors or offset % alignment or offset < free_from:
                self._fail(f"the tensor {name} is listed twice, overlaps another or is not aligned")
            tensors[name] = PackedTensor(name, quant.name, shape, self.data[start:end].reshape(rows, row_bytes))
            free_from = offset + rows * row_bytes
        return {info.name: tensors[info.name] for info in infos}
