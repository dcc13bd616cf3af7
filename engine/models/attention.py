"""Grouped-query attention over a KV cache of fixed blocks, with or without head norms, gate and partial rotation.

Rotary pairs lie side by side, (2i, 2i + 1), as GGUF has them for `llama`, so that a rotation is one complex product;
where a model has halves instead, the rows of queries and keys are reordered, which changes no dot product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.arena import CHUNK_TOKENS
from engine.backends import cpu
from engine.models.call import Call
from engine.models.reader import Order, Reader
from engine.spec import ROPE_FACTORS, ModelSpec


class _Views(NamedTuple):
    """Static memory of a call of one length."""

    query: Tensor
    """[kv_heads, attention rows, head_dim]."""
    query_by_token: Tensor
    """The same memory as [rows, kv_heads, group, head_dim]."""
    attended: Tensor
    """[rows, query_heads * head_dim]."""
    attended_by_head: Tensor
    """The same memory as [kv_heads, rows, group, head_dim]."""


class AttentionScratch:
    """Memory that all attention layers of a model use in turn; nothing in it outlives a layer."""

    def __init__(self, spec: ModelSpec, dtype: torch.dtype) -> None:
        rows = attention_rows(spec, CHUNK_TOKENS)
        self._spec = spec
        self.memory = (
            torch.zeros(spec.kv_heads * rows * spec.head_dim, dtype=dtype),
            torch.zeros(CHUNK_TOKENS, spec.query_heads * spec.head_dim, dtype=dtype),
        )
        self._views: dict[int, _Views] = {}

    def views(self, rows: int) -> _Views:
        """Views for calls of a length, made once."""
        if rows not in self._views:
            spec, padded = self._spec, attention_rows(self._spec, rows)
            flat, attended = self.memory
            query = flat[: spec.kv_heads * padded * spec.head_dim].view(spec.kv_heads, padded, spec.head_dim)
            self._views[rows] = _Views(
                query,
                query[:, : rows * spec.group].unflatten(1, (rows, spec.group)).transpose(0, 1),
                attended[:rows],
                attended[:rows].view(rows, spec.kv_heads, spec.group, spec.head_dim).transpose(0, 1),
            )
        return self._views[rows]


class Attention:
    """Weights of one layer."""

    def __init__(self, reader: Reader, spec: ModelSpec, layer: int, scratch: AttentionScratch) -> None:
        prefix = f"blk.{layer}."
        self._spec, self._scratch = spec, scratch
        stacked = [
            (f"{prefix}attn_q.weight", _query_rows(spec)),
            (f"{prefix}attn_k.weight", _paired(spec, spec.kv_heads)),
            (f"{prefix}attn_v.weight", None),
        ]
        if spec.gated:
            stacked.append((f"{prefix}attn_q.weight", _gate_rows(spec)))
        self._projection = reader.linear(*stacked)
        self._output = reader.linear((f"{prefix}attn_output.weight", None))
        self.matrices = [self._projection, self._output]
        self._head_norm: Tensor | None = None
        if spec.head_norms:
            order = _paired(spec, 1)
            query, key = (reader.numbers(f"{prefix}attn_{which}_norm.weight") for which in "qk")
            if order is not None:
                query, key = query[order], key[order]
            self._head_norm = torch.stack([query] * spec.query_heads + [key] * spec.kv_heads)

    def project(self, rows: Tensor, call: Call, target: Tensor) -> Tensor:
        """Make queries, keys and values of a call, and keep the keys and values.

        Args:
            rows: [rows, hidden], normalised, in the product's type.
            call: What all layers share.
            target: [k|v, kv_heads, tokens, head_dim], the rows of the cache to write.

        Returns:
            The gate, [rows, query_heads * head_dim], empty if there is none.
        """
        spec, count = self._spec, len(rows)
        turned = spec.query_heads + spec.kv_heads
        projected = self._projection(rows)
        width = (turned + spec.kv_heads) * spec.head_dim
        heads = projected[:, :width].unflatten(1, (turned + spec.kv_heads, spec.head_dim)).float()
        rotary = heads[:, :turned]
        if self._head_norm is not None:
            rotary.copy_(functional.rms_norm(rotary, (spec.head_dim,), None, spec.norm_epsilon) * self._head_norm)
        torch.view_as_complex(rotary[..., : spec.rotary_dims].unflatten(2, (-1, 2))).mul_(call.rotation)
        views = self._scratch.views(count)
        views.query_by_token.copy_(heads[:, : spec.query_heads].view(views.query_by_token.shape))
        stored = heads[: call.tokens, spec.query_heads :].unflatten(1, (2, spec.kv_heads))
        target.copy_(stored.permute(1, 2, 0, 3))
        return projected[:, width:]

    def __call__(self, rows: Tensor, call: Call, target: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What the layer adds to the residual stream, [rows, hidden].

        Args:
            rows: As `project` takes it.
            call: What all layers share.
            target: As `project` takes it.
            keys: [blocks, kv_heads, 64, head_dim], all that can be seen, what is written here included.
            values: As `keys`.
        """
        gate = self.project(rows, call, target)
        count = len(rows)
        views = self._scratch.views(count)
        attended = cpu.attend(views.query, keys, values, call.mask)
        shape = views.attended_by_head.shape
        views.attended_by_head.copy_(attended[:, : count * self._spec.group].view(shape))
        if self._spec.gated:
            views.attended.copy_(views.attended.float() / cpu.one_plus_exp_of_minus(gate.float()))
        return self._output(views.attended)


def caches(cache: Tensor, call: Call) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Of each layer the rows to write and the keys and values that can be seen, as `Attention` takes them.

    Args:
        cache: [blocks, layers, k|v, kv_heads, 64, head_dim].
        call: Which rows are meant.
    """
    written = cache[call.chunk, ..., call.offset : call.offset + call.tokens, :].unbind(0)
    keys, values = (seen.unbind(1) for seen in cache[: call.chunk + 1].unbind(2))
    return zip(written, keys, values, strict=True)


def attention_rows(spec: ModelSpec, rows: int) -> int:
    """Query rows that a call of some tokens has for each kv head, padding included."""
    return -(-rows * spec.group // cpu.ATTENTION_ROWS) * cpu.ATTENTION_ROWS


def rotations(reader: Reader, spec: ModelSpec, positions: int) -> Tensor:
    """exp(i * position * base^(-2j / rotary_dims)) as complex64[positions, 1, rotary_dims / 2] (Su et al. 2021)."""
    frequencies = spec.rope_base ** (-np.arange(0, spec.rotary_dims, 2) / spec.rotary_dims)
    if spec.rope_factors:
        frequencies = frequencies / reader.numbers(ROPE_FACTORS).numpy()
    angles = np.outer(np.arange(positions), frequencies)
    return torch.from_numpy(np.exp(1j * angles).astype(np.complex64)).unsqueeze(1)


def _paired(spec: ModelSpec, heads: int) -> Order | None:
    """The rows of some heads with rotary halves put side by side; None if they are so already."""
    if not spec.rotary_halves:
        return None
    head = np.arange(spec.head_dim)
    head[: spec.rotary_dims] = head[: spec.rotary_dims].reshape(2, -1).T.reshape(-1)
    return (np.arange(heads)[:, None] * spec.head_dim + head).reshape(-1)


def _query_rows(spec: ModelSpec) -> Order | None:
    """The rows of the queries: all, or every other head_dim of them where the gates lie between."""
    order = _paired(spec, spec.query_heads)
    if not spec.gated:
        return order
    order = np.arange(spec.query_heads * spec.head_dim) if order is None else order
    return order + order // spec.head_dim * spec.head_dim


def _gate_rows(spec: ModelSpec) -> Order:
    rows = np.arange(spec.query_heads * spec.head_dim)
    return rows + (rows // spec.head_dim + 1) * spec.head_dim
