"""G0: the weights that the engine computes with are those of the model's files, read a second way."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app.bench.subject import Outcome
from engine.spec import ModelSpec
from engine.weights.checkpoint import Checkpoint, WeightTensor, open_checkpoint
from engine.weights.safetensors_model import SafeTensor

Floats = NDArray[np.float32]
_NUMBERS: dict[str, Any] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def outcomes(name: str) -> Iterator[Outcome]:
    """A case a tensor, and one that none is missing or left over.

    Args:
        name: A GGUF file, a directory of safetensors, or random:SHAPE.
    """
    checkpoint = open_checkpoint(name)
    yield "the tensors are those of the shape", set(checkpoint.tensors) == set(checkpoint.spec.tensors())
    if name.startswith("random:"):
        yield from _drawn_again(name, checkpoint)
    elif Path(name).is_dir():
        yield from _as_stored(Path(name), checkpoint)
    else:
        yield from _as_the_package_reads(Path(name), checkpoint)


def _as_the_package_reads(path: Path, checkpoint: Checkpoint) -> Iterator[Outcome]:
    import gguf

    for theirs in gguf.GGUFReader(path).tensors:
        whole: Floats = np.asarray(gguf.quants.dequantize(theirs.data, theirs.tensor_type), np.float32)
        expected = _by_key_head(checkpoint.spec, theirs.name, whole)
        yield theirs.name, _same(checkpoint.tensors[theirs.name], expected)


def _by_key_head(spec: ModelSpec, name: str, numbers: Floats) -> Floats:
    """llama.cpp has value heads in turns, first the first of each key head; the engine has a key head's together."""
    delta = spec.delta
    widths = {"ssm_beta.weight": 1, "ssm_alpha.weight": 1, "ssm_dt.bias": 1, "ssm_a": 1}
    if delta is None or not name.startswith("blk."):
        return numbers
    widths |= dict.fromkeys(
        ("attn_qkv.weight", "attn_gate.weight", "ssm_conv1d.weight", "ssm_out.weight"), delta.value_dim
    )
    width = widths.get(name.split(".", 2)[2])
    if width is None:
        return numbers
    last = name.endswith("ssm_out.weight")
    heads = numbers.T if last else numbers
    first = len(heads) - delta.value_heads * width
    turns = np.arange(delta.value_heads).reshape(-1, delta.key_heads).T.ravel()
    moved = heads[first:].reshape(delta.value_heads, width, -1)[turns].reshape(heads[first:].shape)
    whole = np.concatenate([heads[:first], moved])
    return whole.T if last else whole


def _as_stored(directory: Path, checkpoint: Checkpoint) -> Iterator[Outcome]:
    """Each tensor is found in the files by its bytes, in the layer of its number, and is the numbers they stand for."""
    stored = [tensor for path in sorted(directory.glob("*.safetensors")) for tensor in _plain_read(path)]
    by_bytes = {(dtype, hashlib.blake2b(data).digest()): (dtype, data) for dtype, data in stored}
    for name, tensor in checkpoint.tensors.items():
        assert isinstance(tensor, SafeTensor)
        if name == "rope_freqs.weight":
            # Made of numbers in the config, not read.
            continue
        raw = tensor.stored_bytes().tobytes()
        found = by_bytes.get((tensor.quant, hashlib.blake2b(raw).digest()))
        yield name, found is not None and _same(tensor, _meant(checkpoint.spec, name, *found))


def _plain_read(path: Path) -> Iterator[tuple[str, bytes]]:
    """Type and bytes of each tensor of a file, by the description of the format in the README of safetensors."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name, told in header.items():
            if name != "__metadata__":
                first, end = told["data_offsets"]
                file.seek(8 + length + first)
                yield told["dtype"], file.read(end - first)


def _meant(spec: ModelSpec, name: str, dtype: str, data: bytes) -> Floats:
    numbers = torch.frombuffer(bytearray(data), dtype=_NUMBERS[dtype]).float()
    if name.endswith("ssm_a"):
        numbers = -numbers.exp()
    elif spec.delta and name.endswith("norm.weight") and "ssm_norm" not in name:
        numbers = numbers + 1
    return numbers.numpy()


def _drawn_again(name: str, checkpoint: Checkpoint) -> Iterator[Outcome]:
    again = open_checkpoint(name)
    backwards = {tensor: _digest(again.tensors[tensor]) for tensor in reversed(list(again.tensors))}
    for tensor, weights in checkpoint.tensors.items():
        yield tensor, _digest(weights) == backwards[tensor]


def _digest(tensor: WeightTensor) -> bytes:
    numbers = tensor.dequantise()
    assert numbers.shape == tensor.shape
    return hashlib.blake2b(np.ascontiguousarray(numbers).data).digest()


def _same(ours: WeightTensor, expected: Floats) -> bool:
    found = ours.dequantise()
    return math.prod(ours.shape) == expected.size and found.tobytes() == np.ascontiguousarray(expected).tobytes()
