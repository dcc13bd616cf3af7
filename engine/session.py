"""The way in: an Engine holds the weights, the memory for capsules and a worker thread; a Lane is one live state.

All computing happens in the engine's one thread. What a lane does to its state otherwise (marks, capsules, rollbacks)
happens in the caller's, under the engine's lock and between two steps. A step that was asked for before the state was
moved by somebody else finds another epoch and does nothing, so cancelling is safe and never has to be waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from engine import codec, fingerprint
from engine.capsule import Capsule
from engine.chat import Chat
from engine.copier import BackgroundCopier, Copier
from engine.errors import BackendError
from engine.header import Expected
from engine.lane import Counters, Lane, in_inference
from engine.models.decoder import Decoder
from engine.models.reader import choose_format
from engine.pool import Pool
from engine.sampler import check_seed
from engine.state import LaneState, declare
from engine.store import Store
from engine.turnstile import Turnstile
from engine.weights.checkpoint import Checkpoint, open_checkpoint

CAPSULE_CONTEXTS = 4
"""Memory for capsules, if nothing else is asked for: so many full contexts, as far as `MOST_CAPSULE_BYTES` goes."""
MOST_CAPSULE_BYTES = 512 << 20

Result = TypeVar("Result")


class Engine:
    """A loaded model.

    Attributes:
        spec: Its shape.
        capacity: Tokens a lane can hold.
        tokenizer: The model's own.
        weight_format: fp32, bf16 or int4.
        model: The forward pass; call it in the worker thread only.
        lock: Held while a state or the model's scratch is used.
        fingerprint: What a state must have been made with to be put back.
        expected: What a capsule's file must hold to be read here.
        pool: Memory for capsules.
        store: Capsules under names, in that memory and on disk.
        copier: Fills capsules beside decoding.
        counters: What its lanes did.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        weight_format: str,
        context_tokens: int,
        threads: int,
        capsule_bytes: int | None = None,
        copier: Copier | None = None,
        capsule_directory: Path | None = None,
    ) -> None:
        """Read the weights of an open model. `load` says what the arguments mean."""
        self.spec = checkpoint.spec
        self.capacity = min(context_tokens, self.spec.context_tokens)
        self.tokenizer = checkpoint.tokenizer
        self.lock = Turnstile()
        self.worker = ThreadPoolExecutor(1, "engine", initializer=torch.set_num_threads, initargs=(threads,))
        self.weight_format = choose_format(checkpoint) if weight_format == "auto" else weight_format
        self.model = self.run(Decoder, checkpoint, self.weight_format, self.capacity)
        self.fingerprint = fingerprint.of(checkpoint, self.model, threads)
        regions = declare(self.spec, self.capacity, self.model.dtype)
        # At the edge of a chunk a recurrence is all in its base, so that one token less may weigh more.
        ends = self.capacity - 1, self.capacity
        full_bytes = max(sum(region.live_bytes(end) for region in regions) for end in ends)
        usual_bytes = min(CAPSULE_CONTEXTS * full_bytes, MOST_CAPSULE_BYTES)
        self.pool = Pool(usual_bytes if capsule_bytes is None else capsule_bytes)
        self.expected = Expected(self.fingerprint, regions, self.capacity, self.spec.vocabulary)
        self.store = Store(self.pool, self.expected, capsule_directory)
        self.copier = BackgroundCopier() if copier is None else copier
        self.counters = Counters()
        self._checkpoint = checkpoint
        self._chat: Chat | None = None

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str],
        *,
        device: str = "cpu",
        format: str = "auto",
        context_tokens: int = 2048,
        threads: int = 2,
        capsule_bytes: int | None = None,
        capsule_directory: Path | None = None,
    ) -> Engine:
        """Read a model.

        Args:
            name: A GGUF file, a directory of safetensors, or random:SHAPE.
            device: cpu or auto.
            format: How weights lie in memory: fp32, bf16, int4 (4-bit layers from the file's own codes, 8-bit head),
                or auto for the fastest that fits the file and this machine.
            context_tokens: The longest text a lane can hold; cut to what the model was trained for.
            threads: Threads of a product.
            capsule_bytes: Memory for capsules, all taken at once; None for four full contexts, at most 512 MiB.
            capsule_directory: Where the store saves capsules, and finds them again; None if it need not.

        Raises:
            ModelFileError: The model is damaged or of a kind the engine can't run.
            StateError: The directory of capsules can't be used.
            BackendError: The device or format can't be used here.
        """
        if device not in ("cpu", "auto"):
            raise BackendError(
                f"the device {device} can't be used", "this build computes on the CPU", "Use cpu or auto"
            )
        if context_tokens < 1 or threads < 1 or (capsule_bytes or 0) < 0:
            raise BackendError(
                "the model can't be loaded",
                f"{context_tokens} tokens of context, {threads} threads, {capsule_bytes} bytes for capsules",
                "Ask for at least one of the first two, and for no fewer bytes than none",
            )
        return cls(
            open_checkpoint(name),
            format,
            context_tokens,
            threads,
            capsule_bytes,
            capsule_directory=capsule_directory,
        )

    @property
    def chat(self) -> Chat:
        """The model's chat format.

        Raises:
            ModelFileError: The model has no chat template.
            PromptError: The template can't be used.
        """
        if self._chat is None:
            self._chat = Chat(self._checkpoint.template(), self.tokenizer)
        return self._chat

    def lane(self, capsule: Capsule | None = None, *, seed: int = 0) -> Lane:
        """A new live state.

        Args:
            capsule: What it starts from; None for nothing.
            seed: Of the sampler's noise, where there is no capsule to tell it.

        Raises:
            StateError: As `Lane.restore`.
            ValueError: The seed is none.
        """
        check_seed(seed)
        state = self.new_state()
        state.seed = seed
        lane = Lane(self, state)
        if capsule is not None:
            lane.restore(capsule)
        return lane

    def save(self, capsule: Capsule, path: str | os.PathLike[str]) -> None:
        """Write a capsule into a file of its own, with mode 0600: it holds what was said.

        Raises:
            StateError: The capsule was evicted or never filled, or the file can't be written; what it had stands.
        """
        codec.save(capsule, Path(path))

    def load_capsule(self, path: str | os.PathLike[str]) -> Capsule:
        """Read a capsule from its file.

        Raises:
            StateError: It can't be read, is damaged, or was taken with another model, format or machine.
            PoolFull: There is no room for it, and the store can't make enough.
        """
        return self.store.with_room(lambda: codec.load(Path(path), self.expected, self.pool))

    def new_state(self) -> LaneState:
        """Memory of a lane, empty."""
        return LaneState(self.spec, self.capacity, self.model.dtype)

    def run(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Do something in the worker thread and wait for it."""
        return self.worker.submit(in_inference, job, *arguments).result()

    def close(self) -> None:
        """End the worker thread after the step it is in, and the copier after what it was given."""
        self.worker.shutdown(cancel_futures=True)
        self.copier.close()
