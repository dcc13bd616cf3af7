"""A hybrid model in float64 and numpy: the whole text at once, the recurrence token by token, nothing clever.

Written from the formulas: gated delta rule of Yang et al. 2024 (arXiv 2412.06464), gated attention and the layout of
Qwen3.5. It shares no code with the engine and none with transformers, and knows weights by their names in a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.engine.hybrid import EPSILON, ROPE_BASE, HybridShape

Array = NDArray[np.float64]
Weights = Mapping[str, Array]


class Forward(NamedTuple):
    """What a model makes of a text of n tokens."""

    hidden: list[Array]
    """After each layer, [n, hidden]."""
    last: Array
    """After the final norm, [n, hidden]."""
    logits: Array
    """[n, vocabulary]."""


def doubles(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Array]:
    """Weights in float64."""
    return {name: numbers.astype(np.float64) for name, numbers in weights.items()}


def forward(shape: HybridShape, weights: Weights, tokens: Sequence[int]) -> Forward:
    """Read a text.

    Args:
        shape: The model's.
        weights: By their names in a text-only checkpoint.
        tokens: The text.
    """
    x = weights["model.embed_tokens.weight"][list(tokens)]
    hidden: list[Array] = []
    for layer in range(shape.layers):
        x = block(shape, _below(weights, f"model.layers.{layer}."), x)
        hidden.append(x)
    last = centred_norm(x, weights["model.norm.weight"])
    return Forward(hidden, last, head(weights, last))


def draft_rows(shape: HybridShape, weights: Weights, before: Array, tokens: Sequence[int]) -> Array:
    """The last rows of the draft head, [n, hidden], for the tokens 1..n of a text.

    Args:
        shape: The model's.
        weights: Those of `mtp.` among them.
        before: For each token the row that predicts it: the network's after its final norm, or the draft head's own.
        tokens: Token 1, token 2 and so on; token 0 has no row.
    """
    mtp = _below(weights, "mtp.")
    embedded = centred_norm(weights["model.embed_tokens.weight"][list(tokens)], mtp["pre_fc_norm_embedding.weight"])
    x = np.concatenate([embedded, centred_norm(before, mtp["pre_fc_norm_hidden.weight"])], 1) @ mtp["fc.weight"].T
    return centred_norm(block(shape, _below(mtp, "layers.0."), x, first=1), mtp["norm.weight"])


def draft(shape: HybridShape, weights: Weights, text: Sequence[int], read: Forward, count: int) -> list[int]:
    """The tokens that the draft head expects after the one the network itself puts next.

    Args:
        shape: The model's.
        weights: Those of `mtp.` among them.
        text: What was read.
        read: Of the text, or of a longer one that begins with it.
        count: How many tokens.
    """
    before = read.last[: len(text)]
    tokens = [*text[1:], int(read.logits[len(text) - 1].argmax())]
    for _ in range(count):
        newest = draft_rows(shape, weights, before, tokens)[-1:]
        before = np.concatenate([before, newest])
        tokens.append(int(head(weights, newest).argmax()))
    return tokens[len(text) :]


def head(weights: Weights, rows: Array) -> Array:
    """Logits, [n, vocabulary]."""
    return rows @ weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).T


def block(shape: HybridShape, weights: Weights, x: Array, first: int = 0) -> Array:
    """One layer over rows [n, hidden], the first of them at position `first`."""
    normed = centred_norm(x, weights["input_layernorm.weight"])
    if "self_attn.q_proj.weight" in weights:
        x = x + attention(shape, _below(weights, "self_attn."), normed, first)
    else:
        x = x + delta_net(shape, _below(weights, "linear_attn."), normed)
    normed = centred_norm(x, weights["post_attention_layernorm.weight"])
    gate, up = normed @ weights["mlp.gate_proj.weight"].T, normed @ weights["mlp.up_proj.weight"].T
    return x + (silu(gate) * up) @ weights["mlp.down_proj.weight"].T


def attention(shape: HybridShape, weights: Weights, x: Array, first: int) -> Array:
    """Gated attention over normed rows [n, hidden]."""
    count, kv = len(x), (len(x), shape.kv_heads, shape.head_dim)
    both = (x @ weights["q_proj.weight"].T).reshape(count, shape.query_heads, 2, shape.head_dim)
    query, gate = both[:, :, 0], both[:, :, 1]
    key, value = (x @ weights["k_proj.weight"].T).reshape(kv), (x @ weights["v_proj.weight"].T).reshape(kv)
    query = rotate(shape, centred_norm(query, weights["q_norm.weight"]), first)
    key = rotate(shape, centred_norm(key, weights["k_norm.weight"]), first)
    group = shape.query_heads // shape.kv_heads
    key, value = np.repeat(key, group, axis=1), np.repeat(value, group, axis=1)
    scores = query.swapaxes(0, 1) @ key.transpose(1, 2, 0) / np.sqrt(shape.head_dim)
    mixed = (causal_softmax(scores) @ value.swapaxes(0, 1)).swapaxes(0, 1)
    return gated(mixed, gate).reshape(count, -1) @ weights["o_proj.weight"].T


def gated(mixed: Array, gate: Array) -> Array:
    """What attention found, let through by its gate."""
    return mixed * sigmoid(gate)


def causal_softmax(scores: Array) -> Array:
    """Weights [heads, n, n] of each row over the rows up to it."""
    scores = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def rotate(shape: HybridShape, rows: Array, first: int) -> Array:
    """Rotary positions on the first dimensions of each head: [n, heads, head_dim], pairs (i, i + rotary_dims / 2)."""
    half = shape.rotary_dims // 2
    angles = np.outer(first + np.arange(len(rows)), ROPE_BASE ** (-np.arange(half) / half))[:, None]
    left, right, rest = np.split(rows, [half, 2 * half], axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin, rest], -1)


def delta_net(shape: HybridShape, weights: Weights, x: Array) -> Array:
    """A gated delta net over normed rows [n, hidden]."""
    keys = shape.key_heads * shape.key_dim
    mixed = silu(convolve(x @ weights["in_proj_qkv.weight"].T, weights["conv1d.weight"][:, 0]))
    query, key, value = np.split(mixed, [keys, 2 * keys], axis=1)
    reads = key_heads(shape)
    query = unit(query.reshape(len(x), shape.key_heads, -1))[:, reads] * shape.key_dim**-0.5
    key = unit(key.reshape(len(x), shape.key_heads, -1))[:, reads]
    value = value.reshape(len(x), shape.value_heads, -1)
    beta = sigmoid(x @ weights["in_proj_b.weight"].T)
    step = np.logaddexp(0, x @ weights["in_proj_a.weight"].T + weights["dt_bias"])
    found = delta_rule(query, key, value, beta, np.exp(-np.exp(weights["A_log"]) * step))
    z = (x @ weights["in_proj_z.weight"].T).reshape(found.shape)
    return (norm(found) * weights["norm.weight"] * silu(z)).reshape(len(x), -1) @ weights["out_proj.weight"].T


def key_heads(shape: HybridShape) -> NDArray[np.int64]:
    """The key head that each value head reads."""
    return np.arange(shape.value_heads) // shape.ratio


def convolve(inputs: Array, taps: Array) -> Array:
    """Each channel of [n, channels] with its own taps [channels, kernel], the last of which meets the newest row."""
    kernel = taps.shape[1]
    padded = np.concatenate([np.zeros((kernel - 1, inputs.shape[1])), inputs])
    return np.sum([padded[at : at + len(inputs)] * taps[:, at] for at in range(kernel)], axis=0)


def delta_rule(query: Array, key: Array, value: Array, beta: Array, decay: Array) -> Array:
    """The state of each head fades, is read with the key, and corrected towards the value; then the query reads it.

    Args:
        query: [n, value heads, key_dim], scaled.
        key: [n, value heads, key_dim], of unit length.
        value: [n, value heads, value_dim].
        beta: [n, value heads], how much is corrected.
        decay: [n, value heads], how much is kept.
    """
    state = np.zeros((*key.shape[1:], value.shape[-1]))
    found = np.empty_like(value)
    for at in range(len(key)):
        state = state * decay[at, :, None, None]
        missing = value[at] - (key[at, :, None] @ state)[:, 0]
        state = state + key[at, :, :, None] * (beta[at, :, None] * missing)[:, None]
        found[at] = (query[at, :, None] @ state)[:, 0]
    return found


def centred_norm(x: Array, weight: Array) -> Array:
    """RMSNorm whose weight is kept as its difference from one."""
    return norm(x) * (1 + weight)


def norm(x: Array) -> Array:
    """Rows of mean square one."""
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + EPSILON)


def unit(x: Array) -> Array:
    """Rows of length one. The small number is added to the sum of squares, whatever the model's epsilon."""
    return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    """x * sigmoid(x)."""
    return x * sigmoid(x)


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): numbers for name, numbers in weights.items() if name.startswith(prefix)}
