"""How fast one token follows another, and how fast a text is read, beside what memory allows."""

from __future__ import annotations

import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from app import models
from app.bench.report import Report, Row, publish, row, times_us
from app.config import Config
from app.replay.report import machine_facts

if TYPE_CHECKING:
    from engine.session import Engine

DEPTHS_TOKENS = (128, 512, 1500)
LENGTHS_TOKENS = (4, 20, 64, 256, 512)
CONTEXT_TOKENS = 2048
STEPS = 40
READS = 5
PROBE_BYTES = 256 << 20
"""Far more than a cache holds."""


def run(config: Config, path: Path | None) -> int:
    """Measure decoding with the configured model, print the table and write the report."""
    return _run("decode", config, path)


def run_prefill(config: Config, path: Path | None) -> int:
    """Measure reading with the configured model, print the table and write the report."""
    return _run("prefill", config, path)


def _run(bench: str, config: Config, path: Path | None) -> int:
    model = models.resolve(config.models.llm, "llm", offline=config.offline)
    llm = config.llm
    report = measure(bench, model, device=llm.device, format=llm.format, threads=llm.threads, name=config.models.llm)
    publish(report, path)
    return 0


def measure(
    bench: str, model: str | os.PathLike[str], *, device: str = "cpu", format: str = "auto", threads: int = 2, name: str = ""
) -> Report:
    """Measure a model.

    Args:
        bench: decode or prefill.
        model: A GGUF file.
        device: As `Engine.load` has it, like the next two.
        format: Weights in memory.
        threads: Threads of a product.
        name: What the report calls the model; its file's name if empty.
    """
    from engine.session import Engine

    engine = Engine.load(model, device=device, format=format, context_tokens=CONTEXT_TOKENS, threads=threads)
    rows = _decode_rows(engine) if bench == "decode" else _prefill_rows(engine)
    engine.close()
    return Report(
        bench=bench,
        machine=machine_facts(),
        model=name or Path(model).name,
        device="cpu",
        dtype=engine.weight_format,
        rows=rows,
    )


def _text(engine: Engine, tokens: int) -> list[int]:
    return [17 + place * 7919 % (engine.spec.vocabulary - 17) for place in range(tokens)]


def _decode_rows(engine: Engine) -> list[Row]:
    bytes_per_us = engine.run(_read_bandwidth)
    rows: list[Row] = []
    for depth in DEPTHS_TOKENS:
        if depth + STEPS >= engine.capacity:
            break
        lane = engine.lane()
        lane.append_now(_text(engine, depth))
        here = lane.mark()

        def step(lane: Lane = lane, here: Mark = here) -> None:
            lane.roll_back(here)
            lane.generate_now(Sampling(), 1, stop_ids=())

        kv = next(usage for usage in lane.usage() if usage.name == "kv")
        size = engine.model.step_bytes + kv.live_bytes
        ...
    return rows
