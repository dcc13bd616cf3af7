"""How fast one token follows another, beside what memory allows."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

from app.bench.report import Row, load, publish, report, row, times_us, tokens_of
from app.config import Config

if TYPE_CHECKING:
    from engine.session import Engine, Lane

DEPTHS_TOKENS = (128, 512, 1500)
CONTEXT_TOKENS = 2048
STEPS = 40
PROBE_BYTES = 256 << 20
"""Far more than a cache holds."""


def run(config: Config, path: Path | None) -> int:
    """Measure the configured model at several depths, print the table and write the report."""
    engine = load(config, CONTEXT_TOKENS)
    bytes_per_ms = _read_bandwidth(engine)
    rows = [_row(engine, depth, bytes_per_ms) for depth in DEPTHS_TOKENS if depth + STEPS < engine.capacity]
    publish(report("decode", config, engine, rows), path)
    engine.close()
    return 0


def _row(engine: Engine, depth: int, bytes_per_ms: float) -> Row:
    lane = engine.lane()
    lane.append_now(tokens_of(engine.spec.vocabulary, depth))
    cache = next(usage for usage in lane.usage() if usage.name == "kv")
    size = engine.model.step_bytes + cache.live_bytes
    return row(
        "decode",
        {"tokens": depth, "lanes": 1},
        "ms",
        asyncio.run(_steps_ms(lane)),
        bytes=size,
        floor=size / bytes_per_ms,
        floor_is="one read of the weights and the cache",
    )


async def _steps_ms(lane: Lane) -> list[float]:
    from engine.sampler import Sampling

    taken: list[float] = []
    async with aclosing(lane.generate(Sampling(), STEPS + 1, stop_ids=())) as tokens:
        # The first token needs no step of the model: the prompt was its step.
        await anext(tokens)
        for _ in range(STEPS):
            start_s = time.perf_counter()
            await anext(tokens)
            taken.append((time.perf_counter() - start_s) * 1e3)
    return taken


def _read_bandwidth(engine: Engine) -> float:
    """Bytes per ms that a reduction over far more than the caches hold gets through."""
    import torch

    far = torch.ones(PROBE_BYTES // 4, dtype=torch.float32)
    return PROBE_BYTES / (statistics.median(times_us(lambda: engine.run(far.sum), 5)) / 1e3)
