"""Directories that are damaged, lie, or hold a model the engine doesn't know: one clear error each, and no crash."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelFileError
from engine.weights.checkpoint import open_checkpoint
from tests.engine import hybrid, tiny
from tests.engine.directories import write_tokenizer

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NAME = "model.layers.0.mlp.up_proj.weight"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories that are whole: dense, hybrid, and hybrid in shards."""
    path = tmp_path_factory.mktemp("whole")
    tiny.reference(tiny.Shape(scaled_rope=True)).save_pretrained(path / "dense")
    write_tokenizer(path / "dense")
    shape = hybrid.HybridShape()
    for name, shards in (("hybrid", 1), ("sharded", 3)):
        hybrid.write_directory(path / name, shape, hybrid.reference(shape), hybrid.draft_head(shape), shards=shards)
        open_checkpoint(path / name)
    open_checkpoint(path / "dense")
    return path


def refused(directory: Path, why: str = ".") -> None:
    with pytest.raises(ModelFileError, match=why) as caught:
        open_checkpoint(directory)
    assert str(directory) in caught.value.what
    assert all(part and "\n" not in part for part in (caught.value.what, caught.value.why, caught.value.fix))


def copy(saved: Path, tmp_path: Path, name: str = "dense") -> Path:
    return Path(shutil.copytree(saved / name, tmp_path / name))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CONFIGS: list[tuple[str, dict[str, Any], str]] = [
    ("dense", {"model_type": "qwen3_moe"}, "its model_type is 'qwen3_moe', and this engine runs llama"),
    ("dense", {"model_type": "qwen3_next"}, "qwen3_next"),
    ("dense", {"model_type": None}, "lacks model_type"),
    ("dense", {"model_type": 7}, "model_type is 7, not of the kind str"),
    ("dense", {"model_type": "qwen3_5"}, "lacks text_config.model_type"),
    ("dense", {"model_type": "qwen3_5", "text_config": {"model_type": "llama"}}, "not of the kind qwen3_5_text"),
    ("dense", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    ("dense", {"attention_bias": True}, "attention_bias is True"),
    ("dense", {"mlp_bias": True}, "mlp_bias is True"),
    ("dense", {"rope_interleaved": True}, "rope_interleaved is True"),
    ("dense", {"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window is True"),
    ("dense", {"layer_types": ["full_attention", "sliding_attention", "full_attention"]}, "not all full_attention"),
    ("dense", {"layer_types": [["full_attention"], {}, 3]}, "not all full_attention"),
    ("dense", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config is"),
    ("dense", {"num_hidden_layers": 0}, "num_hidden_layers is 0, which no model has"),
    ("dense", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ("dense", {"num_hidden_layers": 10**30}, "num_hidden_layers is"),
    ("dense", {"num_hidden_layers": 4}, "lacks the tensor model.layers.3.input_layernorm.weight"),
    ("dense", {"num_hidden_layers": 2}, "nothing in a llama model uses its tensor model.layers.2"),
    ("dense", {"hidden_size": -48}, "hidden_size is -48"),
    ("dense", {"hidden_size": 48.0}, "hidden_size is 48.0, not of the kind int"),
    ("dense", {"hidden_size": True}, "hidden_size is True, not of the kind int"),
    ("dense", {"hidden_size": 96}, r"embed_tokens.weight has the shape \(262, 48\) instead of \(262, 96\)"),
    ("dense", {"hidden_size": 3, "head_dim": None}, "head_dim is 0"),
    ("dense", {"vocab_size": 100}, "instead of"),
    ("dense", {"num_key_value_heads": 3}, "4 query heads of 12 do not share 3 kv heads"),
    ("dense", {"head_dim": 11}, "4 query heads of 11"),
    ("dense", {"rms_norm_eps": 0}, "rms_norm_eps is 0.0"),
    ("dense", {"rms_norm_eps": "1e-5"}, "rms_norm_eps is '1e-5', not of the kind float"),
    ("dense", {"rms_norm_eps": 10**40}, "rms_norm_eps is 1000"),
    ("dense", {"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ("dense", {"partial_rotary_factor": 0.5, "rope_parameters": None}, "rotates 6 dimensions of heads of 12"),
    ("dense", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_parameters and its rope_scaling differ"),
    ("dense", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "type 'yarn'"),
    ("dense", {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rotary positions are of the type"),
    ("dense", {"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
    ("dense", {"rope_parameters": {"rope_theta": -1}}, "rope_parameters.rope_theta is -1"),
    ("dense", {"rope_parameters": {"rope_type": "llama3"}}, "lacks rope_parameters.factor"),
    ("hybrid", {"attn_output_gate": False}, "attn_output_gate is False"),
    ("hybrid", {"output_gate_type": "sigmoid"}, "output_gate_type is 'sigmoid'"),
    ("hybrid", {"linear_num_value_heads": 3}, "3 value heads do not share 2 key heads"),
    ("hybrid", {"linear_conv_kernel_dim": 1}, "linear_conv_kernel_dim is 1"),
    ("hybrid", {"linear_key_head_dim": None}, "lacks linear_key_head_dim"),
    ("hybrid", {"full_attention_interval": 9, "layer_types": None}, "full_attention_interval is 9"),
    ("hybrid", {"layer_types": ["linear_attention"] * 4}, "in every n-th of 4 layers"),
    ("hybrid", {"layer_types": ["full_attention"] * 4}, "in every n-th of 4 layers"),
    ("hybrid", {"layer_types": ["linear_attention", "full_attention"]}, "in every n-th of 4 layers"),
    ("hybrid", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.01}}, "rotates 0 dimensions"),
]


@pytest.mark.parametrize(("name", "changes", "why"), CONFIGS, ids=[f"{name} {what}"[:60] for name, what, _ in CONFIGS])
def test_a_config_that_is_absurd_or_unknown(
    saved: Path, tmp_path: Path, name: str, changes: dict[str, Any], why: str
) -> None:
    path = copy(saved, tmp_path, name)
    change_json(path / "config.json", lambda config: config.update(changes))
    refused(path, why)


LLAMA3 = {
    "low_freq_factor": (4.0, "which is no range"),
    "factor": (0.5, "which is no range"),
    "high_freq_factor": (0, "0"),
}


@pytest.mark.parametrize("key", LLAMA3)
def test_a_scaling_that_is_no_range(saved: Path, tmp_path: Path, key: str) -> None:
    path = copy(saved, tmp_path)
    value, why = LLAMA3[key]
    change_json(path / "config.json", lambda config: config["rope_parameters"].update({key: value}))
    refused(path, why)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX])
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b'{"a": NaN}', "it is not JSON"),
        (b'{"a": "\xff"}', "it is not JSON"),
        (b"[" * 100_000, "it is not JSON"),
        (b"[]", "it is JSON but not an object"),
    ],
    ids=["empty", "cut", "nan", "not utf-8", "deep", "a list"],
)
def test_what_is_no_json(saved: Path, tmp_path: Path, file: str, content: bytes, why: str) -> None:
    path = copy(saved, tmp_path, "sharded")
    (path / file).write_bytes(content)
    refused(path, why)


@pytest.mark.parametrize(
    ("file", "why"),
    [
        ("config.json", "No such file"),
        ("tokenizer.json", "it has no tokenizer.json"),
        (INDEX, "it has neither model.safetensors nor model.safetensors.index.json"),
        (SHARD, "it is not there"),
    ],
)
def test_a_file_that_is_missing(saved: Path, tmp_path: Path, file: str, why: str) -> None:
    path = copy(saved, tmp_path, "sharded")
    (path / file).unlink()
    refused(path, why)
    (path / file).mkdir()
    refused(path)


def test_an_absurdly_long_file_is_not_read(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    with (path / "config.json").open("r+b") as file:
        file.truncate(1 << 40)
    refused(path, "it is longer than")


@pytest.mark.parametrize("place", ["../x.safetensors", "x\0", "/x", "a/b", ".", "..", "", 7, None])
def test_an_index_that_leads_out_of_its_directory(saved: Path, tmp_path: Path, place: Any) -> None:
    path = copy(saved, tmp_path, "sharded")
    change_json(path / INDEX, lambda index: index["weight_map"].update({NAME: place}))
    refused(path, f"it places the tensor {NAME} in .*, which is no name of a file beside it")


def test_an_index_and_shards_that_disagree(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path, "sharded")
    index = json.loads((path / INDEX).read_text())
    change_json(path / INDEX, lambda index: index["weight_map"].update({"model.more": SHARD}))
    refused(path, "it lacks the tensor model.more")
    (path / INDEX).write_text(
        json.dumps({"weight_map": {name: index["weight_map"][name] for name in index["weight_map"] if name != NAME}})
    )
    refused(path, f"does not place there the tensor {NAME}")
    other = next(place for place in index["weight_map"].values() if place != index["weight_map"][NAME])
    (path / INDEX).write_text(json.dumps({"weight_map": index["weight_map"] | {NAME: other}}))
    refused(path, f"tensor {NAME}")
    (path / INDEX).write_text(json.dumps({"weight_map": [NAME]}))
    refused(path, "weight_map is")


def with_header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the header of a file, its data left as they are."""
    data = (path / SINGLE).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    (path / SINGLE).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


HEADERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a longer shape": lambda header: header[NAME].update(shape=[80, 49]),
    "an overflowing shape": lambda header: header[NAME].update(shape=[2**63, 2**63]),
    "a negative shape": lambda header: header[NAME].update(shape=[-80, -48]),
    "an unknown type": lambda header: header[NAME].update(dtype="Q7"),
    "another width": lambda header: header[NAME].update(dtype="F16"),
    "offsets past the end": lambda header: header[NAME].update(data_offsets=[0, 2**62]),
    "offsets backwards": lambda header: header[NAME].update(data_offsets=[100, 0]),
    "overlapping tensors": lambda header: header[NAME].update(data_offsets=header["model.norm.weight"]["data_offsets"]),
    "no offsets": lambda header: header[NAME].pop("data_offsets"),
    "a tensor too few": lambda header: header.pop(NAME),
}


@pytest.mark.parametrize("what", HEADERS)
def test_a_header_that_lies(saved: Path, tmp_path: Path, what: str) -> None:
    path = copy(saved, tmp_path)
    with_header(path, HEADERS[what])
    refused(path)


def test_a_file_that_was_cut_anywhere(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    whole = (path / SINGLE).read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *np.random.default_rng(2).integers(0, len(whole), 30).tolist(), len(whole) - 1]:
        (path / SINGLE).write_bytes(whole[:length])
        refused(path)
    (path / SINGLE).write_bytes(whole + b"x")
    refused(path)
    (path / SINGLE).write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    refused(path)


def test_a_flipped_byte_of_a_header_is_refused_or_changes_nothing(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path)
    whole = (path / SINGLE).read_bytes()
    spec, draw, refusals = open_checkpoint(path).spec, np.random.default_rng(3), 0
    (length,) = struct.unpack("<Q", whole[:8])
    for at in draw.integers(0, 8 + length, 200).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(draw.integers(0, 8))
        (path / SINGLE).write_bytes(damaged)
        try:
            assert open_checkpoint(path).spec == spec
        except ModelFileError:
            refusals += 1
    assert refusals > 180


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.zeros(80, 48, dtype=torch.int8), f"{NAME} is of the type I8, and only BF16, F16, F32 are read"),
        (torch.zeros(80, 48, dtype=torch.float64), "of the type F64"),
        (torch.zeros(80, 48, dtype=torch.float8_e4m3fn), "of the type F8_E4M3"),
        (torch.zeros(48, 80), r"has the shape \(48, 80\) instead of \(80, 48\)"),
        (torch.zeros(80 * 48), "has the shape"),
        (torch.zeros(0), "has the shape"),
        (torch.tensor(1.0), "has the shape"),
    ],
    ids=["int8", "float64", "float8", "turned", "flat", "empty", "a number"],
)
def test_a_tensor_of_another_type_or_shape(saved: Path, tmp_path: Path, tensor: torch.Tensor, why: str) -> None:
    path = copy(saved, tmp_path)
    save_file(load_file(path / SINGLE) | {NAME: tensor}, path / SINGLE)
    refused(path, why)


def test_qwen3_next_s_fused_projections_are_not_taken_for_others(saved: Path, tmp_path: Path) -> None:
    path = copy(saved, tmp_path, "hybrid")
    tensors = load_file(path / SINGLE)
    mixer = "model.layers.0.linear_attn."
    parts = [tensors.pop(f"{mixer}in_proj_{part}.weight") for part in ("qkv", "z")]
    save_file(tensors | {f"{mixer}in_proj_qkvz.weight": torch.cat(parts)}, path / SINGLE)
    refused(path, f"it lacks the tensor {mixer}in_proj_qkv.weight")
