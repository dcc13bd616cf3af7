"""GGUF files of hybrid models against the transformers models that they were written from, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.backends import cpu
from engine.errors import ModelFileError
from engine.models.reader import body, choose_format
from engine.spec import DeltaSpec
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from engine.weights.gguf import GGUFFile
from engine.weights.gguf_model import read_spec
from tests.engine import hybrid, tiny
from tests.engine.hybrid import SHAPES, HybridShape
from tests.engine.weight_names import assert_same, our_name, our_values

TWO = SHAPES["two value heads a key head"]
"""Untied, with value heads of 32."""
NARROW = SHAPES["three untied"]
"""Its value heads are half as wide as a block."""
MOVED = [
    "attn_qkv.weight",
    "attn_gate.weight",
    "ssm_beta.weight",
    "ssm_alpha.weight",
    "ssm_conv1d.weight",
    "ssm_dt.bias",
    "ssm_a",
    "ssm_out.weight",
]
"""Tensors with value heads in them."""


def write(path: Path, shape: HybridShape, **how: Any) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """Write a model and open it; beside it its weights by their names in a text-only checkpoint."""
    model, mtp = hybrid.reference(shape), hybrid.draft_head(shape)
    file = hybrid.write_gguf(path / "m.gguf", shape, model, mtp, **how)
    return open_checkpoint(file), hybrid.weights(shape, model, mtp)


def tensors(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(numbers) for name, numbers in weights.items()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("mtp", [True, False], ids=["mtp", "no mtp"])
def test_every_tensor_is_what_was_trained(tmp_path: Path, shape: HybridShape, mtp: bool) -> None:
    checkpoint, weights = write(tmp_path, shape._replace(mtp=mtp))
    assert_same(checkpoint, tensors(weights))
    assert checkpoint.spec.draft_head == mtp


def test_the_shape_is_the_writers(tmp_path: Path) -> None:
    spec = write(tmp_path, TWO)[0].spec
    assert spec.delta == DeltaSpec(key_heads=2, value_heads=4, key_dim=16, value_dim=32, kernel=4, interval=4)
    assert (spec.layers, spec.hidden, spec.feed_forward, spec.context_tokens) == (4, 64, 96, hybrid.CONTEXT_TOKENS)
    assert (spec.query_heads, spec.kv_heads, spec.head_dim, spec.rotary_dims) == (4, 1, 16, 8)
    assert (spec.tied_head, spec.gated, spec.head_norms, spec.rotary_halves) == (False, True, True, True)
    assert [spec.attends(layer) for layer in range(4)] == [False, False, False, True]
    assert (spec.rope_base, spec.norm_epsilon) == (hybrid.ROPE_BASE, pytest.approx(hybrid.EPSILON))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES.values() if shape.ratio > 1])
def test_heads_that_were_not_moved_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: HybridShape
) -> None:
    monkeypatch.setattr(hybrid, "_tile", lambda _shape, _name, numbers: numbers)
    checkpoint, weights = write(tmp_path, shape)
    wanted = {
        our_name("qwen35", shape.layers, name): our_values("qwen35", name, weight).numpy()
        for name, weight in tensors(weights).items()
    }
    wrong = {name for name, numbers in wanted.items() if (checkpoint.tensors[name].dequantise() != numbers).any()}
    nets = [layer for layer in range(shape.layers) if not checkpoint.spec.attends(layer)]
    assert wrong == {f"blk.{layer}.{name}" for layer in nets for name in MOVED}


@pytest.mark.parametrize("shape", [TWO, NARROW, TWO._replace(value_heads=6)])
@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1", "Q8_0"])
def test_packed_heads_are_those_of_the_gguf_package(tmp_path: Path, shape: HybridShape, quant: str) -> None:
    checkpoint, weights = write(tmp_path, shape, quant=quant)
    assert_same(checkpoint, tensors(hybrid.rounded(shape, weights, quant)))


@pytest.mark.parametrize("quant", ["Q4_0", "Q4_1"])
def test_four_bit_parts_are_moved_alike(tmp_path: Path, quant: str) -> None:
    checkpoint, _ = write(tmp_path, TWO._replace(value_heads=6), quant=quant)
    for name in body(checkpoint.spec):
        tensor = checkpoint.tensors[name]
        codes, scale, minimum = tensor.q4_parts()
        steps, offsets = scale.repeat(32, axis=1), minimum.repeat(32, axis=1)
        # As ggml computes each: Q4_0 takes 8 from the code before the product.
        numbers = steps * codes + offsets if quant == "Q4_1" else steps * (codes.astype(np.float32) - 8)
        np.testing.assert_array_equal(numbers, tensor.dequantise(), name)
        assert quant == "Q4_1" or (minimum == -8 * scale).all()
        assert cpu.int4_fits(tensor)


def test_heads_narrower_than_a_block_are_not_left_packed(tmp_path: Path) -> None:
    checkpoint, _ = write(tmp_path, NARROW, quant="Q4_1")
    outputs = {name for name in body(checkpoint.spec) if name.endswith("ssm_out.weight")}
    assert {name for name in body(checkpoint.spec) if checkpoint.tensors[name].quant != "Q4_1"} == outputs
    for name in outputs:
        assert not cpu.int4_fits(checkpoint.tensors[name])
        with pytest.raises(ValueError, match="not whole blocks of Q4_1"):
            checkpoint.tensors[name].q4_parts()
    assert choose_format(checkpoint) != "int4"


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"nextn_predict_layers": 2}, r"qwen35.nextn_predict_layers is 2, not from 0 to 1"),
        ({"block_count": 1}, r"qwen35.block_count is 1, not from 2"),
        ({"block_count": 6}, r"lacks the tensor blk.4.attn_qkv.weight"),
        ({"nextn_predict_layers": 0}, r"lacks the tensor blk.4.attn_qkv.weight"),
        ({"full_attention_interval": 2}, r"lacks the tensor blk.1.attn_q.weight"),
        ({"full_attention_interval": 8}, r"qwen35.full_attention_interval is 8, not from 2 to 4"),
        ({"attention.recurrent_layers": [True, False, True, False, False]}, r"not every 4th of 4"),
        ({"attention.value_length": 8}, r"not as wide"),
        ({"rope.dimension_count": 3}, r"rotates 3 dimensions of heads of 16"),
        ({"rope.dimension_count": 18}, r"rope.dimension_count is 18"),
        ({"rope.scaling.type": "yarn"}, r"yarn"),
        ({"ssm.group_count": 3}, r"4 value heads of 128 numbers do not share 3 key heads"),
        ({"ssm.inner_size": 130}, r"4 value heads of 130 numbers"),
        ({"ssm.inner_size": 2}, r"4 value heads of 2 numbers"),
        ({"ssm.conv_kernel": 1}, r"qwen35.ssm.conv_kernel is 1"),
        ({"ssm.state_size": 8}, r"the tensor blk.0.attn_qkv.weight has the shape"),
    ],
)
def test_refuses_by_name(tmp_path: Path, metadata: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelFileError, match=told):
        write(tmp_path, TWO, **metadata)


def test_recurrent_layers_that_agree_are_accepted(tmp_path: Path) -> None:
    layers = [True, True, True, False, False]
    assert write(tmp_path, TWO, **{"attention.recurrent_layers": layers})[0].spec == write(tmp_path, TWO)[0].spec


def test_a_draft_head_that_was_dropped_is_not_missed(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    hybrid.write_gguf(path, TWO, hybrid.reference(TWO), {}, block_count=5, nextn_predict_layers=1)
    checkpoint = open_checkpoint(path)
    assert checkpoint.spec == replace(write(tmp_path, TWO)[0].spec, draft_head=False)


@pytest.mark.parametrize("name", ["nextn.embed_tokens.weight", "nextn.shared_head_head.weight", "attn_q.bias"])
def test_a_draft_head_with_more_to_it_is_refused(tmp_path: Path, name: str) -> None:
    extra = tiny.tensor(f"blk.4.{name}", np.zeros((tiny.VOCABULARY, TWO.hidden)))
    with pytest.raises(ModelFileError, match=rf"nothing in a qwen35 model uses its tensor blk\.4\.{name}"):
        write(tmp_path, TWO, extra=(extra,))


@pytest.mark.parametrize("name", ["mtp.fc.weight", "mtp.norm.weight", "mtp.layers.0.mlp.up_proj.weight"])
def test_half_a_draft_head_is_refused(tmp_path: Path, name: str) -> None:
    mtp = hybrid.draft_head(TWO)
    del mtp[name]
    path = hybrid.write_gguf(tmp_path / "m.gguf", TWO, hybrid.reference(TWO), mtp)
    with pytest.raises(ModelFileError, match=r"(lacks the|uses its) tensor blk\.4\."):
        open_checkpoint(path)


def test_digest_is_of_every_byte(tmp_path: Path) -> None:
    first, _ = write(tmp_path, TWO)
    model = hybrid.reference(TWO)
    with torch.no_grad():
        model.model.layers[0].linear_attn.dt_bias[0] += 1
    second = open_checkpoint(hybrid.write_gguf(tmp_path / "n.gguf", TWO, model, hybrid.draft_head(TWO)))
    assert first.digest() == open_checkpoint(tmp_path / "m.gguf").digest() != second.digest()


@pytest.mark.models
def test_the_real_default_is_a_llama(llm_path: Path) -> None:
    spec = read_spec(GGUFFile.open(llm_path))
    assert (spec.layers, spec.hidden, spec.query_heads, spec.kv_heads, spec.head_dim) == (30, 576, 9, 3, 64)
    assert (spec.delta, spec.draft_head, spec.rotary_halves) == (None, False, False)
