"""How long the verbs of a capsule take, beside one copy of the same bytes, and what they save at the first token."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from contextlib import aclosing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from app.bench.report import Row, load, publish, report, row, times_us, tokens_of
from app.config import Config

if TYPE_CHECKING:
    from engine.capsule import Capsule
    from engine.session import Engine, Lane

LENGTHS_TOKENS = (256, 1024, 2048, 4096)
CONTEXT_TOKENS = 4608
SUFFIX_TOKENS = 24
COPIES = 100
COLD_RUNS = {256: 3}
"""How often a cold prompt is read, by length; longer ones once."""
COPY = "one copy of the same bytes"


def run(config: Config, path: Path | None) -> int:
    """Measure the configured model at every length its context allows, print the table and write the report."""
    engine = load(config, CONTEXT_TOKENS)
    rows: list[Row] = []
    for tokens in LENGTHS_TOKENS:
        if tokens + SUFFIX_TOKENS < engine.capacity:
            rows += _rows(engine, tokens)
    publish(report("capsule", config, engine, rows), path)
    engine.close()
    return 0


def _rows(engine: Engine, tokens: int) -> list[Row]:
    lane = engine.lane()
    empty = lane.mark()
    text = tokens_of(engine.spec.vocabulary, tokens + SUFFIX_TOKENS)
    prompt, suffix = text[:tokens], text[tokens:]
    params = {"tokens": tokens}
    with asyncio.Runner() as loop:

        def read_cold() -> None:
            lane.roll_back(empty)
            loop.run(_first_token(lane, text))

        def answer() -> None:
            lane.restore(capsule)
            loop.run(_first_token(lane, suffix))

        cold = times_us(read_cold, COLD_RUNS.get(tokens, 1), warm_up=0)
        lane.roll_back(empty)
        lane.append_now(prompt)
        capsule = lane.snapshot()
        warm = times_us(answer, COPIES // 5)
    lane.restore(capsule)
    before = lane.mark()
    lane.append_now(suffix)
    after = lane.mark()
    marks, spares = cycle([before, after]), [lane.snapshot()]
    rolls = times_us(lambda: lane.roll_back(next(marks)), COPIES)
    lane.roll_back(before)

    def snapshot() -> None:
        spares[0] = lane.snapshot(reuse=spares[0])

    size = capsule.bytes
    copies = times_us(_copy(capsule), COPIES)
    floor = statistics.median(copies)
    moved = {
        "raw_copy": copies,
        "snapshot": times_us(snapshot, COPIES),
        "snapshot_new_memory": times_us(lane.snapshot, COPIES // 5),
        "restore": times_us(lambda: lane.restore(capsule), COPIES),
    }
    return [
        *(row(name, params, "us", taken, bytes=size, floor=floor, floor_is=COPY) for name, taken in moved.items()),
        row("rollback", params, "us", rolls, bytes=0, floor=0.0, floor_is="no bytes"),
        row("ttft_cold", params, "us", cold),
        row("ttft_restore", params, "us", warm),
    ]


async def _first_token(lane: Lane, tokens: list[int]) -> None:
    from engine.sampler import Sampling

    await lane.append(tokens)
    async with aclosing(lane.generate(Sampling(), 1, stop_ids=())) as reply:
        await anext(reply)


def _copy(capsule: Capsule) -> Callable[[], object]:
    """Copies as many bytes as a capsule has, from one place to another."""
    import torch

    source, target = (torch.ones(capsule.bytes, dtype=torch.uint8) for _ in range(2))
    return lambda: target.copy_(source)
