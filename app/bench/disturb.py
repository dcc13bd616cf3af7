"""What the gates do to memory before they look whether anybody leaned on it."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.session import Engine
from engine.state import POSITION, SEED, LaneState


def poison_scratch(engine: Engine) -> None:
    """NaN, or the largest number there is, in all memory that a call writes and that is no part of a state."""

    def poison() -> None:
        with engine.lock:
            for tensor in engine.model.scratch():
                tensor.fill_(torch.nan if tensor.is_floating_point() else torch.iinfo(tensor.dtype).max)

    engine.run(poison)


def scribble(engine: Engine, state: LaneState) -> None:
    """Overwrite every byte of a state, the dead ones as well. The lane must be restored before it is used.

    The noise is finite: rows beyond the position are multiplied by zero, as whatever an older text left there is.
    """
    generator = torch.Generator().manual_seed(5)
    with engine.lock:
        for tensor in state.arena.tensors.values():
            _fill(tensor, generator)
        counters = state.arena.tensors["counters"]
        counters[POSITION], counters[SEED] = state.capacity // 2, 99


def _fill(tensor: Tensor, generator: torch.Generator) -> None:
    if tensor.is_floating_point():
        tensor.normal_(generator=generator)
    else:
        tensor.random_(0, 32, generator=generator)
