"""States with something in every byte, no model needed, and capsules of them in files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from engine import capsule as capsules
from engine import codec
from engine.capsule import Capsule
from engine.fingerprint import Fingerprint
from engine.header import Expected
from engine.pool import Pool
from engine.spec import DeltaSpec, ModelSpec
from engine.state import LaneState

CAPACITY = 300
SPEC = ModelSpec(
    architecture="qwen35",
    layers=4,
    hidden=16,
    feed_forward=32,
    query_heads=4,
    kv_heads=2,
    head_dim=4,
    vocabulary=50,
    context_tokens=CAPACITY,
    rope_base=10000.0,
    norm_epsilon=1e-5,
    tied_head=True,
    head_norms=False,
    rotary_halves=False,
    rope_factors=False,
    rotary_dims=4,
    delta=DeltaSpec(key_heads=1, value_heads=2, key_dim=4, value_dim=4, kernel=4, interval=4),
    draft_head=True,
)
FINGERPRINT = Fingerprint({"weights": "ab", "shape": "layers=4 hidden=16", "torch": "2.13.0"})


class Written(NamedTuple):
    """A state, a capsule of it, and the capsule in a file."""

    state: LaneState
    capsule: Capsule
    path: Path


def filled(tokens: int, capacity_tokens: int = CAPACITY, seed: int = 0) -> LaneState:
    """A state that has read some tokens: all else in it is drawn from a seed."""
    state = LaneState(SPEC, capacity_tokens, torch.bfloat16)
    chance = torch.Generator().manual_seed(seed)
    for name, tensor in state.arena.tensors.items():
        if name not in ("counters", "journal", "lineage"):
            tensor.view(-1).view(torch.uint8).random_(generator=chance)
    state.seed = 7 + seed
    state.commit([place * 7 % SPEC.vocabulary for place in range(tokens)])
    return state


def taken(state: LaneState, pool: Pool, parent: Capsule | None = None) -> Capsule:
    """A capsule of a state, all of it copied."""
    capsule, copy = capsules.take(state, FINGERPRINT, pool, parent)
    copy.run()
    return capsule


def written(path: Path, tokens: int, seed: int = 0, fingerprint: Fingerprint = FINGERPRINT) -> Written:
    """A capsule in a file."""
    state = filled(tokens, seed=seed)
    capsule = taken(state, Pool(1 << 20))
    capsule.fingerprint = fingerprint
    codec.save(capsule, path)
    return Written(state, capsule, path)


def expected(state: LaneState, fingerprint: Fingerprint = FINGERPRINT) -> Expected:
    """What fits into a state."""
    return Expected(fingerprint, state.arena.regions, state.capacity, SPEC.vocabulary)
