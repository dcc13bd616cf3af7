"""What config.json tells about a model, in the spelling of transformers, old and new.

A setting that would change the computation and that the engine doesn't know is refused by name: a model that runs is
the model that was trained.
"""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.spec import MAX_KERNEL, MAX_LAYERS, MAX_WIDTH, DeltaSpec, ModelSpec
from engine.weights.blocks import Floats
from engine.weights.json_file import JsonObject


class _Family(NamedTuple):
    architecture: str
    head_dim: int | None
    """Where the config doesn't say; None: the hidden width over the heads."""
    rotated: float
    """The part of each head that is rotated where the config doesn't say."""


_FAMILIES = {
    "llama": _Family("llama", None, 1.0),
    "qwen3": _Family("qwen3", 128, 1.0),
    "qwen3_5_text": _Family("qwen35", 256, 0.25),
}
_MULTIMODAL = {"qwen3_5": "qwen3_5_text"}
"""Model types whose `text_config` is a model of ours."""

_KNOWN: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "rope_interleaved": (False,),
    "use_sliding_window": (False,),
    "attn_output_gate": (True,),
    "output_gate_type": ("swish", "silu"),
    "quantization_config": (),
}
"""Settings that change the computation, and the values the engine knows; null and absence always pass."""


class ModelConfig(NamedTuple):
    """A config that makes sense. What lies in the files may still differ from it."""

    spec: ModelSpec
    """Without draft head: only its tensors tell whether it is there, for re-uploads drop them and keep the config."""
    tied: bool | None
    """Whether the embedding is the head; None if the config doesn't say, or says both."""
    rope_divisors: Floats | None
    """Llama 3's, float32[rotary_dims / 2]."""
    sections: tuple[JsonObject, ...]
    """The objects that settings of the text model may stand in."""


def read_config(path: Path) -> ModelConfig:
    """Read config.json.

    Raises:
        ModelFileError: It can't be read, the model is of an unknown kind, or a number is missing or absurd.
    """
    top = JsonObject.open(path)
    kind = top.require("model_type", str)
    sections = (top, top.section("text_config")) if kind in _MULTIMODAL else (top,)
    text = sections[-1]
    if kind in _MULTIMODAL and text.require("model_type", str) != _MULTIMODAL[kind]:
        text.refuse(f"its text_config is not of the kind {_MULTIMODAL[kind]}")
    family = _FAMILIES.get(_MULTIMODAL.get(kind, kind))
    if family is None:
        runs = ", ".join([*_FAMILIES, *_MULTIMODAL])
        top.refuse(f"its model_type is {reprlib.repr(kind)}, and this engine runs {runs}")
    for section in sections:
        _check_known(section)
    spec, rope_divisors = _read_spec(text, family)
    claims = {claim for section in sections if (claim := section.get("tie_word_embeddings", bool)) is not None}
    return ModelConfig(spec, claims.pop() if len(claims) == 1 else None, rope_divisors, sections)


def rope_divisors(base: float, dims: int, rope: JsonObject, context_tokens: int) -> Floats:
    """Llama 3's divisors of the rotary frequencies, in float32 step by step as llama.cpp's converter has them.

    Args:
        base: Of the frequencies.
        dims: That are rotated.
        rope: `factor`, `low_freq_factor`, `high_freq_factor` and `original_max_position_embeddings`.
        context_tokens: Stands for the last of them where it is missing.

    Returns:
        float32[dims / 2]: 1 for waves much shorter than the text the model was first trained for, the factor for those
        much longer, and between them what mixes both frequencies (Grattafiori et al. 2024, arXiv 2407.21783).

    Raises:
        ModelFileError: A number is missing or absurd.
    """
    factor = rope.number("factor", most=1e4)
    low, high = rope.number("low_freq_factor", most=1e4), rope.number("high_freq_factor", most=1e4)
    trained = rope.count("original_max_position_embeddings", context_tokens, most=MAX_WIDTH)
    if factor < 1 or low >= high:
        rope.refuse(f"its rotary frequencies are divided by {factor} from {low} to {high}, which is no range")
    lengths = 2 * math.pi / (1.0 / base ** (torch.arange(0, dims, 2, dtype=torch.float32) / dims))
    share = (trained / lengths - low) / (high - low)
    divisors = 1 / ((1 - share) / factor + share)
    divisors[lengths < trained / high] = 1
    divisors[lengths > trained / low] = factor
    return divisors.numpy()


def _check_known(section: JsonObject) -> None:
    for key, known in _KNOWN.items():
        value = section.values.get(key)
        if value is not None and value not in known:
            allowed = " or ".join(map(repr, known)) or "none"
            section.refuse(f"{section.prefix}{key} is {reprlib.repr(value)}, and this engine knows only {allowed}")


def _read_spec(config: JsonObject, family: _Family) -> tuple[ModelSpec, Floats | None]:
    layers = config.count("num_hidden_layers", most=MAX_LAYERS)
    hidden = config.count("hidden_size", most=MAX_WIDTH)
    query_heads = config.count("num_attention_heads", most=MAX_WIDTH)
    kv_heads = config.count("num_key_value_heads", query_heads, most=MAX_WIDTH)
    head_dim = config.count("head_dim", family.head_dim or hidden // query_heads, most=MAX_WIDTH)
    context_tokens = config.count("max_position_embeddings", most=MAX_WIDTH)
    if query_heads % kv_heads or head_dim % 2:
        config.refuse(f"{query_heads} query heads of {head_dim} do not share {kv_heads} kv heads")
    base, rotary_dims, divisors = _read_rope(config, family, head_dim, context_tokens)
    hybrid = family.architecture == "qwen35"
    if not hybrid and any(kind != "full_attention" for kind in config.get("layer_types", list) or ()):
        config.refuse("its layer_types are not all full_attention")
    spec = ModelSpec(
        architecture=family.architecture,
        layers=layers,
        hidden=hidden,
        feed_forward=config.count("intermediate_size", most=MAX_WIDTH),
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=config.count("vocab_size", most=MAX_WIDTH),
        context_tokens=context_tokens,
        rope_base=base,
        norm_epsilon=config.number("rms_norm_eps", most=0.1),
        tied_head=False,
        head_norms=family.architecture != "llama",
        rotary_halves=True,
        rope_factors=divisors is not None,
        rotary_dims=rotary_dims,
        gated=hybrid,
        delta=_read_delta(config, layers) if hybrid else None,
    )
    return spec, divisors


def _read_rope(
    config: JsonObject, family: _Family, head_dim: int, context_tokens: int
) -> tuple[float, int, Floats | None]:
    """Base, rotated dimensions and Llama 3's divisors. Old configs have keys of the first two beside `rope_scaling`."""
    new, old = config.section("rope_parameters"), config.section("rope_scaling")
    if new.values and old.values and new.values != old.values:
        config.refuse("its rope_parameters and its rope_scaling differ")
    rope = new if new.values else old
    kind = rope.get("rope_type", str) or rope.get("type", str) or "default"
    if kind not in ("default", "llama3") or any(type(value) is dict for value in rope.values.values()):
        config.refuse(f"its rotary positions are of the type {reprlib.repr(kind)}, and this engine knows llama3's only")
    base = rope.number("rope_theta", config.number("rope_theta", 10000.0, most=1e12), most=1e12)
    part = config.number("partial_rotary_factor", family.rotated, most=1)
    rotary_dims = int(head_dim * rope.number("partial_rotary_factor", part, most=1))
    if not rotary_dims or rotary_dims % 2 or (family.rotated == 1 and rotary_dims != head_dim):
        config.refuse(f"it rotates {rotary_dims} dimensions of heads of {head_dim}")
    divisors = rope_divisors(base, rotary_dims, rope, context_tokens) if kind == "llama3" else None
    return base, rotary_dims, divisors


def _read_delta(config: JsonObject, layers: int) -> DeltaSpec:
    delta = DeltaSpec(
        key_heads=config.count("linear_num_key_heads", most=MAX_WIDTH),
        value_heads=config.count("linear_num_value_heads", most=MAX_WIDTH),
        key_dim=config.count("linear_key_head_dim", most=MAX_WIDTH),
        value_dim=config.count("linear_value_head_dim", most=MAX_WIDTH),
        kernel=config.count("linear_conv_kernel_dim", least=2, most=MAX_KERNEL),
        interval=_read_interval(config, layers),
    )
    if delta.value_heads % delta.key_heads:
        config.refuse(f"{delta.value_heads} value heads do not share {delta.key_heads} key heads")
    return delta


def _read_interval(config: JsonObject, layers: int) -> int:
    kinds = config.get("layer_types", list)
    if kinds is None:
        return config.count("full_attention_interval", 4, least=2, most=layers)
    interval = kinds.index("full_attention") + 1 if "full_attention" in kinds else 0
    if interval < 2 or kinds != [
        "linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(layers)
    ]:
        config.refuse(f"its layer_types are not linear_attention with full_attention in every n-th of {layers} layers")
    return interval
