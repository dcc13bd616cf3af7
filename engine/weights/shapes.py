"""Shapes of released models, for weights that are drawn: `random:SHAPE` needs no download.

From the models' own config.json, but for the draft head of Qwen3.5, which the tensors tell.
"""

from __future__ import annotations

from engine.spec import DeltaSpec, ModelSpec

LLAMA3_ROPE = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""How Llama 3.2 divides its rotary frequencies."""


def _llama(
    layers: int,
    hidden: int,
    query_heads: int,
    kv_heads: int,
    feed_forward: int,
    rope_base: float,
    *,
    vocabulary: int = 49152,
    context_tokens: int = 8192,
    rope_factors: bool = False,
) -> ModelSpec:
    return ModelSpec(
        architecture="llama",
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=64,
        vocabulary=vocabulary,
        context_tokens=context_tokens,
        rope_base=rope_base,
        norm_epsilon=1e-5,
        tied_head=True,
        head_norms=False,
        rotary_halves=False,
        rope_factors=rope_factors,
        rotary_dims=64,
    )


def _qwen35(
    layers: int, hidden: int, query_heads: int, kv_heads: int, value_heads: int, feed_forward: int, *, tied_head: bool
) -> ModelSpec:
    return ModelSpec(
        architecture="qwen35",
        layers=layers,
        hidden=hidden,
        feed_forward=feed_forward,
        query_heads=query_heads,
        kv_heads=kv_heads,
        head_dim=256,
        vocabulary=248320,
        context_tokens=262144,
        rope_base=1e7,
        norm_epsilon=1e-6,
        tied_head=tied_head,
        head_norms=True,
        rotary_halves=True,
        rope_factors=False,
        rotary_dims=64,
        gated=True,
        delta=DeltaSpec(key_heads=16, value_heads=value_heads, key_dim=128, value_dim=128, kernel=4, interval=4),
        draft_head=True,
    )


_QWEN3 = ModelSpec(
    architecture="qwen3",
    layers=28,
    hidden=1024,
    feed_forward=3072,
    query_heads=16,
    kv_heads=8,
    head_dim=128,
    vocabulary=151936,
    context_tokens=40960,
    rope_base=1e6,
    norm_epsilon=1e-6,
    tied_head=True,
    head_norms=True,
    rotary_halves=True,
    rope_factors=False,
    rotary_dims=128,
)

SHAPES = {
    "qwen3.5-0.8b": _qwen35(24, 1024, 8, 2, 16, 3584, tied_head=True),
    "qwen3.5-2b": _qwen35(24, 2048, 8, 2, 16, 6144, tied_head=True),
    "qwen3.5-4b": _qwen35(32, 2560, 16, 4, 32, 9216, tied_head=True),
    "qwen3.5-9b": _qwen35(32, 4096, 16, 4, 32, 12288, tied_head=False),
    "qwen3.5-27b": _qwen35(64, 5120, 24, 4, 48, 17408, tied_head=False),
    "llama-3.2-1b": _llama(
        16, 2048, 32, 8, 8192, 500000.0, vocabulary=128256, context_tokens=131072, rope_factors=True
    ),
    "smollm2-135m": _llama(30, 576, 9, 3, 1536, 100000.0),
    "smollm2-360m": _llama(32, 960, 15, 5, 2560, 100000.0),
    "smollm2-1.7b": _llama(24, 2048, 32, 32, 8192, 130000.0),
    "qwen3-0.6b": _QWEN3,
}
"""By the name that follows `random:`."""
