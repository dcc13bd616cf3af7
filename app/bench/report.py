"""Rows of a benchmark: percentiles beside the floor of the machine, as a table and as the JSON of the contract."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import numpy as np

from app import models
from app.config import Config
from app.replay.report import machine_facts, write

if TYPE_CHECKING:
    from engine.session import Engine

Result = TypeVar("Result")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured."""

    name: str
    params: Mapping[str, int | str]
    unit: str
    n: int
    """How many times it was done. A percentile of few is little more than their largest."""
    p50: float
    p95: float
    p99: float
    bytes: int | None
    """What had to be moved; None where that is not the point."""
    floor: float | None
    floor_is: str
    ratio: float | None
    """`p50` over `floor`."""


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a benchmark found."""

    bench: str
    machine: dict[str, Any]
    model: str
    device: str
    dtype: str
    rows: list[Row]
    scores: dict[str, float] = {}
    """What is no percentile: rates 0..1, and counts. Left out where there are none."""


def row(
    name: str,
    params: Mapping[str, int | str],
    unit: str,
    samples: Sequence[float],
    *,
    bytes: int | None = None,
    floor: float | None = None,
    floor_is: str = "",
) -> Row:
    """Sum up samples."""
    p50, p95, p99 = (float(value) for value in np.percentile(samples, [50, 95, 99]))
    return Row(
        name=name,
        params=dict(params),
        unit=unit,
        n=len(samples),
        p50=round(p50, 3),
        p95=round(p95, 3),
        p99=round(p99, 3),
        bytes=bytes,
        floor=None if floor is None else round(floor, 3),
        floor_is=floor_is,
        ratio=round(p50 / floor, 3) if floor else None,
    )


def tell(what: str) -> None:
    """Show on a terminal what is being done, in one line that the next replaces; elsewhere nothing."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what[:100]}", end="", file=sys.stderr, flush=True)


def times_us(job: Callable[[], object], count: int, warm_up: int = 3) -> list[float]:
    """How long something took each time, us, after a few times that don't count."""
    taken: list[float] = []
    for turn in range(-warm_up, count):
        once_us, _ = timed(job)
        taken += [once_us] if turn >= 0 else []
    return taken


def timed(job: Callable[[], Result]) -> tuple[float, Result]:
    """How long something takes once, us, and what comes of it."""
    start_s = time.perf_counter()
    result = job()
    return (time.perf_counter() - start_s) * 1e6, result


def tokens_of(vocabulary: int, count: int) -> list[int]:
    """A text of ordinary tokens, always the same."""
    return [17 + place * 7919 % (vocabulary - 17) for place in range(count)]


def load(config: Config, context_tokens: int, capsule_bytes: int | None = None) -> Engine:
    """The configured language model with a context, and memory for capsules, of its own."""
    from engine.session import Engine

    llm = config.llm
    name = models.resolve_llm(config.models.llm, offline=config.offline)
    return Engine.load(
        name,
        device=llm.device,
        format=llm.format,
        context_tokens=context_tokens,
        threads=llm.threads,
        capsule_bytes=capsule_bytes,
    )


def report(bench: str, config: Config, engine: Engine, rows: list[Row]) -> Report:
    """The rows with what they were measured on."""
    return Report(
        bench=bench,
        machine=machine_facts(),
        model=config.models.llm,
        device="cpu",
        dtype=engine.weight_format,
        rows=rows,
    )


def publish(found: Report, path: Path | None) -> None:
    """Print the table; write the JSON if a path is given.

    Raises:
        MachineError: It can't be written.
    """
    print(f"{found.bench}: {found.model}, {found.dtype} on {found.machine['cpu']}, {found.machine['cores']} cores")
    print(f"{'':24} {'params':>18} {'n':>5} {'p50':>11} {'p95':>11} {'p99':>11} {'floor':>11} {'ratio':>7} {'MB':>8}")
    for one in found.rows:
        params = " ".join(f"{key}={value}" for key, value in one.params.items())
        floor = "" if one.floor is None else f"{one.floor:.1f}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        size = "" if one.bytes is None else f"{one.bytes / 1e6:.1f}"
        figures = " ".join(f"{value:11.1f}" for value in (one.p50, one.p95, one.p99))
        print(f"{one.name + ' ' + one.unit:24} {params:>18} {one.n:5d} {figures} {floor:>11} {ratio:>7} {size:>8}")
    for name, score in found.scores.items():
        print(f"{name:32} {score:g}")
    if path is not None:
        write(path, [msgspec.to_builtins(found)])
