"""Small random models as GGUF files, and the same weights as transformers models: an independent reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.engine.ggufs import RawTensor, build, vocabulary

VOCABULARY = len(vocabulary()["tokenizer.ggml.tokens"])


class Shape(NamedTuple):
    """What varies between tiny models."""

    architecture: str = "llama"
    layers: int = 3
    hidden: int = 48
    feed_forward: int = 80
    query_heads: int = 4
    kv_heads: int = 2
    head_dim: int = 12
    tied: bool = True
    scaled_rope: bool = False


def reference(shape: Shape, seed: int = 0) -> Any:
    """A transformers model in fp32 with eager attention, weights drawn from a seed."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    rope: dict[str, Any] = {"rope_theta": 10000.0, "rope_type": "default"}
    if shape.scaled_rope:
        rope |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }
    make_config, make_model = kinds[shape.architecture]
    config = make_config(
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.query_heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=VOCABULARY,
        max_position_embeddings=512,
        rms_norm_eps=1e-5,
        rope_parameters=rope,
        tie_word_embeddings=shape.tied,
        attn_implementation="eager",
    )
    model = make_model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Large enough that attention decides something: dropping the state must change the text.
            spread = 0.2 if "norm" in name else 0.8 if "embed" in name else 1.6 / weight.shape[-1] ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread + ("norm" in name))
    return model


def write(path: Path, shape: Shape, model: Any, extra: tuple[RawTensor, ...] = (), **metadata: Any) -> Path:
    """A transformers model as a GGUF file in float32."""
    prefix = shape.architecture
    keys: dict[str, Any] = {
        "general.architecture": prefix,
        f"{prefix}.block_count": shape.layers,
        f"{prefix}.context_length": 512,
        f"{prefix}.embedding_length": shape.hidden,
        f"{prefix}.feed_forward_length": shape.feed_forward,
        f"{prefix}.attention.head_count": shape.query_heads,
        f"{prefix}.attention.head_count_kv": shape.kv_heads,
        f"{prefix}.attention.key_length": shape.head_dim,
        f"{prefix}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{prefix}.rope.freq_base": 10000.0,
        **vocabulary(),
        **metadata,
    }
    path.write_bytes(build(keys, [*_tensors(shape, model), *extra]))
    return path


def names(layers: int) -> dict[str, str]:
    """Names of transformers' weights, and what GGUF calls them; both without `.weight`."""
    found = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    per_layer = {
        "input_layernorm": "attn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for layer in range(layers):
        found |= {f"model.layers.{layer}.{theirs}": f"blk.{layer}.{ours}" for theirs, ours in per_layer.items()}
    return found


def _tensors(shape: Shape, model: Any) -> list[RawTensor]:
    ours = names(shape.layers)
    tensors: list[RawTensor] = []
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and shape.tied:
            continue
        numbers = weight.numpy()
        if shape.architecture == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = len(numbers) // shape.head_dim
            numbers = numbers.reshape(heads, 2, -1, shape.hidden).swapaxes(1, 2).reshape(numbers.shape)
        tensors.append(tensor(ours[name.removesuffix(".weight")] + ".weight", numbers))
    if shape.scaled_rope:
        plain = 10000.0 ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
        tensors.append(tensor("rope_freqs.weight", plain / model.model.rotary_emb.inv_freq.numpy()))
    return tensors


def tensor(name: str, numbers: np.ndarray) -> RawTensor:
    """A tensor in float32."""
    return RawTensor(name, numbers.shape[::-1], 0, np.ascontiguousarray(numbers, np.float32).tobytes())
