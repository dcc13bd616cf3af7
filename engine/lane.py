"""A lane: one live state that a model moves along, and the verbs that copy it, put it back and fork it.

Steps are made in the engine's worker thread, everything else in the caller's; both hold the engine's lock. Whoever
moves the state begins a new epoch, and a step that was asked for in an older one does nothing.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from engine import capsule as capsules
from engine.arena import Usage
from engine.capsule import Capsule, Mark
from engine.errors import EngineError, StateError
from engine.live import LiveSet, Text
from engine.sampler import Sampling
from engine.state import LaneState
from engine.steps import Steps

if TYPE_CHECKING:
    from engine.session import Engine

Result = TypeVar("Result")


@dataclass
class Counters:
    """How often each thing was done by the lanes of an engine."""

    snapshots: int = 0
    """Deltas included."""
    deltas: int = 0
    restores: int = 0
    rollbacks: int = 0
    forks: int = 0
    refusals: int = 0
    """Verbs that raised an error and changed nothing, or left a lane dead."""
    rebuilds: int = 0
    """States made again from their tokens."""


class Lane:
    """One live state. One task at a time may append or generate."""

    def __init__(self, engine: Engine, state: LaneState) -> None:
        self._engine = engine
        self._live = LiveSet(state)
        self._steps = Steps(engine, self._live)

    @property
    def position(self) -> int:
        """Tokens in the state."""
        with self._engine.lock:
            return self._live.position

    @property
    def capacity(self) -> int:
        """Tokens the state has room for."""
        return self._live.state.capacity

    @property
    def journal(self) -> list[int]:
        """The tokens in the state."""
        with self._engine.lock:
            return list(self._live.text.tokens)

    @property
    def seed(self) -> int:
        """Seed of the sampler's noise; part of the state."""
        with self._engine.lock:
            return self._live.seed

    @property
    def dead(self) -> bool:
        """Whether the state is lost, and will be made again from its tokens when it is next used."""
        return self._live.lost is not None

    async def append(self, tokens: Sequence[int]) -> None:
        """Read tokens into the state.

        Cancelled, or if somebody else moves the state, it stops within one call of the model. The journal says how far
        it came.

        Raises:
            ContextFull: They don't fit. Nothing was appended.
            StateError: A token is not in the vocabulary. Nothing was appended.
        """
        await self._work(self._steps.append, self._live.move(), _whole(tokens))

    def append_now(self, tokens: Sequence[int]) -> None:
        """`append` for callers without an event loop."""
        self._work_now(self._steps.append, self._live.move(), _whole(tokens))

    def score_now(self, tokens: Sequence[int]) -> Tensor:
        """Read tokens as `append_now` does; the logits after each of them, float32[n, vocabulary]."""
        parts = [torch.zeros(0, self._engine.spec.vocabulary)]
        self._work_now(self._steps.append, self._live.move(), _whole(tokens), parts.append)
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
        epoch = self._live.move()
        if sampling.seed is not None:
            with self._engine.lock:
                if epoch == self._live.epoch:
                    self._live.seed = sampling.seed
        newest: list[int] = []
        for _ in range(max_tokens):
            token = await self._work(self._steps.choose, epoch, newest, sampling)
            if token is None or token in stops:
                return
            yield token
            newest = [token]
        await self._work(self._steps.append, epoch, newest)

    def generate_now(self, sampling: Sampling, max_tokens: int, stop_ids: Collection[int] | None = None) -> list[int]:
        """`generate` for callers without an event loop: all tokens at once."""

        async def collect() -> list[int]:
            return [token async for token in self.generate(sampling, max_tokens, stop_ids)]

        return asyncio.run(collect())

    async def next_logprob(self, ids: Collection[int]) -> float | None:
        """How likely one of some tokens is to come next. It only looks: whoever reads or decodes is not stopped.

        Args:
            ids: Of which one, whichever, is to come.

        Returns:
            Natural log of the sum of their probabilities, without temperature and penalties; -inf for no tokens. None
            if the state was moved by somebody else meanwhile.

        Raises:
            StateError: A token is not in the vocabulary, or the lane is empty.
        """
        loop, worker = asyncio.get_running_loop(), self._engine.worker
        return await loop.run_in_executor(
            worker, in_inference, self._steps.next_logprob, self._live.epoch, _whole(set(ids))
        )

    def draft_now(self, count: int) -> list[int]:
        """What the model's draft head guesses to come after the next token. The text is not moved.

        Raises:
            BackendError: The model has no draft head.
            ContextFull: There is no room for so many.
            StateError: The lane is empty.
        """
        return self._engine.run(self._draft, count)

    def snapshot(self, parent: Capsule | None = None) -> Capsule:
        """Copy the state into a capsule. Most of it is copied beside what comes next; `Capsule.wait` waits for it.

        Args:
            parent: An earlier capsule that this lane was at, taken or restored, and has only read on from. What it
                holds is shared.

        Raises:
            PoolFull: There is no room for it, and the store can't make enough. Nothing was copied, and nothing evicted.
            StateError: The lane's text did not grow from the parent, or the parent was evicted or never filled.
        """
        engine = self._engine
        with self._verb():
            capsule, copy = engine.store.with_room(
                lambda: self._live.snapshot(engine.fingerprint, engine.pool, parent), keep=parent
            )
            engine.store.watch(capsule)
            engine.copier.add(copy)
            engine.counters.snapshots += 1
            engine.counters.deltas += bool(capsule.borrowed)
        return capsule

    def restore(self, capsule: Capsule) -> None:
        """Make the state that of a capsule, byte for byte.

        Raises:
            StateError: It is of another model or format, too long, evicted, or not whole. The state is untouched.
            LaneDead: A copy failed half way. The lane goes on from the text it had.
        """
        with self._verb(dead=True):
            self._live.restore(self._engine.fingerprint, capsule)
            self._engine.counters.restores += 1

    def fork(self, into: Lane | None = None) -> Lane:
        """Another lane in the same state. What this one knew of its capsules, the other knows too.

        Args:
            into: A lane of the same engine that is not needed any more; None for a new one.

        Raises:
            StateError: The lane can't be overwritten with this one's state. Both are untouched.
            LaneDead: A copy failed half way. The other lane goes on from the text it had.
        """
        lane = Lane(self._engine, self._engine.new_state()) if into is None else into
        with self._verb():
            if lane is self or lane._engine is not self._engine:
                raise StateError(
                    "the lane can't be forked", "the other is itself, or another engine's", "Use a new one"
                )
            lane._live.become(self._live)
            self._engine.counters.forks += 1
        return lane

    def mark(self) -> Mark:
        """Remember the state's boundary without copying the rows of its tokens."""
        with self._verb():
            return capsules.mark(self._live.state)

    def roll_back(self, mark: Mark) -> None:
        """Go back to a boundary of this lane without copying the rows of its tokens.

        Raises:
            StateError: What it leans on was overwritten since, or it is another lane's. The state is untouched.
            LaneDead: A copy failed half way. The lane goes on from the text it had.
        """
        with self._verb():
            self._live.roll_back(mark)
            self._engine.counters.rollbacks += 1

    def clear(self) -> None:
        """Forget everything but the seed."""
        with self._verb(dead=True):
            self._live.clear()

    def rebuild(self, capsule: Capsule | None = None) -> None:
        """Make the state by reading tokens: what a capsule can't be restored for, or what brings a dead lane back.

        Args:
            capsule: Whose tokens, be it evicted or of another format; None for the lane's own.

        Raises:
            ContextFull: They don't fit. The state is untouched.
            StateError: A token is not in the vocabulary. The state is untouched.
        """
        with self._verb(dead=True):
            if capsule is not None:
                self._steps.check(capsule.tokens, 0)
            self._live.move()
            self._live.lost = self._live.text if capsule is None else Text(capsule.tokens, capsule.seed)
        self.append_now(())

    def digest(self) -> str:
        """One digest of all live bytes."""
        with self._verb():
            state = self._live.state
            return capsules.combined(state.position, state.arena.digests(state.position))

    def region_digests(self) -> dict[str, str]:
        """Digest of each region's live bytes."""
        with self._verb():
            return self._live.state.arena.digests(self._live.state.position)

    def usage(self) -> list[Usage]:
        """What each buffer of the state weighs, all of it and its live part."""
        with self._engine.lock:
            return self._live.state.arena.usage(self._live.state.position)

    @contextmanager
    def _verb(self, dead: bool = False) -> Generator[None]:
        """What is done between two steps, in the caller's thread; `dead`: also with a lane that is."""
        with self._engine.lock:
            try:
                if not dead:
                    self._live.require()
                yield
            except EngineError:
                self._engine.counters.refusals += 1
                raise

    async def _work(self, job: Callable[..., Result], epoch: int, *arguments: object) -> Result:
        """Do something of an epoch in the worker thread. If nobody waits for it any more, it does nothing more."""
        loop, worker = asyncio.get_running_loop(), self._engine.worker
        try:
            return await loop.run_in_executor(worker, in_inference, job, epoch, *arguments)
        except asyncio.CancelledError:
            self._live.end(epoch)
            raise

    def _work_now(self, job: Callable[..., Result], epoch: int, *arguments: object) -> Result:
        """`_work` for callers without an event loop."""
        try:
            return self._engine.run(job, epoch, *arguments)
        except KeyboardInterrupt:
            self._live.end(epoch)
            raise

    def _draft(self, count: int) -> list[int]:
        with self._verb():
            position = self._steps.require_text()
            self._steps.check([0] * count, position)
            self._live.finish_copies(position, position + count)
            return self._engine.model.draft(self._live.state, count)


def _whole(tokens: Iterable[int]) -> list[int]:
    """Tokens as plain numbers, and out of reach of whoever gave them.

    Raises:
        TypeError: One is no whole number.
    """
    return list(map(operator.index, tokens))


def in_inference(job: Callable[..., Result], *arguments: object) -> Result:
    """Do something with a model in the worker thread."""
    with torch.inference_mode():
        return job(*arguments)
