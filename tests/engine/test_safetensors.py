"""Directories of safetensors against the transformers models that they were saved from, bit for bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelFileError
from engine.spec import ROPE_FACTORS, DeltaSpec
from engine.weights.checkpoint import open_checkpoint
from tests.engine import hybrid, tiny
from tests.engine.directories import write_json, write_shards, write_tokenizer
from tests.engine.tiny import Shape
from tests.engine.weight_names import assert_same, bits

DENSE = {
    "llama tied": Shape(),
    "llama untied": Shape(tied=False, kv_heads=4),
    "llama 3": Shape(scaled_rope=True),
    "qwen3": Shape("qwen3", head_dim=16),
    "qwen3 untied": Shape("qwen3", tied=False),
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def save_dense(path: Path, shape: Shape, dtype: torch.dtype = torch.float32, **how: Any) -> Any:
    model = tiny.reference(shape).to(dtype)
    model.save_pretrained(path, **how)
    write_tokenizer(path)
    return model


def save_hybrid(path: Path, shape: hybrid.HybridShape, **how: Any) -> dict[str, torch.Tensor]:
    """Write a hybrid model, and return its weights by their names in a text-only checkpoint."""
    model, mtp = hybrid.reference(shape), hybrid.draft_head(shape)
    hybrid.write_directory(path, shape, model, mtp, **how)
    return {name: torch.from_numpy(numbers) for name, numbers in hybrid.weights(shape, model, mtp).items()}


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one out."""
    values = json.loads(path.read_text()) | changes
    write_json(path, {key: value for key, value in values.items() if value is not None})


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of model.safetensors."""
    tensors = load_file(path / SINGLE)
    change(tensors)
    save_file(tensors, path / SINGLE)


@pytest.mark.parametrize("shape", DENSE.values(), ids=list(DENSE))
def test_a_dense_model_is_what_was_saved(tmp_path: Path, shape: Shape) -> None:
    model = save_dense(tmp_path, shape)
    checkpoint = open_checkpoint(tmp_path)
    spec = checkpoint.spec
    weights = model.state_dict()
    assert spec.tied_head == shape.tied == torch.equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert_same(checkpoint, {name: weights[name] for name in weights if not (shape.tied and "lm_head" in name)})
    assert (spec.layers, spec.hidden, spec.feed_forward) == (shape.layers, shape.hidden, shape.feed_forward)
    assert (spec.query_heads, spec.kv_heads, spec.head_dim) == (shape.query_heads, shape.kv_heads, shape.head_dim)
    assert (spec.architecture, spec.head_norms) == (shape.architecture, shape.architecture == "qwen3")
    assert (spec.rope_base, spec.norm_epsilon, spec.context_tokens) == (10000.0, 1e-5, 512)
    assert (spec.rotary_dims, spec.rotary_halves, spec.rope_factors) == (shape.head_dim, True, shape.scaled_rope)
    assert not spec.gated
    assert spec.delta is None
    assert not spec.draft_head
    assert checkpoint.label == str(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_it_is(tmp_path: Path, dtype: torch.dtype) -> None:
    model = save_dense(tmp_path, DENSE["qwen3 untied"], dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert_same(checkpoint, model.state_dict())
    assert {tensor.quant for tensor in checkpoint.tensors.values()} == {"BF16" if dtype is torch.bfloat16 else "F16"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", hybrid.SHAPES.values(), ids=list(hybrid.SHAPES))
def test_a_hybrid_model_is_what_was_saved(tmp_path: Path, shape: hybrid.HybridShape, dtype: torch.dtype) -> None:
    weights = save_hybrid(tmp_path, shape, dtype=dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert_same(checkpoint, weights)
    spec = checkpoint.spec
    heads = (shape.key_heads, shape.value_heads, shape.key_dim, shape.value_dim)
    assert spec.delta == DeltaSpec(*heads, hybrid.KERNEL, hybrid.INTERVAL)
    assert (spec.rotary_dims, spec.gated, spec.head_norms) == (shape.rotary_dims, True, True)
    assert (spec.tied_head, spec.draft_head) == (shape.tied, shape.mtp)


def test_the_comparison_sees_a_norm_that_is_not_whole_and_a_decay_that_is_not_one(tmp_path: Path) -> None:
    weights = save_hybrid(tmp_path, hybrid.HybridShape())
    checkpoint = open_checkpoint(tmp_path)
    for ours, theirs in (
        ("output_norm.weight", "model.norm.weight"),
        ("blk.0.ssm_a", "model.layers.0.linear_attn.A_log"),
    ):
        assert bits(checkpoint.tensors[ours].dequantise()) != bits(weights[theirs].numpy())


def test_how_a_model_lies_in_files_makes_no_difference(tmp_path: Path) -> None:
    shape = hybrid.HybridShape(tied=False)
    weights = save_hybrid(tmp_path / "single", shape)
    save_hybrid(tmp_path / "sharded", shape, shards=3)
    save_hybrid(tmp_path / "multimodal", shape, multimodal=True)
    single, *others = (open_checkpoint(tmp_path / name) for name in ("single", "sharded", "multimodal"))
    assert not (tmp_path / "sharded" / SINGLE).exists()
    for other in others:
        assert_same(other, weights)
        assert other.spec == single.spec
        assert other.digest() == single.digest()


def test_transformers_own_multimodal_and_sharded_directories_are_read(tmp_path: Path) -> None:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    eyes = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64}
    text = hybrid.config(hybrid.HybridShape(tied=False))
    config = Qwen3_5Config(text_config=text, vision_config=eyes | {"num_position_embeddings": 16})
    torch.manual_seed(1)
    model: Any = Qwen3_5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    write_tokenizer(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    names = {name: name.replace("language_model.", "") for name in model.state_dict() if "visual" not in name}
    assert len(names) < len(model.state_dict())
    assert_same(open_checkpoint(tmp_path), {name: model.state_dict()[theirs] for theirs, name in names.items()})


def test_a_digest_sees_one_bit_a_name_and_a_type(tmp_path: Path) -> None:
    save_dense(tmp_path, Shape())
    name = "model.layers.1.mlp.up_proj.weight"
    plain = open_checkpoint(tmp_path).digest()
    assert len(plain) == 32
    assert open_checkpoint(tmp_path).digest() == plain
    found = {plain}

    def flip(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(torch.int32)[3, 5] ^= 1

    def swap(tensors: dict[str, torch.Tensor]) -> None:
        other = name.replace("up", "gate")
        tensors[name], tensors[other] = tensors[other], tensors[name]

    def zero(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.zeros(80, 48, dtype=torch.float16)

    def zero_otherwise(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name] = torch.zeros(80, 48, dtype=torch.bfloat16)

    for change in (flip, swap, zero, zero_otherwise):
        rewrite(tmp_path, change)
        found.add(open_checkpoint(tmp_path).digest())
    assert len(found) == 5


def test_tensors_stay_on_disk_and_are_handed_out_as_copies(tmp_path: Path) -> None:
    save_dense(tmp_path, Shape())
    tensor = open_checkpoint(tmp_path).tensors["token_embd.weight"]
    first = tensor.dequantise()
    whole = first.copy()
    first[:] = 0
    assert bits(tensor.dequantise()) == bits(whole)
    with pytest.raises(ValueError, match=r"token_embd.weight is F32"):
        tensor.q4_parts()


def test_llama_3_divides_each_frequency_as_transformers_and_the_converter_do(tmp_path: Path) -> None:
    model = save_dense(tmp_path, Shape(scaled_rope=True, head_dim=16))
    divisors = open_checkpoint(tmp_path).tensors[ROPE_FACTORS].dequantise()
    wanted: list[float] = []
    for frequency in 1.0 / (10000.0 ** (torch.arange(0, 16, 2, dtype=torch.float32) / 16)):
        length = 2 * math.pi / frequency
        share = (64 / length - 1.0) / (4.0 - 1.0)
        between = float(1 / ((1 - share) / 8.0 + share))
        wanted.append(1.0 if length < 64 / 4.0 else 8.0 if length > 64 / 1.0 else between)
    assert bits(divisors) == bits(np.array(wanted, np.float32))
    plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / divisors, model.model.rotary_emb.inv_freq.numpy(), rtol=1e-6)
    assert {1.0, 8.0} < set(wanted)


def test_old_and_new_spelling_of_a_config_are_one(tmp_path: Path) -> None:
    save_dense(tmp_path, Shape(scaled_rope=True))
    new = open_checkpoint(tmp_path)
    rope = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    base = rope.pop("rope_theta")
    for key in ("rope_type", "type"):
        scaling = {key: rope["rope_type"]} | {name: rope[name] for name in rope if name != "rope_type"}
        edit(tmp_path / "config.json", rope_parameters=None, rope_theta=base, rope_scaling=scaling)
        old = open_checkpoint(tmp_path)
        assert old.spec == new.spec
        assert old.digest() == new.digest()
    edit(tmp_path / "config.json", rope_theta=5e5)
    assert open_checkpoint(tmp_path).spec == replace(new.spec, rope_base=5e5)


def test_an_interval_stands_for_layer_types(tmp_path: Path) -> None:
    save_hybrid(tmp_path, hybrid.HybridShape())
    listed = open_checkpoint(tmp_path)
    edit(tmp_path / "config.json", layer_types=None)
    assert open_checkpoint(tmp_path).spec == listed.spec
    edit(tmp_path / "config.json", full_attention_interval=2)
    with pytest.raises(ModelFileError, match=r"lacks the tensor model.layers.1.self_attn.q_proj.weight"):
        open_checkpoint(tmp_path)


def test_whether_there_is_a_draft_head_is_for_the_tensors_to_say(tmp_path: Path) -> None:
    shape = hybrid.HybridShape()
    weights = save_hybrid(tmp_path, shape)
    write_shards(tmp_path, {name: weight for name, weight in weights.items() if not name.startswith("mtp.")})
    assert not open_checkpoint(tmp_path).spec.draft_head
    write_shards(tmp_path, {name.replace("mtp.", "model.mtp."): weight for name, weight in weights.items()})
    edit(tmp_path / "config.json", mtp_num_hidden_layers=0)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.spec.draft_head
    assert_same(checkpoint, weights)
    write_shards(tmp_path, {name: weights[name] for name in weights if name != "mtp.norm.weight"})
    with pytest.raises(ModelFileError, match=r"lacks the tensor mtp.norm.weight"):
        open_checkpoint(tmp_path)


def test_a_tied_head_may_be_stored_once_more_but_not_differ(tmp_path: Path) -> None:
    save_dense(tmp_path, Shape())
    tied = open_checkpoint(tmp_path)
    head = "lm_head.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({head: tensors["model.embed_tokens.weight"].clone()}))
    again = open_checkpoint(tmp_path)
    assert again.spec == tied.spec
    assert again.digest() == tied.digest()
    edit(tmp_path / "config.json", tie_word_embeddings=None)
    assert not open_checkpoint(tmp_path).spec.tied_head
    edit(tmp_path / "config.json", tie_word_embeddings=True)
    rewrite(tmp_path, lambda tensors: tensors[head].mul_(1.01))
    with pytest.raises(ModelFileError, match=r"lm_head.weight is another one"):
        open_checkpoint(tmp_path)
    edit(tmp_path / "config.json", tie_word_embeddings=False)
    rewrite(tmp_path, lambda tensors: tensors.pop(head))
    with pytest.raises(ModelFileError, match=r"lacks the tensor lm_head.weight"):
        open_checkpoint(tmp_path)


def test_where_two_parts_of_a_config_contradict_each_other_the_tensors_decide(tmp_path: Path) -> None:
    for tied in (True, False):
        save_hybrid(tmp_path / str(tied), hybrid.HybridShape(tied=tied), multimodal=True)
        edit(tmp_path / str(tied) / "config.json", tie_word_embeddings=not tied)
        assert open_checkpoint(tmp_path / str(tied)).spec.tied_head == tied


def test_what_no_text_model_needs_is_skipped_and_nothing_else(tmp_path: Path) -> None:
    save_dense(tmp_path, Shape())
    plain = open_checkpoint(tmp_path).digest()
    rewrite(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}))
    assert open_checkpoint(tmp_path).digest() == plain
    for name in (
        "model.layers.3.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.bias",
        "visual.x",
        "rotary_emb.inv_freq.x",
    ):
        rewrite(tmp_path, lambda tensors, name=name: tensors.update({name: torch.ones(2)}))
        with pytest.raises(ModelFileError, match=f"uses its tensor {name}"):
            open_checkpoint(tmp_path)
        rewrite(tmp_path, lambda tensors, name=name: tensors.pop(name))
