"""Small random hybrid models in every form they come in: transformers' own, a directory of safetensors, a GGUF file.

All are written from the same weights. Those have values that bfloat16 can hold, as the released models' have, so no
form loses anything and a difference between two of them is a fault of what reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from tests.engine import directories, tiny
from tests.engine.ggufs import RawTensor, build, vocabulary

INTERVAL = 4
KERNEL = 4
ROPE_BASE = 10000.0
EPSILON = 1e-6
CONTEXT_TOKENS = 4096

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]
"""float32 by the names of a text-only checkpoint: `model.layers.0.mlp.up_proj.weight`, `mtp.fc.weight`."""


class HybridShape(NamedTuple):
    """What varies between hybrid models. Every matrix has rows of whole 32-number blocks."""

    layers: int = 4
    hidden: int = 64
    feed_forward: int = 96
    query_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    rotary: float = 0.25
    """The part of a head that is rotated."""
    key_heads: int = 2
    value_heads: int = 4
    key_dim: int = 16
    value_dim: int = 16
    tied: bool = True
    mtp: bool = True

    @property
    def rotary_dims(self) -> int:
        """Dimensions of a head that are rotated."""
        return int(self.head_dim * self.rotary)

    @property
    def ratio(self) -> int:
        """Value heads a key head."""
        return self.value_heads // self.key_heads


SHAPES = {
    "one value head a key head": HybridShape(value_heads=2),
    "two value heads a key head": HybridShape(tied=False, rotary=0.5, kv_heads=1, value_dim=32),
    "three value heads a key head": HybridShape(layers=8, value_heads=6, mtp=False),
    "three untied": HybridShape(value_heads=6, tied=False, query_heads=6, kv_heads=3, key_dim=8),
}
"""Between them: 1, 2 and 3 value heads a key head, tied and untied, with a draft head and without."""


def config(shape: HybridShape) -> dict[str, Any]:
    """`text_config` of a checkpoint, the numbers that transformers reads and those it does not."""
    half = shape.rotary_dims // 2
    rope = {
        "rope_type": "default",
        "rope_theta": ROPE_BASE,
        "partial_rotary_factor": shape.rotary,
        "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        "mrope_interleaved": True,
    }
    return {
        "model_type": "qwen3_5_text",
        "attention_bias": False,
        "attn_output_gate": True,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "full_attention_interval": INTERVAL,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "layer_types": [kind(layer) for layer in range(shape.layers)],
        "linear_conv_kernel_dim": KERNEL,
        "linear_key_head_dim": shape.key_dim,
        "linear_num_key_heads": shape.key_heads,
        "linear_num_value_heads": shape.value_heads,
        "linear_value_head_dim": shape.value_dim,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": CONTEXT_TOKENS,
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "num_attention_heads": shape.query_heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "output_gate_type": "swish",
        "rms_norm_eps": EPSILON,
        "rope_parameters": rope,
        "tie_word_embeddings": shape.tied,
        "vocab_size": tiny.VOCABULARY,
    }


def kind(layer: int) -> str:
    """What transformers calls the kind of a layer."""
    return "linear_attention" if (layer + 1) % INTERVAL else "full_attention"


def reference(shape: HybridShape, seed: int = 0) -> Any:
    """A transformers model in fp32 with eager attention, weights drawn from a seed."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    numbers: dict[str, Any] = config(shape) | {"dtype": "float32", "attn_implementation": "eager"}
    model = Qwen3_5ForCausalLM(Qwen3_5TextConfig(**numbers)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(_draw(name, weight.shape, generator))
    return model


def draft_head(shape: HybridShape, seed: int = 0) -> dict[str, Floats]:
    """Weights of the block that predicts one token further; empty if the shape has none."""
    if not shape.mtp:
        return {}
    query, kv = shape.query_heads * shape.head_dim, shape.kv_heads * shape.head_dim
    shapes = {
        "fc": (shape.hidden, 2 * shape.hidden),
        "pre_fc_norm_embedding": (shape.hidden,),
        "pre_fc_norm_hidden": (shape.hidden,),
        "norm": (shape.hidden,),
        "layers.0.input_layernorm": (shape.hidden,),
        "layers.0.post_attention_layernorm": (shape.hidden,),
        "layers.0.self_attn.q_proj": (2 * query, shape.hidden),
        "layers.0.self_attn.k_proj": (kv, shape.hidden),
        "layers.0.self_attn.v_proj": (kv, shape.hidden),
        "layers.0.self_attn.o_proj": (shape.hidden, query),
        "layers.0.self_attn.q_norm": (shape.head_dim,),
        "layers.0.self_attn.k_norm": (shape.head_dim,),
        "layers.0.mlp.gate_proj": (shape.feed_forward, shape.hidden),
        "layers.0.mlp.up_proj": (shape.feed_forward, shape.hidden),
        "layers.0.mlp.down_proj": (shape.hidden, shape.feed_forward),
    }
    generator = torch.Generator().manual_seed(seed + 1)
    return {
        f"mtp.{name}.weight": _draw(name, torch.Size(size), generator).float().numpy() for name, size in shapes.items()
    }


def _draw(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Random weights, large enough that the state decides something: dropping it must change the text."""
    noise = torch.randn(shape, generator=generator)
    if name.endswith("A_log"):
        # Of a head whose gate is at rest a token keeps between half and nearly all of what was before it.
        kept = 1 - 0.5 * 0.002 ** torch.linspace(0, 1, len(noise))
        numbers = torch.log(-torch.log(kept) / np.log(2))
    elif name.endswith(("linear_attn.norm.weight", "conv1d.weight", "dt_bias")):
        numbers = noise * 0.4 + name.endswith("linear_attn.norm.weight")
    elif name.endswith(("q_norm.weight", "k_norm.weight")):
        numbers = noise * 0.2 + 0.6
    elif "norm" in name:
        numbers = noise * 0.2
    elif "embed" in name or "lm_head" in name:
        numbers = noise * 0.8
    else:
        numbers = noise * (3.2 if "o_proj" in name else 1.6) / shape[-1] ** 0.5
    return numbers.bfloat16()


def weights(shape: HybridShape, model: Any, mtp: Weights) -> dict[str, Floats]:
    """All weights by their names, each once."""
    found = {name: weight.numpy() for name, weight in model.state_dict().items()} | dict(mtp)
    if shape.tied:
        del found["lm_head.weight"]
    return found


def write_directory(
    path: Path,
    shape: HybridShape,
    model: Any,
    mtp: Weights,
    *,
    multimodal: bool = False,
    shards: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """A model as it is released: safetensors, config.json and a tokenizer.

    Args:
        path: The directory, made if missing.
        shape: The model's.
        model: From `reference`.
        mtp: From `draft_head`; empty to leave the draft head out, whatever the config says.
        multimodal: Text weights lie under `model.language_model.`, beside those of eyes.
        shards: Number of files the tensors are spread over.
        dtype: Of the weights. `A_log` and the norm of the linear attention stay float32, as in the released files.
    """
    path.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, numbers in weights(shape, model, mtp).items():
        whole = torch.from_numpy(numbers.copy())
        kept = name.endswith(("A_log", "linear_attn.norm.weight"))
        place = name.replace("model.", "model.language_model.", 1) if multimodal else name
        tensors[place] = whole if kept else whole.to(dtype)
    settings = config(shape)
    if multimodal:
        tensors["model.visual.patch_embed.proj.weight"] = torch.zeros(8, 3, 2, 4, 4, dtype=dtype)
        tensors["model.visual.blocks.0.attn.qkv.bias"] = torch.zeros(24, dtype=dtype)
        settings = {
            "architectures": ["Qwen3_5ForConditionalGeneration"],
            "model_type": "qwen3_5",
            "text_config": settings,
            "tie_word_embeddings": shape.tied,
            "vision_config": {"model_type": "qwen3_5_vision", "depth": 1, "hidden_size": 8},
        }
    else:
        settings |= {"architectures": ["Qwen3_5ForCausalLM"]}
    directories.write_json(path / "config.json", settings)
    directories.write_shards(path, tensors, shards)
    directories.write_tokenizer(path)
    return path


def write_gguf(
    path: Path,
    shape: HybridShape,
    model: Any,
    mtp: Weights,
    quant: str | None = None,
    extra: Sequence[RawTensor] = (),
    **metadata: Any,
) -> Path:
    """A model as llama.cpp converts it.

    Args:
        path: The file.
        shape: The model's.
        model: From `reference`.
        mtp: From `draft_head`; empty to leave the draft head out.
        quant: How matrices are packed; None for float32.
        extra: Tensors that no converter would write.
        metadata: Keys that stand instead of the converter's, after `qwen35.`.
    """
    values = shape.value_heads * shape.value_dim
    half = shape.rotary_dims // 2
    ours: dict[str, Any] = {
        "block_count": shape.layers + bool(mtp),
        "context_length": CONTEXT_TOKENS,
        "embedding_length": shape.hidden,
        "feed_forward_length": shape.feed_forward,
        "attention.head_count": shape.query_heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.key_length": shape.head_dim,
        "attention.value_length": shape.head_dim,
        "attention.layer_norm_rms_epsilon": EPSILON,
        "full_attention_interval": INTERVAL,
        "rope.freq_base": ROPE_BASE,
        "rope.dimension_count": shape.rotary_dims,
        "rope.dimension_sections": [half - 2 * (half // 3), half // 3, half // 3, 0],
        "ssm.conv_kernel": KERNEL,
        "ssm.state_size": shape.key_dim,
        "ssm.group_count": shape.key_heads,
        "ssm.time_step_rank": shape.value_heads,
        "ssm.inner_size": values,
    }
    if mtp:
        ours["nextn_predict_layers"] = 1
    keys = {"general.architecture": "qwen35", **{f"qwen35.{key}": value for key, value in (ours | metadata).items()}}
    tensors = [
        _pack(_gguf_name(shape, name), _gguf_values(shape, name, numbers), quant if packed(name, numbers) else None)
        for name, numbers in weights(shape, model, mtp).items()
    ]
    path.write_bytes(build(keys | vocabulary("qwen35"), [*tensors, *extra]))
    return path


def rounded(shape: HybridShape, whole: Weights, quant: str) -> dict[str, Floats]:
    """Weights as they come out of a GGUF file with packed matrices, by the `gguf` package alone."""
    code = GGMLQuantizationType[quant]
    found: dict[str, Floats] = dict(whole)
    for name, numbers in whole.items():
        if packed(name, numbers):
            blocks = gguf.quants.quantize(_tile(shape, name, numbers), code)
            found[name] = _tile(shape, name, gguf.quants.dequantize(blocks, code), back=True)
    return found


def packed(name: str, numbers: Floats) -> bool:
    """Whether llama.cpp packs a tensor: matrices, but not the convolutions."""
    return numbers.ndim == 2 and "conv1d" not in name


def _pack(name: str, numbers: Floats, quant: str | None) -> RawTensor:
    if quant is None:
        return tiny.tensor(name, numbers)
    code = GGMLQuantizationType[quant]
    return RawTensor(name, numbers.shape[::-1], code, gguf.quants.quantize(numbers, code).tobytes())


_DELTA_NET = {
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
}
_DRAFT_HEAD = {
    "mtp.fc.weight": "nextn.eh_proj.weight",
    "mtp.pre_fc_norm_embedding.weight": "nextn.enorm.weight",
    "mtp.pre_fc_norm_hidden.weight": "nextn.hnorm.weight",
    "mtp.norm.weight": "nextn.shared_head_norm.weight",
}


def _gguf_name(shape: HybridShape, name: str) -> str:
    if name in _DRAFT_HEAD:
        return f"blk.{shape.layers}.{_DRAFT_HEAD[name]}"
    name = name.replace("mtp.layers.0.", f"model.layers.{shape.layers}.")
    layer, _, own = name.removeprefix("model.layers.").partition(".")
    if own in _DELTA_NET:
        return f"blk.{layer}.{_DELTA_NET[own]}"
    return tiny.names(shape.layers + 1)[name.removesuffix(".weight")] + ".weight"


def _gguf_values(shape: HybridShape, name: str, numbers: Floats) -> Floats:
    if name.endswith("A_log"):
        numbers = -torch.from_numpy(numbers).exp().numpy()
    elif "norm" in name and not name.endswith("linear_attn.norm.weight"):
        numbers = numbers + np.float32(1)
    elif name.endswith("conv1d.weight"):
        numbers = numbers[:, 0]
    return _tile(shape, name, numbers)


def _tile(shape: HybridShape, name: str, numbers: Floats, *, back: bool = False) -> Floats:
    """The value heads of all key heads in turn, first the first of each: llama.cpp's order. Or back from it."""
    for ending, axis, first, width in _value_heads(shape):
        if name.endswith(ending):
            split = (shape.ratio, shape.key_heads) if back else (shape.key_heads, shape.ratio)
            heads = np.moveaxis(numbers, axis, 0)
            tail = heads[first:].reshape(*split, width, *heads.shape[1:]).swapaxes(0, 1)
            whole = np.concatenate([heads[:first], tail.reshape(heads[first:].shape)])
            return np.ascontiguousarray(np.moveaxis(whole, 0, axis))
    return numbers


def _value_heads(shape: HybridShape) -> Iterator[tuple[str, int, int, int]]:
    """Where value heads lie in a tensor: its name's end, the axis, where they begin there, the width of each."""
    keys = 2 * shape.key_heads * shape.key_dim
    yield "linear_attn.in_proj_qkv.weight", 0, keys, shape.value_dim
    yield "linear_attn.conv1d.weight", 0, keys, shape.value_dim
    yield "linear_attn.in_proj_z.weight", 0, 0, shape.value_dim
    yield "linear_attn.in_proj_b.weight", 0, 0, 1
    yield "linear_attn.in_proj_a.weight", 0, 0, 1
    yield "linear_attn.dt_bias", 0, 0, 1
    yield "linear_attn.A_log", 0, 0, 1
    yield "linear_attn.out_proj.weight", 1, 0, shape.value_dim
