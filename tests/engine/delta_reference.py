"""A gated delta net's parts in float64, written down from the formulas, one token after the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def convolution(inputs: Array, weight: Array) -> Array:
    """Causal, each channel by itself, then silu.

    Args:
        inputs: [tokens, channels]; before the first there were zeros.
        weight: [channels, kernel], the newest token's last.
    """
    kernel = weight.shape[1]
    padded = np.concatenate([np.zeros((kernel - 1, inputs.shape[1])), inputs])
    mixed = [np.einsum("kc,ck->c", padded[token : token + kernel], weight) for token in range(len(inputs))]
    return silu(np.stack(mixed))


def unit(rows: Array) -> Array:
    """Rows of length one, nearly."""
    return rows / np.sqrt(np.sum(rows * rows, axis=-1, keepdims=True) + 1e-6)


def gates(beta: Array, alpha: Array, decay: Array, bias: Array) -> tuple[Array, Array]:
    """How strongly a token is written, and the logarithm of what is kept."""
    return 1 / (1 + np.exp(-beta)), decay * np.logaddexp(0, alpha + bias)


def gated_norm(read: Array, gate: Array, weight: Array, epsilon: float) -> Array:
    """The norm at the end of a layer, head by head."""
    return read / np.sqrt(np.mean(read * read, axis=-1, keepdims=True) + epsilon) * weight * silu(gate)


def silu(rows: Array) -> Array:
    """x sigmoid(x)."""
    return rows / (1 + np.exp(-rows))


def delta_rule(query: Array, key: Array, value: Array, log_decay: Array, beta: Array) -> tuple[Array, Array]:
    """The rule as it is defined: decay, read, write, for each token in turn.

    Args:
        query: [tokens, key_heads, key_dim].
        key: As `query`.
        value: [tokens, value_heads, value_dim].
        log_decay: [tokens, value_heads].
        beta: As `log_decay`.

    Returns:
        What was read, [tokens, value_heads, value_dim], and the last state, [value_heads, key_dim, value_dim].
    """
    heads = value.shape[1]
    shared = heads // key.shape[1]
    state = np.zeros((heads, key.shape[2], value.shape[2]))
    read = np.zeros(value.shape)
    for token in range(len(value)):
        of_key, of_query = (np.repeat(rows[token], shared, axis=0) for rows in (key, query))
        state *= np.exp(log_decay[token])[:, None, None]
        missed = value[token] - np.einsum("hkv,hk->hv", state, of_key)
        state += np.einsum("hk,hv->hkv", of_key, beta[token][:, None] * missed)
        read[token] = np.einsum("hkv,hk->hv", state, of_query)
    return read, state
