"""G1: the recurrence of a gated delta net against the same rule in float64, token by token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.bench.subject import Outcome
from engine.arena import CHUNK_TOKENS
from engine.backends import cpu_delta
from engine.spec import DeltaSpec

TOKENS = 2048
TOLERANCE = 5e-6
"""Largest error that a float32 recurrence may have after so many tokens, relative to the largest number."""
CALLS = (1, 4, 64, 3, 17, 32, 2, 5)
"""Lengths of calls, in turn; each is cut at the end of its chunk."""

Array = NDArray[np.float64]


def outcomes(errors: Mapping[str, float]) -> Iterator[Outcome]:
    """Whether each error is small enough."""
    return ((f"{what}: relative error {error:.1e}", error <= TOLERANCE) for what, error in errors.items())


def errors(delta: DeltaSpec) -> dict[str, float]:
    """How far off is what is read at every token, and the state at the end, relative to the largest number in it."""
    query, key, value, log_decay, strength = _inputs(delta)
    expected_read, expected_state = _sequential(query, key, value, log_decay, strength)
    read, state = _engine(delta, query, key, value, log_decay, strength)
    pairs = {"what is read": (read, expected_read), "the state at the end": (state, expected_state)}
    return {what: float(np.abs(one - other).max() / np.abs(other).max()) for what, (one, other) in pairs.items()}


def _inputs(delta: DeltaSpec) -> tuple[Array, Array, Array, Array, Array]:
    """Queries, keys of unit length, values, decays that forget within 2 to 1000 tokens, strengths; all float32."""
    draw = np.random.default_rng(0)
    keys = (TOKENS, delta.key_heads, delta.key_dim)
    query, key = (_unit(draw.standard_normal(keys)) for _ in range(2))
    value = draw.standard_normal((TOKENS, delta.value_heads, delta.value_dim))
    memory = np.geomspace(2, 1000, delta.value_heads)
    log_decay = -draw.uniform(0.5, 1.5, (TOKENS, delta.value_heads)) / memory
    strength = draw.uniform(0.05, 0.95, (TOKENS, delta.value_heads))
    rounded = (query * delta.key_dim**-0.5, key, value, log_decay, strength)
    query, key, value, log_decay, strength = (numbers.astype(np.float32).astype(np.float64) for numbers in rounded)
    return query, key, value, log_decay, strength


def _unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _sequential(query: Array, key: Array, value: Array, log_decay: Array, strength: Array) -> tuple[Array, Array]:
    """The rule as it is defined (Yang et al. 2024, arXiv 2412.06464): the state fades, is corrected, is read."""
    share = value.shape[1] // key.shape[1]
    state = np.zeros((value.shape[1], key.shape[2], value.shape[2]))
    read = np.empty_like(value)
    for token in range(len(key)):
        wide_query, wide_key = (rows[token].repeat(share, axis=0) for rows in (query, key))
        state *= np.exp(log_decay[token])[:, None, None]
        missing = value[token] - np.einsum("hkv,hk->hv", state, wide_key)
        state += np.einsum("hk,hv->hkv", wide_key, strength[token][:, None] * missing)
        read[token] = np.einsum("hkv,hk->hv", state, wide_query)
    return read, state


def _engine(
    delta: DeltaSpec, query: Array, key: Array, value: Array, log_decay: Array, strength: Array
) -> tuple[Array, Array]:
    """The same by the engine's own operations, in calls of many lengths."""
    base = torch.zeros(delta.value_heads, delta.key_dim, delta.value_dim)
    keys = torch.zeros(delta.key_heads, CHUNK_TOKENS, delta.key_dim)
    values = torch.zeros(delta.value_heads, CHUNK_TOKENS, delta.value_dim)
    decay = torch.zeros(delta.value_heads, CHUNK_TOKENS, dtype=torch.float64)
    inputs = (np.stack([query, key], axis=1), value, log_decay, strength)
    whole = [torch.from_numpy(numbers).float() for numbers in inputs]
    read: list[Array] = []
    first = turn = 0
    while first < TOKENS:
        offset = first % CHUNK_TOKENS
        count = min(CALLS[turn % len(CALLS)], CHUNK_TOKENS - offset)
        rows = (_padded(numbers[first : first + count]) for numbers in whole)
        found = cpu_delta.delta_rule(base, keys, values, decay, *rows, offset, count)
        read.append(found[:count].double().numpy())
        if offset + count == CHUNK_TOKENS:
            following = torch.empty_like(base)
            cpu_delta.fold(base, keys, values, decay, following)
            base = following
        first, turn = first + count, turn + 1
    return np.concatenate(read), base.double().numpy()


def _padded(rows: Tensor) -> Tensor:
    whole = rows.new_zeros(cpu_delta.padded(len(rows)), *rows.shape[1:])
    whole[: len(rows)] = rows
    return whole
