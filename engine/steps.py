"""What the engine's worker thread does to a live state: read tokens, choose the next one, look at what may come.

Each step was asked for in an epoch, and does nothing if the state was moved since. Between two calls of the model the
lock is free, so whoever wants to move the state waits for one call at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from engine import sampler
from engine.errors import ContextFull, StateError
from engine.live import LiveSet
from engine.sampler import Sampling

if TYPE_CHECKING:
    from engine.session import Engine


class Steps:
    """The steps of one live state. Call them in the worker thread."""

    def __init__(self, engine: Engine, live: LiveSet) -> None:
        self._engine = engine
        self._live = live

    def append(self, epoch: int, tokens: Sequence[int], take: Callable[[Tensor], None] | None = None) -> None:
        """Read tokens; `take` gets the logits of each call.

        Raises:
            ContextFull, StateError: As `check`. Nothing was read.
        """
        if self._revive(epoch):
            self.check(tokens, self._live.position)
            self._read(epoch, tokens, take)

    def choose(self, epoch: int, newest: Sequence[int], sampling: Sampling) -> int | None:
        """Read the newest token and choose the next; None if the state was moved meanwhile.

        Raises:
            ContextFull, StateError: As `check` and `require_text`. Nothing was read.
        """
        if not self._revive(epoch):
            return None
        state, model = self._live.state, self._engine.model
        with self._engine.lock:
            if epoch != self._live.epoch:
                return None
            if newest:
                self.check(newest, state.position)
                self._live.finish_copies(state.position, state.position + 1)
                model.forward(state, newest)
            position = self.require_text()
            recent = state.journal(max(sampling.penalty_from, position - sampling.penalty_tokens))
            return sampler.choose(model.logits(state), sampling, state.seed, position, recent)

    def next_logprob(self, epoch: int, ids: Sequence[int]) -> float | None:
        """How likely one of some tokens is to come next; None if the state was moved meanwhile.

        Raises:
            StateError: As `check_vocabulary` and `require_text`.
        """
        self.check_vocabulary(ids)
        if not self._revive(epoch):
            return None
        with self._engine.lock:
            if epoch != self._live.epoch:
                return None
            self.require_text()
            return sampler.logprob(self._engine.model.logits(self._live.state), ids)

    def check(self, tokens: Sequence[int], position: int) -> None:
        """Refuse tokens that can't be read at a position.

        Raises:
            ContextFull: They don't fit.
            StateError: One is not in the vocabulary.
        """
        if len(tokens) > self._live.state.capacity - position:
            raise ContextFull(
                f"{len(tokens)} tokens can't be appended",
                f"the state holds {position} of {self._live.state.capacity}",
                "Roll back, restore a shorter capsule, or load the engine with a larger context_tokens",
            )
        self.check_vocabulary(tokens)

    def check_vocabulary(self, tokens: Sequence[int]) -> None:
        """Refuse tokens that the model does not have.

        Raises:
            StateError: One is not in the vocabulary.
        """
        wrong = next((token for token in tokens if not 0 <= token < self._engine.spec.vocabulary), None)
        if wrong is not None:
            raise StateError(
                f"{len(tokens)} tokens can't be used",
                f"{wrong} is not among the model's {self._engine.spec.vocabulary} tokens",
                "Encode the text with the engine's own tokenizer",
            )

    def require_text(self) -> int:
        """The position, which must not be 0.

        Raises:
            StateError: It is.
        """
        if self._live.position == 0:
            raise StateError("there is nothing to go on from", "the lane is empty", "Append a prompt first")
        return self._live.position

    def _revive(self, epoch: int) -> bool:
        """Make a lost state again from its tokens; False if the state was moved meanwhile."""
        with self._engine.lock:
            lost = self._live.lost
            if epoch != self._live.epoch or lost is None:
                return epoch == self._live.epoch
            self._live.finish_copies()
            self._live.state.rewind()
        if not self._read(epoch, lost.tokens):
            return False
        with self._engine.lock:
            if epoch != self._live.epoch:
                return False
            self._live.state.seed, self._live.lost = lost.seed, None
            self._engine.counters.rebuilds += 1
        return True

    def _read(self, epoch: int, tokens: Sequence[int], take: Callable[[Tensor], None] | None = None) -> bool:
        """Read tokens in as many calls as the model needs; False if the state was moved meanwhile."""
        state, model = self._live.state, self._engine.model
        read = 0
        while read < len(tokens):
            with self._engine.lock:
                if epoch != self._live.epoch:
                    return False
                part = tokens[read : read + model.room(state.position)]
                self._live.finish_copies(state.position, state.position + len(part))
                if take is None:
                    model.forward(state, part)
                else:
                    take(model.score(state, part))
            read += len(part)
        return True
