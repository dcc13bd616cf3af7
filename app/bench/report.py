"""Rows of a benchmark: percentiles beside the floor of the machine, as a table and as the JSON of the contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from app.replay.report import write


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured."""

    name: str
    params: dict[str, int]
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


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a benchmark found."""

    bench: str
    machine: dict[str, Any]
    model: str
    device: str
    dtype: str
    rows: list[Row]


def row(
    name: str,
    params: dict[str, int],
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
        params=params,
        unit=unit,
        n=len(samples),
        p50=round(p50, 3),
        p95=round(p95, 3),
        p99=round(p99, 3),
        bytes=bytes,
        floor=None if floor is None else round(floor, 3),
        floor_is=floor_is,
    )


def times_us(job: Callable[[], object], count: int, warm_up: int = 3) -> list[float]:
    """How long something took each time, us, after a few times that don't count."""
    taken: list[float] = []
    for turn in range(-warm_up, count):
        start_s = time.perf_counter()
        job()
        taken += [(time.perf_counter() - start_s) * 1e6] if turn >= 0 else []
    return taken


def publish(report: Report, path: Path | None) -> None:
    """Print the table; write the JSON if a path is given.

    Raises:
        MachineError: It can't be written.
    """
    print(f"{report.bench}: {report.model}, {report.dtype} on {report.machine['cpu']}, {report.machine['cores']} cores")
    print(f"{'':24} {'params':>18} {'n':>5} {'p50':>11} {'p95':>11} {'p99':>11} {'floor':>11} {'MB':>8}")
    for found in report.rows:
        params = " ".join(f"{key}={value}" for key, value in found.params.items())
        floor = "" if found.floor is None else f"{found.floor:.1f}"
        size = "" if found.bytes is None else f"{found.bytes / 1e6:.1f}"
        figures = " ".join(f"{value:11.1f}" for value in (found.p50, found.p95, found.p99))
        print(f"{found.name + ' ' + found.unit:24} {params:>18} {found.n:5d} {figures} {floor:>11} {size:>8}")
    if path is not None:
        write(path, [msgspec.to_builtins(report)])
