"""Weights by the names and values that GGUF has for those of transformers, from the `gguf` package alone."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import MODEL_ARCH

from engine.spec import ROPE_FACTORS
from engine.weights.checkpoint import Checkpoint

ARCHITECTURES = {"llama": MODEL_ARCH.LLAMA, "qwen3": MODEL_ARCH.QWEN3, "qwen35": MODEL_ARCH.QWEN35}
DRAFT = {
    "mtp.fc": "nextn.eh_proj",
    "mtp.pre_fc_norm_embedding": "nextn.enorm",
    "mtp.pre_fc_norm_hidden": "nextn.hnorm",
    "mtp.norm": "nextn.shared_head_norm",
}
"""What llama.cpp calls the draft head's own tensors; the `gguf` package does not know that this family has one."""


def our_name(architecture: str, layers: int, name: str) -> str:
    """What GGUF calls a tensor, by the `gguf` package."""
    stem, dot, ending = name.rpartition(".")
    if ending not in ("weight", "bias"):
        stem, dot, ending = name, "", ""
    if stem in DRAFT:
        return f"blk.{layers}.{DRAFT[stem]}.weight"
    stem = stem.replace("mtp.layers.0", f"model.layers.{layers}")
    if stem.endswith("dt_bias"):
        stem, dot, ending = stem.replace("dt_bias", "dt_proj"), ".", "bias"
    found = gguf.get_tensor_name_map(ARCHITECTURES[architecture], layers + 1).get_name(stem)
    assert found, name
    return found + dot + ending


def our_values(architecture: str, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A tensor as GGUF has its values, but for the order of heads."""
    numbers = weight.float()
    if name.endswith("A_log"):
        return -numbers.exp()
    if name.endswith("conv1d.weight"):
        return numbers.squeeze(1)
    plain = architecture != "qwen35" or "norm" not in name or name.endswith("linear_attn.norm.weight")
    return numbers if plain else numbers + 1


def bits(numbers: Any) -> tuple[tuple[int, ...], bytes]:
    """A tensor of float32 that only equal bits make equal."""
    assert numbers.dtype == np.float32
    return numbers.shape, np.ascontiguousarray(numbers).tobytes()


def assert_same(checkpoint: Checkpoint, weights: dict[str, torch.Tensor]) -> None:
    """The checkpoint has these tensors, bit for bit, and no others."""
    spec = checkpoint.spec
    wanted = {
        our_name(spec.architecture, spec.layers, name): our_values(spec.architecture, name, weight)
        for name, weight in weights.items()
    }
    assert wanted.keys() == checkpoint.tensors.keys() - {ROPE_FACTORS}
    for name, numbers in wanted.items():
        assert bits(checkpoint.tensors[name].dequantise()) == bits(numbers.numpy()), name
        assert checkpoint.tensors[name].shape == spec.tensors()[name] == tuple(numbers.shape)
        assert checkpoint.tensors[name].name == name
