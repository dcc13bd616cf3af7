"""How long the verbs of a capsule take, beside one copy of the same bytes, and what they save at the first token."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Callable
from contextlib import aclosing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from app import models
from app.bench.report import Report, Row, publish, row, times_us
from app.config import Config
from app.replay.report import machine_facts

if TYPE_CHECKING:
    from engine.capsule import Capsule
    from engine.session import Engine, Lane

LENGTHS_TOKENS = (256, 1024, 2048, 4096)
CONTEXT_TOKENS = 4608
SUFFIX_TOKENS = 24
COPIES = 100
COLD_RUNS = {256: 5, 1024: 3, 2048: 2}
"""How often a cold prompt is read, by length; longer ones once."""
COPY = "one copy of the same bytes"


def run(config: Config, path: Path | None) -> int:
    """Measure the configured model, print the table and write the report."""
    model = models.resolve(config.models.llm, "llm", offline=config.offline)
    llm = config.llm
    publish(measure(model, device=llm.device, format=llm.format, threads=llm.threads, name=config.models.llm), path)
    return 0


def measure(
    model: str | os.PathLike[str], *, device: str = "cpu", format: str = "auto", threads: int = 2, name: str = ""
) -> Report:
    """All rows at every length that the model's context allows.

    Args:
        model: A GGUF file.
        device: As `Engine.load` has it, like the next two.
        format: Weights in memory.
        threads: Threads of a product.
        name: What the report calls the model; its file's name if empty.
    """
    from engine.session import Engine

    engine = Engine.load(model, device=device, format=format, context_tokens=CONTEXT_TOKENS, threads=threads)
    rows: list[Row] = []
    for tokens in LENGTHS_TOKENS:
        if tokens + SUFFIX_TOKENS < engine.capacity:
            rows += _rows(engine, tokens)
    engine.close()
    return Report(
        bench="capsule",
        machine=machine_facts(),
        model=name or Path(model).name,
        device="cpu",
        dtype=engine.weight_format,
        rows=rows,
    )


def _rows(engine: Engine, tokens: int) -> list[Row]:
    lane = engine.lane()
    empty = lane.mark()
    text = [17 + place * 7919 % (engine.spec.vocabulary - 17) for place in range(tokens + SUFFIX_TOKENS)]
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
