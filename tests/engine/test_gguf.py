"""GGUF files: blocks against the `gguf` package bit by bit, and damaged files against one clear error."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from engine.errors import ModelFileError
from engine.weights.blocks import FORMATS
from engine.weights.gguf import GGUFFile, PackedTensor
from tests.engine import ggufs

QUANTS = list(FORMATS)


def reference(blocks: NDArray[np.uint8], quant: GGMLQuantizationType) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(blocks, quant)


def random_tensor(quant: GGMLQuantizationType, rows: int, row_blocks: int, seed: int = 1) -> PackedTensor:
    """Every bit random: scales are negative, subnormal, infinite and NaN too."""
    block_values, block_bytes = GGML_QUANT_SIZES[quant]
    blocks = np.random.default_rng(seed).integers(0, 256, (rows, row_blocks * block_bytes), np.uint8)
    return PackedTensor("random", quant.name, (rows, row_blocks * block_values), blocks)


@pytest.mark.parametrize("quant", QUANTS, ids=lambda quant: quant.name)
def test_blocks_agree_with_the_gguf_package_bit_by_bit(quant: GGMLQuantizationType) -> None:
    tensor = random_tensor(quant, rows=1500, row_blocks=3)
    assert tensor.dequantise().tobytes() == reference(tensor.blocks, quant).tobytes()


def test_one_wrong_bit_is_seen() -> None:
    tensor = random_tensor(GGMLQuantizationType.Q4_K, rows=4, row_blocks=1)
    spoilt = tensor.blocks.copy()
    spoilt[2, 40] ^= 1
    assert tensor.dequantise().tobytes() != reference(spoilt, GGMLQuantizationType.Q4_K).tobytes()


@pytest.mark.parametrize("quant", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1])
def test_q4_parts_put_together_are_the_numbers(quant: GGMLQuantizationType) -> None:
    numbers = np.random.default_rng(2).normal(size=(6, 96)).astype(np.float32)
    tensor = PackedTensor("w", quant.name, (6, 96), gguf.quants.quantize(numbers, quant))
    codes, scale, minimum = tensor.q4_parts()
    assert (codes.dtype, codes.shape, scale.shape, minimum.shape) == (np.uint8, (6, 96), (6, 3), (6, 3))
    assert codes.max() <= 15
    together = np.repeat(scale, 32, 1) * codes + np.repeat(minimum, 32, 1)
    np.testing.assert_allclose(together, tensor.dequantise(), rtol=1e-6, atol=1e-6)
    assert np.abs(together - numbers).max() < np.abs(scale).max()


def test_q8_parts_put_together_are_the_numbers() -> None:
    numbers = np.random.default_rng(3).normal(size=(5, 64)).astype(np.float32)
    tensor = PackedTensor("w", "Q8_0", (5, 64), gguf.quants.quantize(numbers, GGMLQuantizationType.Q8_0))
    codes, scale = tensor.q8_parts()
    assert (codes.dtype, codes.shape, scale.shape) == (np.int8, (5, 64), (5, 2))
    assert (np.repeat(scale, 32, 1) * codes).tobytes() == tensor.dequantise().tobytes()


def test_parts_of_another_format_are_refused() -> None:
    tensor = random_tensor(GGMLQuantizationType.Q6_K, rows=1, row_blocks=1)
    with pytest.raises(ValueError, match="neither Q4_0 nor Q4_1"):
        tensor.q4_parts()
    with pytest.raises(ValueError, match="not Q8_0"):
        tensor.q8_parts()


METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "some.flag": True,
    "some.names": ["one", "two", "drei €"],
    "some.numbers": [3, 1, 2],
}
MATRIX = np.arange(4 * 64, dtype=np.float32).reshape(4, 64)
TENSORS = [
    ggufs.RawTensor("w.f32", (64, 4), GGMLQuantizationType.F32, MATRIX.tobytes()),
    ggufs.RawTensor(
        "w.q8", (64, 2, 2), GGMLQuantizationType.Q8_0, gguf.quants.quantize(MATRIX, GGMLQuantizationType.Q8_0).tobytes()
    ),
    ggufs.RawTensor("norm", (64,), GGMLQuantizationType.F32, MATRIX[1].tobytes()),
]
WHOLE = ggufs.build(METADATA, TENSORS)


def open_bytes(tmp_path: Path, data: bytes) -> GGUFFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return GGUFFile.open(path)


def test_a_file_gives_its_metadata_and_tensors(tmp_path: Path) -> None:
    file = open_bytes(tmp_path, WHOLE)
    assert file.metadata == METADATA
    assert {name: tensor.shape for name, tensor in file.tensors.items()} == {
        "w.f32": (4, 64),
        "w.q8": (2, 2, 64),
        "norm": (64,),
    }
    assert np.array_equal(file.tensors["w.f32"].dequantise(), MATRIX)
    assert np.array_equal(file.tensors["norm"].dequantise(), MATRIX[1])
    np.testing.assert_allclose(file.tensors["w.q8"].dequantise().reshape(4, 64), MATRIX, atol=1.1)


def test_the_reference_reader_sees_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(WHOLE)
    reader = gguf.GGUFReader(path)
    assert {name: field.contents() for name, field in reader.fields.items() if name in METADATA} == METADATA
    assert [tensor.name for tensor in reader.tensors] == list(GGUFFile.open(path).tensors)


def test_metadata_is_asked_for_by_kind(tmp_path: Path) -> None:
    file = open_bytes(tmp_path, WHOLE)
    assert file.require("llama.block_count", int) == 2
    assert file.require("llama.block_count", float) == 2.0
    assert file.get("not.there", str) is None
    with pytest.raises(ModelFileError, match=r"lacks not\.there"):
        file.require("not.there", int)
    with pytest.raises(ModelFileError, match=r"has bool where some\.flag is int"):
        file.get("some.flag", int)


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    for length in range(len(WHOLE)):
        with pytest.raises(ModelFileError) as caught:
            open_bytes(tmp_path, WHOLE[:length])
        assert caught.value.why
        assert caught.value.fix


def test_every_flipped_byte_of_the_header_opens_or_is_one_clear_error(tmp_path: Path) -> None:
    header_bytes = len(WHOLE) - sum(len(tensor.data) for tensor in TENSORS)
    refused = 0
    for position in range(header_bytes):
        for flip in (0x01, 0x80, 0xFF):
            data = bytearray(WHOLE)
            data[position] ^= flip
            try:
                file = open_bytes(tmp_path, bytes(data))
            except ModelFileError:
                refused += 1
            else:
                assert sum(tensor.blocks.nbytes for tensor in file.tensors.values()) <= len(WHOLE)
    # Changed letters of a name go unnoticed here (the checksum of the catalogue sees them); lengths and types don't.
    assert refused > header_bytes


HUGE = struct.pack("<Q", 1 << 60)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"GGUF" + bytes(20), "version 0", id="version"),
        pytest.param(b"GGML" + WHOLE[4:], "letters GGUF", id="magic"),
        pytest.param(b"GGUF" + struct.pack(">I", 3) + WHOLE[8:], "big-endian", id="big-endian"),
        pytest.param(WHOLE[:8] + HUGE + WHOLE[16:], "more than any real model", id="tensor count"),
        pytest.param(WHOLE[:16] + HUGE + WHOLE[24:], "more than any real model", id="key count"),
        pytest.param(WHOLE[:24] + HUGE + WHOLE[32:], "claims to be", id="length of a key"),
        pytest.param(
            ggufs.build({"a": [1, 2]}).replace(struct.pack("<IQ", 4, 2), struct.pack("<I", 4) + HUGE),
            "more than any real model",
            id="array length",
        ),
        pytest.param(
            ggufs.build({"a": [1, 2]}).replace(struct.pack("<IQ", 4, 2), struct.pack("<IQ", 9, 2)),
            "array of arrays",
            id="nested array",
        ),
        pytest.param(ggufs.build({"general.alignment": 24}), "not a power of two", id="alignment"),
        pytest.param(ggufs.build({}, [TENSORS[0]._replace(code=10)]), "packed as Q2_K", id="format"),
        pytest.param(ggufs.build({}, [TENSORS[0]._replace(code=4242)]), "packed as 4242", id="unknown format"),
        pytest.param(ggufs.build({}, [TENSORS[0], TENSORS[0]]), "listed twice", id="tensor twice"),
        pytest.param(ggufs.build({}, [TENSORS[0]._replace(dimensions=(64, 5))]), "ends at byte", id="too large"),
        pytest.param(
            ggufs.build({}, [TENSORS[0]._replace(dimensions=(1 << 62, 1 << 62))]), "ends at byte", id="absurd"
        ),
        pytest.param(ggufs.build({}, [TENSORS[1]._replace(dimensions=(63, 4))]), "whole blocks", id="row"),
        pytest.param(ggufs.build({}, [TENSORS[0]._replace(dimensions=(64, 0))]), "whole blocks", id="empty"),
        pytest.param(ggufs.build({}, [TENSORS[0]._replace(dimensions=())]), "0 dimensions", id="dimensions"),
    ],
)
def test_lies_are_refused_with_their_reason(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(ModelFileError, match=why):
        open_bytes(tmp_path, data)


def test_a_key_that_comes_twice_is_refused(tmp_path: Path) -> None:
    data = ggufs.build({"a": 1, "b": 2}).replace(ggufs.text("b"), ggufs.text("a"))
    with pytest.raises(ModelFileError, match="a twice"):
        open_bytes(tmp_path, data)


def test_tensors_that_overlap_are_refused(tmp_path: Path) -> None:
    data = ggufs.build({}, TENSORS[:2])
    second = struct.pack("<IQ", TENSORS[1].code, len(TENSORS[0].data))
    assert data.count(second) == 1
    with pytest.raises(ModelFileError, match="overlaps"):
        open_bytes(tmp_path, data.replace(second, struct.pack("<IQ", TENSORS[1].code, 32)))


def test_a_path_that_is_no_file_is_one_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(ModelFileError, match="can't be used"):
            GGUFFile.open(path)


@pytest.mark.models
def test_the_real_model_agrees_with_the_gguf_package(llm_path: Path) -> None:
    file = GGUFFile.open(llm_path)
    reader = gguf.GGUFReader(llm_path)
    assert {name: field.contents() for name, field in reader.fields.items() if name[:5] != "GGUF."} == file.metadata
    assert list(file.tensors) == [tensor.name for tensor in reader.tensors]
    for theirs in reader.tensors:
        ours = file.tensors[theirs.name]
        assert ours.quant == theirs.tensor_type.name
        assert ours.shape == tuple(map(int, reversed(theirs.shape)))
        assert ours.dequantise().tobytes() == reference(theirs.data, theirs.tensor_type).tobytes(), theirs.name
