"""The way in: an Engine holds the weights and a worker thread, a Lane is one live state that it moves along.

All computing happens in the engine's one thread. What a lane does to its state otherwise (marks, capsules, rollbacks)
happens in the caller's, under the engine's lock and between two steps. A step that was asked for before the state was
moved by somebody else finds another epoch and does nothing, so cancelling is safe and never has to be waited for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from engine import capsule as capsules
from engine import sampler
from engine.arena import Usage
from engine.capsule import Capsule, Mark
from engine.chat import Chat
from engine.errors import BackendError, ContextFull, StateError
from engine.models.dense import DenseModel, choose_format
from engine.sampler import Sampling
from engine.spec import ModelSpec
from engine.state import LaneState
from engine.tokenizer import Tokenizer
from engine.weights.gguf import GGUFFile

LAYOUT_VERSION = 1
"""Raised when the meaning of a byte of the state changes."""

Result = TypeVar("Result")


class Engine:
    """A loaded model.

    Attributes:
        spec: Its shape.
        capacity: Tokens a lane can hold.
        tokenizer: From the model's file.
        weight_format: fp32, bf16 or int4.
        model: The forward pass; call it in the worker thread only.
        lock: Held while a state or the model's scratch is used.
        fingerprint: What a state must have been made with to be put back: weights, format, layout, numerics.
    """

    def __init__(self, file: GGUFFile, weight_format: str, context_tokens: int, threads: int) -> None:
        """Read the weights of an open file. `load` says what the arguments mean."""
        self.spec = ModelSpec.from_gguf(file)
        self.capacity = min(context_tokens, self.spec.context_tokens)
        self.tokenizer = Tokenizer.from_gguf(file)
        self.lock = threading.Lock()
        self.worker = ThreadPoolExecutor(1, "engine", initializer=torch.set_num_threads, initargs=(threads,))
        self.weight_format = choose_format(file, self.spec) if weight_format == "auto" else weight_format
        self.model = self.run(DenseModel, file, self.spec, self.weight_format, self.capacity)
        self.fingerprint = _fingerprint(file, self.model, threads)
        self._file = file
        self._chat: Chat | None = None

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str = "cpu",
        format: str = "auto",
        context_tokens: int = 2048,
        threads: int = 2,
    ) -> Engine:
        """Read a model.

        Args:
            path: A GGUF file of a llama or qwen3 model.
            device: cpu or auto.
            format: How weights lie in memory: fp32, bf16, int4 (4-bit layers from the file's own codes, 8-bit head),
                or auto for the fastest that fits the file and this machine.
            context_tokens: The longest text a lane can hold; cut to what the model was trained for.
            threads: Threads of a product.

        Raises:
            ModelFileError: The file is damaged or of a kind the engine can't run.
            BackendError: The device or format can't be used here.
        """
        if device not in ("cpu", "auto"):
            raise BackendError(
                f"the device {device} can't be used", "this build computes on the CPU", "Use cpu or auto"
            )
        if context_tokens < 1 or threads < 1:
            raise BackendError(
                "the model can't be loaded",
                f"{context_tokens} tokens of context, {threads} threads",
                "Ask for at least one",
            )
        return cls(GGUFFile.open(path), format, context_tokens, threads)

    @property
    def chat(self) -> Chat:
        """The model's chat format.

        Raises:
            ModelFileError: The file has no chat template.
            PromptError: The template can't be used.
        """
        if self._chat is None:
            self._chat = Chat.from_gguf(self._file, self.tokenizer)
        return self._chat

    def lane(self, seed: int = 0) -> Lane:
        """A new, empty live state."""
        state = LaneState(self.spec, self.capacity, self.model.dtype)
        state.seed = seed
        return Lane(self, state)

    def run(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Do something in the worker thread and wait for it."""
        return self.worker.submit(_in_inference, job, *arguments).result()

    def close(self) -> None:
        """End the worker thread after the step it is in."""
        self.worker.shutdown(cancel_futures=True)


class Lane:
    """One live state. One task at a time may append or generate."""

    def __init__(self, engine: Engine, state: LaneState) -> None:
        self._engine = engine
        self._state = state
        self._epoch = 0

    @property
    def position(self) -> int:
        """Tokens in the state."""
        with self._engine.lock:
            return self._state.position

    @property
    def capacity(self) -> int:
        """Tokens the state has room for."""
        return self._state.capacity

    @property
    def journal(self) -> list[int]:
        """The tokens in the state."""
        with self._engine.lock:
            return self._state.journal()

    @property
    def seed(self) -> int:
        """Seed of the sampler's noise; part of the state."""
        return self._state.seed

    async def append(self, tokens: Sequence[int]) -> None:
        """Read tokens into the state. Cancelled, it stops within one call of the model and the journal says how far.

        Raises:
            ContextFull: They don't fit. Nothing was appended.
            StateError: A token is not in the vocabulary. Nothing was appended.
        """
        epoch = self._begin()
        try:
            await self._work(self._append, tokens, epoch)
        except asyncio.CancelledError:
            self._begin()
            raise

    def append_now(self, tokens: Sequence[int]) -> None:
        """`append` for callers without an event loop."""
        epoch = self._begin()
        self._engine.run(self._append, tokens, epoch)

    def score_now(self, tokens: Sequence[int]) -> Tensor:
        """Read tokens as `append_now` does; the logits after each of them, float32[n, vocabulary]."""
        epoch = self._begin()
        parts: list[Tensor] = []
        self._engine.run(self._append, tokens, epoch, parts.append)
        return torch.cat(parts)

    async def generate(
        self, sampling: Sampling, max_tokens: int, stop_ids: Collection[int] | None = None
    ) -> AsyncGenerator[int, None]:
        """Decode tokens, one step each time the next one is asked for.

        When a token is yielded the state holds all before it and not the token itself. Once the iterator has ended, by
        a stop token (not yielded, not in the state) or by the count, the state holds all tokens yielded. If the state
        is moved by somebody else the iterator ends as well.

        Args:
            sampling: How to choose.
            max_tokens: How many at most.
            stop_ids: What ends the text; None for the model's own end tokens.

        Raises:
            StateError: The lane is empty, so that there is nothing to go on from.
            ContextFull: The newest token doesn't fit; the state is as it was when it was yielded.
        """
        stops = frozenset(self._engine.tokenizer.eos_ids if stop_ids is None else stop_ids)
        epoch = self._begin()
        if sampling.seed is not None:
            with self._engine.lock:
                self._state.seed = sampling.seed
        newest: list[int] = []
        for _ in range(max_tokens):
            token = await self._work(self._step, newest, sampling, epoch)
            if token is None or token in stops:
                return
            yield token
            newest = [token]
        await self._work(self._append, newest, epoch)

    def generate_now(self, sampling: Sampling, max_tokens: int, stop_ids: Collection[int] | None = None) -> list[int]:
        """`generate` for callers without an event loop: all tokens at once."""

        async def collect() -> list[int]:
            return [token async for token in self.generate(sampling, max_tokens, stop_ids)]

        return asyncio.run(collect())

    def snapshot(self, reuse: Capsule | None = None) -> Capsule:
        """Copy the state into a capsule.

        Args:
            reuse: A capsule that nobody needs any more; its memory is taken over, and it must not be used again.
        """
        with self._engine.lock:
            return capsules.take(self._state, self._engine.fingerprint, reuse)

    def restore(self, capsule: Capsule) -> None:
        """Make the state that of a capsule, byte for byte.

        Raises:
            StateError: It is of another model or format, or too long. The state is untouched.
        """
        with self._engine.lock:
            capsules.put_back(self._state, self._engine.fingerprint, capsule)
            self._epoch += 1

    def mark(self) -> Mark:
        """Remember the state's boundary without copying the rows of its tokens."""
        with self._engine.lock:
            return capsules.mark(self._state)

    def roll_back(self, mark: Mark) -> None:
        """Go back to a boundary of this lane without copying the rows of its tokens.

        Raises:
            StateError: Rows below the mark were overwritten since, or it is another lane's. The state is untouched.
        """
        with self._engine.lock:
            capsules.roll_back(self._state, mark)
            self._epoch += 1

    def digest(self) -> str:
        """One digest of all live bytes."""
        with self._engine.lock:
            return capsules.combined(self._state.position, capsules.state_digests(self._state))

    def region_digests(self) -> dict[str, str]:
        """Digest of each region's live bytes."""
        with self._engine.lock:
            return capsules.state_digests(self._state)

    def usage(self) -> list[Usage]:
        """What each buffer of the state weighs, all of it and its live part."""
        with self._engine.lock:
            return self._state.arena.usage(self._state.position)

    def _begin(self) -> int:
        """From now on, whatever was asked for before does nothing."""
        self._epoch += 1
        return self._epoch

    async def _work(self, job: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._engine.worker, _in_inference, job, *arguments)

    def _append(self, tokens: Sequence[int], epoch: int, take: Callable[[Tensor], None] | None = None) -> None:
        """Read tokens in as many calls as the model needs; `take` gets the logits of each call."""
        state, model = self._state, self._engine.model
        self._check(tokens)
        read = 0
        while read < len(tokens):
            with self._engine.lock:
                if epoch != self._epoch:
                    return
                part = tokens[read : read + model.room(state.position)]
                if take is None:
                    model.forward(state, part)
                else:
                    take(model.score(state, part))
            read += len(part)

    def _step(self, newest: Sequence[int], sampling: Sampling, epoch: int) -> int | None:
        """Read the newest token and choose the next; None if the state was moved meanwhile."""
        state, model = self._state, self._engine.model
        with self._engine.lock:
            if epoch != self._epoch:
                return None
            if newest:
                self._check(newest)
                model.forward(state, newest)
            position = state.position
            if position == 0:
                raise StateError("there is nothing to go on from", "the lane is empty", "Append a prompt first")
            recent = state.journal(max(sampling.penalty_from, position - sampling.penalty_tokens))
            return sampler.choose(model.logits(state), sampling, state.seed, position, recent)

    def _check(self, tokens: Sequence[int]) -> None:
        free = self._state.capacity - self._state.position
        if len(tokens) > free:
            raise ContextFull(
                f"{len(tokens)} tokens can't be appended",
                f"the state holds {self._state.position} of {self._state.capacity}",
                "Roll back, restore a shorter capsule, or load the engine with a larger context_tokens",
            )
        wrong = next((token for token in tokens if not 0 <= token < self._engine.spec.vocabulary), None)
        if wrong is not None:
            raise StateError(
                f"{len(tokens)} tokens can't be appended",
                f"{wrong} is not among the model's {self._engine.spec.vocabulary} tokens",
                "Encode the text with the engine's own tokenizer",
            )


def _in_inference(job: Callable[..., Result], *arguments: object) -> Result:
    with torch.inference_mode():
        return job(*arguments)


def _fingerprint(file: GGUFFile, model: DenseModel, threads: int) -> str:
    """128 bits over what decides the meaning and the bits of a state."""
    digest = hashlib.blake2b(digest_size=16)
    processor = torch.backends.cpu.get_cpu_capability()
    numerics = (LAYOUT_VERSION, model.spec, model.weight_format, model.rows, torch.__version__, processor, threads)
    digest.update(repr(numerics).encode())
    for name in sorted(file.tensors):
        digest.update(name.encode())
        digest.update(file.tensors[name].blocks.data)
    return digest.hexdigest()
