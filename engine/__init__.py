"""A language model whose whole live state is a closed set of named buffers.

Read first `state.py` (what the state is), then `capsule.py` (how it is copied, put back and rolled back), then
`session.py` (Engine and Lane: the way in). `models/dense.py` is the forward pass and `backends/cpu.py` its operations.

    engine = Engine.load("model.gguf")
    lane = engine.lane()
    await lane.append(engine.tokenizer.encode("The moon is"))
    before = lane.mark()
    async for token in lane.generate(Sampling(), max_tokens=32): ...
    lane.roll_back(before)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.capsule import Capsule, Mark
    from engine.sampler import Sampling
    from engine.session import Engine, Lane

__all__ = ["Capsule", "Engine", "Lane", "Mark", "Sampling"]

_HOMES = {
    "Capsule": "engine.capsule",
    "Engine": "engine.session",
    "Lane": "engine.session",
    "Mark": "engine.capsule",
    "Sampling": "engine.sampler",
}


def __getattr__(name: str) -> Any:
    # Importing torch takes a second or two, so it waits until something is used.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
