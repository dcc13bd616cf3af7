"""A language model whose whole live state is a closed set of named buffers.

Read first `state.py` (what the state is), then `capsule.py` (how it is copied, put back and rolled back), then
`session.py` and `lane.py` (Engine and Lane: the way in). `models/decoder.py` is the forward pass, `backends/` its
operations, `weights/` what it reads.

    engine = Engine.load("model.gguf")
    lane = engine.lane()
    lane.append_now(engine.tokenizer.encode("The moon is"))
    capsule, before = lane.snapshot(), lane.mark()
    tokens = lane.generate_now(Sampling(), max_tokens=32)
    lane.roll_back(before)
    other = engine.lane(capsule)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.capsule import Capsule, Mark
    from engine.lane import Lane
    from engine.sampler import Sampling
    from engine.session import Engine

__all__ = ["Capsule", "Engine", "Lane", "Mark", "Sampling"]

_HOMES = {
    "Capsule": "engine.capsule",
    "Engine": "engine.session",
    "Lane": "engine.lane",
    "Mark": "engine.capsule",
    "Sampling": "engine.sampler",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes a second or two, so it waits until something is used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
