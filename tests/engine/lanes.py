"""Engines over tiny models, lanes at a position, and copiers that a test has in its hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from engine.copier import Copier, Copy
from engine.lane import Lane
from engine.sampler import Sampling
from engine.session import Engine
from engine.weights.checkpoint import Checkpoint, open_checkpoint
from tests.engine import hybrid, tiny

CONTEXT = 384
"""More than the rings of a hybrid model hold."""
EDGES = (1, 2, 3, 4, 63, 64, 65, 127, 128, 255, 256, 257, 300)
WARM = Sampling(temperature=0.9, top_k=40, repetition_penalty=1.5)
KINDS = ("dense bf16", "hybrid fp32")
DENSE = tiny.Shape(hidden=72, query_heads=9, kv_heads=3, head_dim=8)
HYBRID = hybrid.HybridShape()
CAPSULE_BYTES = 16 << 20

Engines = Callable[[str], Engine]
"""An engine by its kind."""


class NoCopier:
    """Never copies: a capsule is filled when it is read, or when the lane must not wait any longer."""

    def add(self, copy: Copy) -> None:
        """Leave it to others."""

    def close(self) -> None:
        """There is nothing to end."""


@cache
def checkpoint(directory: Path, architecture: str) -> Checkpoint:
    """A tiny model, written once."""
    path = directory / f"{architecture}.gguf"
    if architecture == "dense":
        tiny.write(path, DENSE, tiny.reference(DENSE))
    else:
        hybrid.write_gguf(path, HYBRID, hybrid.reference(HYBRID), hybrid.draft_head(HYBRID))
    return open_checkpoint(path)


def load(directory: Path, kind: str, copier: Copier | None = None, context_tokens: int = CONTEXT) -> Engine:
    """An engine of a kind of `KINDS`, with plenty of memory for capsules."""
    architecture, weight_format = kind.split()
    model = checkpoint(directory, architecture)
    return Engine(
        model, weight_format, context_tokens, threads=2, capsule_bytes=CAPSULE_BYTES, copier=copier or NoCopier()
    )


def some_tokens(count: int, seed: int = 1) -> list[int]:
    """Tokens drawn from a seed."""
    return np.random.default_rng(seed).integers(0, tiny.VOCABULARY, count).tolist()


def at(engine: Engine, position: int, seed: int = 1) -> Lane:
    """A lane that has read some tokens, and chosen some."""
    lane = engine.lane(seed=seed)
    lane.append_now(some_tokens(position - position // 8, seed))
    lane.generate_now(WARM, position // 8, stop_ids=())
    assert lane.position == position
    return lane


def dirty(lane: Lane) -> None:
    """Read another text over everything, from the start."""
    lane.clear()
    lane.append_now(some_tokens(CONTEXT, seed=9))


def go_on(lane: Lane, sampling: Sampling = WARM, count: int = 24) -> list[int]:
    """The next tokens, and what is drafted after them, from a fork."""
    fork = lane.fork()
    text = fork.generate_now(sampling, count, stop_ids=())
    return text + (fork.draft_now(4) if has_drafts(fork) else [])


def has_drafts(lane: Lane) -> bool:
    """Whether the lane's model has a draft head."""
    return any(usage.name == "draft_kv" for usage in lane.usage())
