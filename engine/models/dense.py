"""The forward pass of dense llama-style models (Llama 2 and 3, SmolLM2, Qwen3) over static buffers.

The residual stream is float32 in every format. Products and the KV cache are float32 (format fp32) or bfloat16 (bf16
and int4). Rotary pairs lie side by side, (2i, 2i + 1), as GGUF has them for `llama`, so that a rotation is one complex
product; where a file has halves instead, the rows of queries and keys are reordered, which changes no dot product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine.backends import cpu
from engine.backends.cpu import Int4Linear, Int8Linear, Linear, PlainLinear, RowPlan
from engine.errors import BackendError
from engine.spec import ROPE_FACTORS, ModelSpec
from engine.state import BLOCK_TOKENS, LaneState
from engine.weights.gguf import GGUFFile

FORMATS = ("fp32", "bf16", "int4")
_SPLITS = (1, 2, 3, 5, 8, 13, 32, 6, 7, 9, 10, 11, 21)
"""Call lengths a row plan is tried with: two blocks of 64 tokens."""
_TRIAL_BLOCKS = 2
# Up to so many rows a second core costs more in waiting for it than it computes: a step is some hundred short products.
# Meanwhile it is the voice's and the recogniser's.
_ONE_CORE_ROWS = 8
_FOREMOST = 64
"""Logits that are computed in float32 whatever the format."""


class Layer(NamedTuple):
    """Weights of one layer."""

    attention_norm: Tensor
    qkv: Linear
    head_norm: Tensor | None
    """float32[query heads + kv heads, head_dim]."""
    output: Linear
    feed_forward_norm: Tensor
    gate_up: Linear
    down: Linear


class _Scratch(NamedTuple):
    """Static memory of a call of one length; nothing in it outlives the call."""

    residual: Tensor
    narrow: Tensor
    """[rows, hidden] in the product's type."""
    query: Tensor
    """[kv_heads, attention rows, head_dim]."""
    query_by_token: Tensor
    """The same memory as [rows, kv_heads, group, head_dim]."""
    attended: Tensor
    """[rows, query_heads * head_dim]."""
    attended_by_head: Tensor
    """The same memory as [kv_heads, rows, group, head_dim]."""
    activated: Tensor
    """[rows, feed_forward]."""


class _Call(NamedTuple):
    """What all layers of a call share."""

    tokens: int
    """How many; rows beyond them are padding."""
    rotation: Tensor
    """complex64[rows, 1, head_dim / 2]."""
    mask: Tensor
    """[blocks, 1, attention rows, 64]."""


def choose_format(file: GGUFFile, spec: ModelSpec) -> str:
    """The format for `auto`: int4 where the file has 4-bit blocks, else bf16 where the processor has it, else fp32."""
    if cpu.has_int4() and all(cpu.int4_fits(file.tensors[name]) for name in _body(spec)):
        return "int4"
    return "bf16" if cpu.has_fast_bf16() else "fp32"


class DenseModel:
    """Weights and scratch of one model. One call at a time.

    Attributes:
        dtype: What products are computed in and keys and values kept in.
        rows: How many tokens a call may have so that its rows are exact.
    """

    def __init__(self, file: GGUFFile, spec: ModelSpec, weight_format: str, capacity_tokens: int) -> None:
        """Read the weights.

        Args:
            file: The model.
            spec: Its shape.
            weight_format: fp32, bf16 or int4.
            capacity_tokens: The longest text a state can hold.

        Raises:
            BackendError: The format is unknown, or does not fit the file or this machine.
        """
        if weight_format not in FORMATS:
            raise BackendError(
                f"there is no format {weight_format!r}", "it is not one of ours", f"Use {', '.join(FORMATS)}"
            )
        if weight_format == "int4":
            _require_int4(file, spec)
        self.spec = spec
        self.weight_format = weight_format
        self._threads = torch.get_num_threads()
        self.dtype = torch.float32 if weight_format == "fp32" else torch.bfloat16
        embedding = torch.from_numpy(file.tensors["token_embd.weight"].dequantise())
        head = embedding if spec.tied_head else torch.from_numpy(file.tensors["output.weight"].dequantise())
        self._head: Linear = Int8Linear(head) if weight_format == "int4" else PlainLinear(head.to(self.dtype))
        self._embedding = embedding.to(self.dtype)
        self._head_rows = self._embedding if spec.tied_head else head.to(self.dtype)
        self._layers = [self._read_layer(file, index) for index in range(spec.layers)]
        self._final_norm = _vector(file, "output_norm.weight")
        self._rotations = _rotations(file, spec, max(capacity_tokens, _TRIAL_BLOCKS * BLOCK_TOKENS) + BLOCK_TOKENS)
        # Row i sees the keys of its block up to its own; a call at offset o within a block takes the rows from o on.
        sees = torch.full((2 * BLOCK_TOKENS, BLOCK_TOKENS), -torch.inf).triu(1).to(self.dtype)
        self._causal = torch.cat(
            [sees.repeat_interleave(spec.group, 0), sees.new_zeros(cpu.ATTENTION_ROWS, BLOCK_TOKENS)]
        )
        blocks = max(-(-capacity_tokens // BLOCK_TOKENS), _TRIAL_BLOCKS)
        self._mask = torch.zeros(blocks, 1, _attention_rows(spec, BLOCK_TOKENS), BLOCK_TOKENS, dtype=self.dtype)
        self._masked_block = 0
        self._scratch: dict[int, _Scratch] = {}
        self._memory = self._allocate()
        self.rows = self._find_row_plan()

    def forward(self, state: LaneState, tokens: Sequence[int]) -> None:
        """Read tokens: at most what `room` allows at the state's position.

        Writes rows above the position first and moves the position last, so an exception leaves the state as it was.
        """
        residual = self._run(state, tokens, self._layers, self.rows)
        state.hidden.copy_(self._last_norm(residual[len(tokens) - 1]))
        state.commit(tokens)

    def score(self, state: LaneState, tokens: Sequence[int]) -> Tensor:
        """Read tokens as `forward` does; the logits after each of them, float32[n, vocabulary]."""
        residual = self._run(state, tokens, self._layers, self.rows)
        finals = [self._last_norm(row) for row in residual[: len(tokens)]]
        state.hidden.copy_(finals[-1])
        state.commit(tokens)
        return torch.stack([self._logits_of(final) for final in finals])

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step has to read: every matrix once."""
        matrices = [matrix for layer in self._layers for matrix in (layer.qkv, layer.output, layer.gate_up, layer.down)]
        return sum(matrix.nbytes for matrix in [*matrices, self._head])

    def room(self, position: int) -> int:
        """How many tokens the next call may have: calls do not cross blocks of the KV cache."""
        return min(self.rows.most, BLOCK_TOKENS - position % BLOCK_TOKENS)

    def logits(self, state: LaneState) -> Tensor:
        """float32[vocabulary] for the token after the position, in new memory."""
        return self._logits_of(state.hidden)

    def _logits_of(self, final: Tensor) -> Tensor:
        logits = self._head(final.to(self.dtype).unsqueeze(0))[0].float()
        if self.dtype != torch.float32:
            # The product ends in bfloat16, in which neighbours tie: the foremost are computed again in float32.
            foremost = logits.topk(min(_FOREMOST, len(logits))).indices
            logits[foremost] = self._head_rows[foremost].float() @ final
        return logits

    def _last_norm(self, row: Tensor) -> Tensor:
        return functional.rms_norm(row, (self.spec.hidden,), self._final_norm, self.spec.norm_epsilon)

    def _run(self, state: LaneState, tokens: Sequence[int], layers: Sequence[Layer], plan: RowPlan) -> Tensor:
        """Write the cache's rows above the position; the stream after the last layer, float32[rows, hidden]."""
        spec, count, first = self.spec, len(tokens), state.position
        rows = plan.padded(count)
        self._use_threads(1 if rows <= _ONE_CORE_ROWS else self._threads)
        scratch = self._scratch.get(rows) or self._views(rows)
        padded = torch.tensor([*tokens, *[0] * (rows - count)])
        scratch.residual.copy_(functional.embedding(padded, self._embedding))
        block, offset = divmod(first, BLOCK_TOKENS)
        call = _Call(
            count, self._rotations[first : first + rows], self._mask_for(block, offset, scratch.query.shape[1])
        )
        written = state.kv[block, :, :, :, offset : offset + count].unbind(0)
        keys, values = (seen.unbind(1) for seen in state.kv[: block + 1].unbind(2))
        for layer, target, *seen in zip(layers, written, keys, values, strict=False):
            self._normalise(scratch, layer.attention_norm)
            self._attend(scratch, layer, call, target, *seen)
            self._normalise(scratch, layer.feed_forward_norm)
            gate, up = layer.gate_up(scratch.narrow).split(spec.feed_forward, dim=1)
            torch.mul(functional.silu(gate), up, out=scratch.activated)
            scratch.residual.add_(layer.down(scratch.activated))
        return scratch.residual

    def _use_threads(self, threads: int) -> None:
        """Of the thread that computes. Which bits come out does not depend on it; the trial at load would tell."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def _normalise(self, scratch: _Scratch, weight: Tensor) -> None:
        scratch.narrow.copy_(functional.rms_norm(scratch.residual, (self.spec.hidden,), weight, self.spec.norm_epsilon))

    def _attend(
        self, scratch: _Scratch, layer: Layer, call: _Call, target: Tensor, keys: Tensor, values: Tensor
    ) -> None:
        """Attention of one layer, added to the residual stream.

        Args:
            scratch: Of the call's length.
            layer: The weights.
            call: What all layers share.
            target: [k|v, kv_heads, count, head_dim], the rows of the cache to write.
            keys: [blocks, kv_heads, 64, head_dim], all that can be seen, what is written here included.
            values: As `keys`.
        """
        spec, rows = self.spec, len(scratch.residual)
        turned = spec.query_heads + spec.kv_heads
        qkv = layer.qkv(scratch.narrow).view(rows, turned + spec.kv_heads, spec.head_dim).float()
        rotary = qkv[:, :turned]
        if layer.head_norm is not None:
            rotary.copy_(functional.rms_norm(rotary, (spec.head_dim,), None, spec.norm_epsilon) * layer.head_norm)
        torch.view_as_complex(rotary.unflatten(2, (-1, 2))).mul_(call.rotation)
        scratch.query_by_token.copy_(qkv[:, : spec.query_heads].view(scratch.query_by_token.shape))
        stored = qkv[: call.tokens, spec.query_heads :].unflatten(1, (2, spec.kv_heads))
        target.copy_(stored.permute(1, 2, 0, 3))
        attended = cpu.attend(scratch.query, keys, values, call.mask)
        scratch.attended_by_head.copy_(attended[:, : rows * spec.group].view(scratch.attended_by_head.shape))
        scratch.residual.add_(layer.output(scratch.attended))

    def _mask_for(self, block: int, offset: int, attention_rows: int) -> Tensor:
        """Everything before the block is seen, and of the block what lies before each row."""
        self._mask[self._masked_block].zero_()
        self._masked_block = block
        mask = self._mask[: block + 1, :, :attention_rows]
        start = offset * self.spec.group
        mask[block, 0].copy_(self._causal[start : start + attention_rows])
        return mask

    def _allocate(self) -> tuple[Tensor, ...]:
        spec, rows = self.spec, BLOCK_TOKENS
        attention_rows = _attention_rows(spec, rows)
        return (
            torch.zeros(rows, spec.hidden),
            torch.zeros(rows, spec.hidden, dtype=self.dtype),
            torch.zeros(spec.kv_heads * attention_rows * spec.head_dim, dtype=self.dtype),
            torch.zeros(rows, spec.query_heads * spec.head_dim, dtype=self.dtype),
            torch.zeros(rows, spec.feed_forward, dtype=self.dtype),
        )

    def _views(self, rows: int) -> _Scratch:
        """Views of the static memory for calls of a length, made once."""
        spec = self.spec
        residual, narrow, query, attended, activated = self._memory
        attention_rows = _attention_rows(spec, rows)
        query = query[: spec.kv_heads * attention_rows * spec.head_dim].view(
            spec.kv_heads, attention_rows, spec.head_dim
        )
        by_head = query[:, : rows * spec.group].unflatten(1, (rows, spec.group))
        self._scratch[rows] = _Scratch(
            residual[:rows],
            narrow[:rows],
            query,
            by_head.transpose(0, 1),
            attended[:rows],
            attended[:rows].view(rows, spec.kv_heads, spec.group, spec.head_dim).transpose(0, 1),
            activated[:rows],
        )
        return self._scratch[rows]

    def _read_layer(self, file: GGUFFile, index: int) -> Layer:
        spec = self.spec
        prefix = f"blk.{index}."
        query_order, key_order = _row_order(spec, spec.query_heads), _row_order(spec, spec.kv_heads)
        head_norm = None
        if spec.head_norms:
            order = _row_order(spec, 1)
            query_norm = _vector(file, f"{prefix}attn_q_norm.weight")[order]
            key_norm = _vector(file, f"{prefix}attn_k_norm.weight")[order]
            head_norm = torch.stack([query_norm] * spec.query_heads + [key_norm] * spec.kv_heads)
        return Layer(
            _vector(file, f"{prefix}attn_norm.weight"),
            self._read_linear(
                file,
                {
                    f"{prefix}attn_q.weight": query_order,
                    f"{prefix}attn_k.weight": key_order,
                    f"{prefix}attn_v.weight": None,
                },
            ),
            head_norm,
            self._read_linear(file, {f"{prefix}attn_output.weight": None}),
            _vector(file, f"{prefix}ffn_norm.weight"),
            self._read_linear(file, {f"{prefix}ffn_gate.weight": None, f"{prefix}ffn_up.weight": None}),
            self._read_linear(file, {f"{prefix}ffn_down.weight": None}),
        )

    def _read_linear(self, file: GGUFFile, stacked: dict[str, np.ndarray | None]) -> Linear:
        """Several matrices, each with the order its rows are to have, as one."""
        if self.weight_format == "int4":
            parts = [
                [_ordered(part, order) for part in file.tensors[name].q4_parts()] for name, order in stacked.items()
            ]
            codes, scale, minimum = (np.concatenate(same) for same in zip(*parts, strict=True))
            return Int4Linear(codes, scale, minimum)
        numbers = [_ordered(file.tensors[name].dequantise(), order) for name, order in stacked.items()]
        return PlainLinear(torch.from_numpy(np.concatenate(numbers)).to(self.dtype))

    def _find_row_plan(self) -> RowPlan:
        """The first plan under which a text read in calls of many lengths leaves the same bytes as in long calls."""
        state = LaneState(self.spec, _TRIAL_BLOCKS * BLOCK_TOKENS, self.dtype)
        for plan in cpu.ROW_PLANS[:-1]:
            longest = self._trial(state, plan, [plan.most] * (_TRIAL_BLOCKS * BLOCK_TOKENS // plan.most))
            if all(map(torch.equal, longest, self._trial(state, plan, _SPLITS))):
                return plan
        return cpu.ROW_PLANS[-1]

    def _trial(self, state: LaneState, plan: RowPlan, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The residual stream and the cache after two layers have read two blocks in calls of some lengths."""
        text = [place * 7919 % self.spec.vocabulary for place in range(_TRIAL_BLOCKS * BLOCK_TOKENS)]
        state.rewind()
        rows: list[Tensor] = []
        for length in lengths:
            tokens = text[state.position : state.position + length]
            rows.append(self._run(state, tokens, self._layers[:2], plan)[:length].clone())
            state.commit(tokens)
        return torch.cat(rows), state.kv.clone()


def _attention_rows(spec: ModelSpec, rows: int) -> int:
    """Query rows that a call of some tokens has for each kv head, padding included."""
    return -(-rows * spec.group // cpu.ATTENTION_ROWS) * cpu.ATTENTION_ROWS


def _body(spec: ModelSpec) -> list[str]:
    """The matrices of the layers."""
    return [name for name, shape in spec.tensors().items() if name.startswith("blk.") and len(shape) == 2]


def _require_int4(file: GGUFFile, spec: ModelSpec) -> None:
    cpu.require_int4()
    unfit = next((file.tensors[name] for name in _body(spec) if not cpu.int4_fits(file.tensors[name])), None)
    if unfit is not None:
        raise BackendError(
            f"the model {file.path} can't be used as int4",
            f"{unfit.name} is packed as {unfit.quant} with shape {unfit.shape}, not in 4-bit blocks",
            "Use the format bf16, or a Q4_0 or Q4_1 file of the model",
        )


def _vector(file: GGUFFile, name: str) -> Tensor:
    return torch.from_numpy(file.tensors[name].dequantise())


def _ordered(part: np.ndarray, order: np.ndarray | None) -> np.ndarray:
    return part if order is None else part[order]


def _row_order(spec: ModelSpec, heads: int) -> np.ndarray | None:
    """Puts the rows of rotary halves side by side, head by head; None if they are so already."""
    if not spec.rotary_halves:
        return None
    return np.arange(heads * spec.head_dim).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def _rotations(file: GGUFFile, spec: ModelSpec, positions: int) -> Tensor:
    """exp(i * position * base^(-2j / head_dim)) as complex64[positions, 1, head_dim / 2] (Su et al. 2021)."""
    frequencies = spec.rope_base ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)
    if spec.rope_factors:
        frequencies = frequencies / file.tensors[ROPE_FACTORS].dequantise()
    angles = np.outer(np.arange(positions), frequencies)
    return torch.from_numpy(np.exp(1j * angles).astype(np.complex64)).unsqueeze(1)
