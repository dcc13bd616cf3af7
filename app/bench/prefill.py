"""How fast a text is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.bench.report import Row, load, publish, report, row, times_us, tokens_of
from app.config import Config

if TYPE_CHECKING:
    from engine.session import Engine

LENGTHS_TOKENS = (4, 20, 64, 256, 512)
CONTEXT_TOKENS = 2048
READS = 7


def run(config: Config, path: Path | None) -> int:
    """Measure the configured model at several lengths, print the table and write the report."""
    engine = load(config, CONTEXT_TOKENS)
    rows = [found for length in LENGTHS_TOKENS if length <= engine.capacity for found in _rows(engine, length)]
    publish(report("prefill", config, engine, rows), path)
    engine.close()
    return 0


def _rows(engine: Engine, length: int) -> list[Row]:
    lane = engine.lane()
    text = tokens_of(engine.spec.vocabulary, length)

    def read() -> None:
        lane.clear()
        lane.append_now(text)

    taken_us = times_us(read, READS, warm_up=1)
    params = {"tokens": length}
    return [
        row("append", params, "ms", [us / 1e3 for us in taken_us]),
        row("prefill", params, "tokens/s", [length / us * 1e6 for us in taken_us]),
    ]
