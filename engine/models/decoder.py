"""The forward pass, of dense models (Llama 2 and 3, SmolLM2, Qwen3) and of hybrid ones (Qwen3.5), over static buffers.

The residual stream is float32 in every format. Products and what attention keeps are float32 (format fp32) or bfloat16
(bf16 and int4); the recurrence is float32 always. A call reads some tokens of one 64-token chunk, and what it leaves in
the state does not depend on how a text was cut into calls: see `RowPlan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engine.arena import CHUNK_TOKENS, digest_of
from engine.backends.cpu import Linear
from engine.backends.rows import ROW_PLANS, RowPlan, RowTrials
from engine.errors import BackendError
from engine.models.attention import Attention, AttentionScratch, attention_rows, caches, rotations
from engine.models.call import Call, Masks
from engine.models.delta_net import DeltaNet, memories
from engine.models.draft import DraftHead
from engine.models.feed_forward import FeedForward
from engine.models.reader import Reader
from engine.state import LaneState
from engine.weights.checkpoint import Checkpoint

_SPLITS = (*[1] * 16, 2, 3, 5, 8, 13, 17, 6, 7, 9, 10, 11, 21)
"""Call lengths a row plan is tried with: two chunks."""
_TRIAL_CHUNKS = 2
# Up to so many rows of a small model a second core costs more in waiting for it than it computes: a step is a hundred
# short products. Meanwhile it is the voice's and the recogniser's. Larger products gain from a second core.
_ONE_CORE_ROWS = 8
_ONE_CORE_BYTES = 256 << 20
_FOREMOST = 64
"""Logits that are computed in float32 whatever the format."""


class Layer(NamedTuple):
    """Weights of one layer."""

    norm: Tensor
    mixer: Attention | DeltaNet
    feed_forward: FeedForward


class Decoder:
    """Weights and scratch of one model. One call at a time.

    Attributes:
        spec: The model's shape.
        weight_format: fp32, bf16 or int4.
        dtype: What products are computed in and keys and values kept in.
        rows: How many tokens a call may have so that its rows are exact.
        sample: A digest of what its first layers made of a text at load, to tell one way of computing from another.
    """

    def __init__(self, checkpoint: Checkpoint, weight_format: str, capacity_tokens: int) -> None:
        """Read the weights.

        Args:
            checkpoint: The model.
            weight_format: fp32, bf16 or int4.
            capacity_tokens: The longest text a state can hold.

        Raises:
            BackendError: The format is unknown, does not fit the file or this machine, or the machine does not compute
                the same thing twice.
        """
        reader = Reader(checkpoint, weight_format)
        self.spec = spec = checkpoint.spec
        self.weight_format = weight_format
        self.dtype = reader.dtype
        self._threads = torch.get_num_threads()
        self._head, self._head_rows = reader.head("token_embd.weight" if spec.tied_head else "output.weight")
        tied = spec.tied_head
        self._embedding = self._head_rows if tied else reader.numbers("token_embd.weight").to(self.dtype)
        self._final_norm = reader.numbers("output_norm.weight")
        self._attention_scratch = AttentionScratch(spec, self.dtype)
        self._layers = [self._read_layer(reader, layer) for layer in range(spec.layers)]
        self._draft = DraftHead(reader, spec, self._attention_scratch) if spec.draft_head else None
        longest = max(capacity_tokens, _TRIAL_CHUNKS * CHUNK_TOKENS)
        self._rotations = rotations(reader, spec, longest + CHUNK_TOKENS)
        chunks = -(-longest // CHUNK_TOKENS)
        self._masks = Masks(spec, chunks, attention_rows(spec, CHUNK_TOKENS), self.dtype)
        self._residual = torch.zeros(CHUNK_TOKENS, spec.hidden)
        self._before = torch.zeros(CHUNK_TOKENS, spec.hidden)
        self._one_core_rows = _ONE_CORE_ROWS if self.step_bytes < _ONE_CORE_BYTES else 0
        self.rows, self.sample = self._find_row_plan()

    def forward(self, state: LaneState, tokens: Sequence[int]) -> None:
        """Read tokens: at most what `room` allows at the state's position.

        Writes rows above the position first and moves the position last, so an exception leaves the state as it was.

        Raises:
            BackendError: The model computes what is no number.
        """
        residual = self._run(state, tokens, self._layers, self.rows)
        _commit(state, tokens, self._final(residual)[len(tokens) - 1])

    def score(self, state: LaneState, tokens: Sequence[int]) -> Tensor:
        """Read tokens as `forward` does; the logits after each of them, float32[n, vocabulary]."""
        residual = self._run(state, tokens, self._layers, self.rows)
        finals = self._final(residual)[: len(tokens)]
        _commit(state, tokens, finals[-1])
        return torch.stack([self._logits_of(final) for final in finals])

    def logits(self, state: LaneState) -> Tensor:
        """float32[vocabulary] for the token after the position, in new memory."""
        return self._logits_of(state.hidden)

    def draft(self, state: LaneState, count: int) -> list[int]:
        """What the draft head expects after the likeliest next token: `count` tokens, each the likeliest.

        Writes rows of the draft head's cache above the position, and nothing that is live.

        Raises:
            BackendError: The model has no draft head.
        """
        head = self._draft
        if head is None:
            raise BackendError("no tokens can be drafted", "the model has no draft head", "Decode without drafts")
        state.note_written(state.position, state.position + count)
        rows = self.rows.padded(1)
        before, token = state.hidden, int(self.logits(state).argmax())
        guessed: list[int] = []
        for position in range(state.position, state.position + count):
            self._use_threads(rows)
            call = self._call(position, 1, rows)
            # The first token has nothing before it, so its row means nothing. No other is at the start of block 0.
            call.mask[0, 0, :, 0] = -torch.inf
            self._before[1:rows] = 0
            self._before[0] = before
            cache = next(caches(state.arena.tensors["draft_kv"].unsqueeze(1), call))
            before = head.guess(self._padded([token], rows), self._before[:rows], call, *cache)[0]
            token = int(self._logits_of(before).argmax())
            guessed.append(token)
        return guessed

    def room(self, position: int) -> int:
        """How many tokens the next call may have: calls do not cross chunks."""
        return min(self.rows.most, CHUNK_TOKENS - position % CHUNK_TOKENS)

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that a step has to read: every matrix once."""
        return sum(matrix.nbytes for matrix in [*self._matrices(), self._head])

    def scratch(self) -> Iterator[Tensor]:
        """All memory that is written in a call and is no part of a state."""
        yield from (self._residual, self._before, self._masks.memory, *self._attention_scratch.memory)

    def _matrices(self) -> list[Linear]:
        """All that multiply as many rows as a call has."""
        blocks = [part for layer in self._layers for part in (layer.mixer, layer.feed_forward)]
        blocks += [self._draft] if self._draft else []
        return [matrix for block in blocks for matrix in block.matrices]

    def _read_layer(self, reader: Reader, layer: int) -> Layer:
        spec = self.spec
        mixer = (
            Attention(reader, spec, layer, self._attention_scratch)
            if spec.attends(layer)
            else DeltaNet(reader, spec, layer)
        )
        return Layer(reader.numbers(f"blk.{layer}.attn_norm.weight"), mixer, FeedForward(reader, spec, layer))

    def _run(self, state: LaneState, tokens: Sequence[int], layers: Sequence[Layer], plan: RowPlan) -> Tensor:
        """Write what is above the position; the stream after the last layer, float32[rows, hidden]."""
        rows = plan.padded(len(tokens))
        self._use_threads(rows)
        call = self._call(state.position, len(tokens), rows)
        # Before the first byte: should this fail half-way, what stood in those places is gone.
        state.note_written(call.position, call.position + len(tokens))
        embedded = self._padded(tokens, rows)
        residual = self._residual[:rows].copy_(embedded)
        tensors = state.arena.tensors
        kept = caches(tensors["kv"], call)
        deltas = memories(tensors, call) if self.spec.delta else iter(())
        for layer in layers:
            normed = self._norm(residual, layer.norm).to(self.dtype)
            if isinstance(layer.mixer, Attention):
                residual += layer.mixer(normed, call, *next(kept))
            else:
                residual += layer.mixer(normed, call, next(deltas))
            residual += layer.feed_forward(residual)
        if self._draft is not None:
            self._read_drafts(self._draft, state, call, embedded, residual)
        return residual

    def _read_drafts(self, head: DraftHead, state: LaneState, call: Call, embedded: Tensor, residual: Tensor) -> None:
        """Write the rows of the draft head's cache that belong to a call."""
        before = self._before[: len(residual)]
        before[0] = state.hidden if call.position else 0
        before[1:] = self._final(residual)[:-1]
        head.read(embedded, before, call, next(caches(state.arena.tensors["draft_kv"].unsqueeze(1), call))[0])

    def _call(self, position: int, tokens: int, rows: int) -> Call:
        mask = self._masks.at(*divmod(position, CHUNK_TOKENS), attention_rows(self.spec, rows))
        return Call(tokens, position, self._rotations[position : position + rows], mask)

    def _padded(self, tokens: Sequence[int], rows: int) -> Tensor:
        """Embeddings of tokens and of padding, float32[rows, hidden]."""
        padded = torch.tensor([*tokens, *[0] * (rows - len(tokens))])
        return functional.embedding(padded, self._embedding).float()

    def _use_threads(self, rows: int) -> int:
        """How many are used for a call of some rows, from now on in the thread that computes."""
        threads = 1 if rows <= self._one_core_rows else self._threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        return threads

    def _norm(self, rows: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(rows, (self.spec.hidden,), weight, self.spec.norm_epsilon)

    def _final(self, rows: Tensor) -> Tensor:
        return self._norm(rows, self._final_norm)

    def _logits_of(self, final: Tensor) -> Tensor:
        # Always the same number, whatever the call before it had.
        self._use_threads(1)
        logits = self._head(final.to(self.dtype).unsqueeze(0))[0].float()
        if self.dtype != torch.float32:
            # The product ends in bfloat16, in which neighbours tie: the foremost are computed again in float32.
            foremost = logits.topk(min(_FOREMOST, len(logits))).indices
            logits[foremost] = self._head_rows[foremost].float() @ final
        return logits

    def _find_row_plan(self) -> tuple[RowPlan, str]:
        """The first plan under which a text read in calls of many lengths leaves the same bytes as in long calls.

        Returns:
            The plan, and a digest of those bytes.

        Raises:
            BackendError: Not even single rows come out the same twice.
        """
        state = LaneState(self.spec, _TRIAL_CHUNKS * CHUNK_TOKENS, self.dtype)
        trials = RowTrials(self._matrices(), self.dtype, self._use_threads)
        for plan in filter(trials.allow, ROW_PLANS):
            longest = [plan.most] * (_TRIAL_CHUNKS * CHUNK_TOKENS // plan.most)
            splits = _SPLITS if plan.most >= max(_SPLITS) else longest
            sample = self._trial(state, plan, longest)
            if sample == self._trial(state, plan, splits):
                return plan, sample
        raise BackendError(
            "the model can't be used on this machine",
            "computing the same rows twice gave different bits",
            "Try another format, or --threads 1",
        )

    def _trial(self, state: LaneState, plan: RowPlan, lengths: Sequence[int]) -> str:
        """A digest of the stream and the state after the first layers have read two chunks in calls of some lengths."""
        layers = self._layers[: self.spec.delta.interval if self.spec.delta else 2]
        text = [place * 7919 % self.spec.vocabulary for place in range(_TRIAL_CHUNKS * CHUNK_TOKENS)]
        state.rewind()
        rows: list[Tensor] = []
        for length in lengths:
            tokens = text[state.position : state.position + length]
            rows.append(self._run(state, tokens, layers, plan)[:length].clone())
            state.commit(tokens, self._final(rows[-1])[-1])
        return digest_of([*rows, *state.arena.live_pieces(state.position)])


def _commit(state: LaneState, tokens: Sequence[int], final: Tensor) -> None:
    """Make what was written part of the state.

    Raises:
        BackendError: The last row is not made of numbers. The state is as it was.
    """
    if not bool(final.isfinite().all()):
        state.discard(state.position + len(tokens))
        raise BackendError(
            f"{len(tokens)} tokens can't be read",
            "what the model computes from them is not finite",
            "Try another format, or fetch the model again",
        )
    state.commit(tokens, final)
