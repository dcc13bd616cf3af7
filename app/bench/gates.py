"""What `backtalk verify` runs: the engine's promises, on this machine and the user's own model.

Each gate compares bytes with something independent: another reading of the weights, the same rule in float64, a run
that no capsule ever touched. G7 breaks things on purpose; it passes if the others would have noticed.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import torch

from app import models
from app.bench import exactness, recurrence, report, weights_gate
from app.bench.controls import Controls
from app.bench.subject import CONTEXT_TOKENS, Outcome, Subject
from app.config import Config
from app.replay.report import machine_facts, write
from engine.session import Engine
from engine.state import declare
from engine.weights.checkpoint import open_checkpoint

CAPSULES = 6


class Gate(msgspec.Struct, frozen=True):
    """A row of the table."""

    gate: str
    what: str
    cases: int
    passed: bool
    worst: str
    """The first case that did not hold, or how far off the worst was where a gate allows a difference."""


Trial = tuple[str, str, Callable[[], Iterator[Outcome]]]
"""A gate's name, what it shows, and its cases."""


def run(config: Config, path: Path | None) -> int:
    """Run the gates on the configured language model and print a row for each.

    Args:
        config: Its `models.llm` and `llm` say what is verified. The context is the gates' own.
        path: Where the report goes as JSON; None: nowhere.

    Returns:
        0 if all gates hold, else 1.
    """
    name = str(models.resolve_llm(config.models.llm, offline=config.offline))
    rows = [
        _row("G0", "weights: every tensor as a second reading has it, bit for bit", lambda: weights_gate.outcomes(name))
    ]
    report.tell("loading the model")
    engine = report.load(config, CONTEXT_TOKENS, _capsule_bytes(name))
    try:
        delta = engine.spec.delta
        if delta is not None:
            report.tell("G1: the recurrence")
            errors = recurrence.errors(delta)
            what = f"the recurrence against float64, {recurrence.TOKENS} tokens in calls of many lengths"
            worst = f"relative error {max(errors.values()):.1e}"
            rows.append(_row("G1", what, lambda: recurrence.outcomes(errors), worst))
        report.tell("reading the text that all is compared with")
        subject = Subject(engine)
        controls = Controls(subject)
        rows += [_row(*trial) for trial in _trials(subject, controls)]
        told = _told(config, engine, controls) | {"rows": [msgspec.to_builtins(row) for row in rows]}
    finally:
        engine.close()
    _print(told, controls)
    if path:
        write(path, [told])
    return 0 if all(row.passed for row in rows) else 1


def _capsule_bytes(name: str) -> int:
    """Memory for as many capsules as the gates hold at a time, should they all be full and in float32."""
    regions = declare(open_checkpoint(name).spec, CONTEXT_TOKENS, torch.float32)
    # At the edge of a chunk there is less of it.
    return CAPSULES * sum(region.live_bytes(CONTEXT_TOKENS - 1) for region in regions)


def _trials(subject: Subject, controls: Controls) -> tuple[Trial, ...]:
    steps = f"{subject.steps} next steps" if subject.steps > 1 else "next step"
    return (
        (
            "G5",
            f"three runs of {subject.decoded} decoded tokens, with and without snapshots, NaN in scratch",
            lambda: exactness.repeats(subject),
        ),
        (
            "G6",
            f"restore from memory, delta, file and into another lane: every byte, and the logits of the {steps}",
            lambda: exactness.capsules(subject),
        ),
        ("G7", "negative controls: what is broken on purpose is noticed or refused", controls.outcomes),
        ("G8", "append is cold prefill, however the tokens are split", lambda: exactness.splits(subject)),
        ("G9", "rollback leaves no trace, and forks don't see each other", lambda: exactness.branches(subject)),
    )


def _row(name: str, what: str, cases: Callable[[], Iterator[Outcome]], worst: str = "") -> Gate:
    """Run a gate and print its row; `worst` is told if every case holds."""
    failed: list[str] = []
    count = 0
    for case, held in cases():
        count += 1
        failed += [] if held else [case]
        report.tell(f"{name}: {case}")
    report.tell("")
    if failed:
        worst = failed[0] + (f", and {len(failed) - 1} more" if failed[1:] else "")
    print(f"{name}  {'FAIL' if failed else 'pass'}  {count:5d} cases  {what}{': ' if worst else ''}{worst}", flush=True)
    return Gate(name, what, count, not failed, worst)


def _told(config: Config, engine: Engine, controls: Controls) -> dict[str, Any]:
    """What stands in the report beside the rows."""
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "model": config.models.llm,
        "format": engine.weight_format,
        "machine": machine_facts(),
        "context_tokens": engine.capacity,
        "row_plan": engine.model.rows._asdict(),
        "peak_memory_bytes": peak_bytes,
        "capsule_memory_bytes": engine.pool.usage().budget_bytes,
        "state": [usage._asdict() for usage in controls.usage],
        "left_out": [msgspec.to_builtins(found) for found in controls.left_out],
        "damaged_files": {kind.kind: kind.cases for kind in controls.fuzzed},
        "not_exact": _not_exact(engine),
    }


def _not_exact(engine: Engine) -> str:
    """What the gates do not promise, and why."""
    rows = engine.model.rows
    return (
        "Exact means the same bytes on this machine, with this build of torch, this format and this number of threads: "
        "the matrix library chooses its ways of adding by these. They stand in the fingerprint, so a capsule from "
        "elsewhere is refused and its tokens are read again. That a row keeps its bits in calls of up to "
        f"{rows.most} rows, padded to a multiple of {rows.step}, is tried at load on drawn numbers and not proved for "
        "all. Against other programs the logits agree within a tolerance and not to the bit, since sums are taken in "
        f"another order, and {engine.weight_format} rounds weights or what is multiplied with them besides. Going back "
        "to a mark in a ring is refused once the ring has come round; a capsule is needed then. And these gates read "
        f"drawn tokens, up to {engine.capacity} of them, not every text of every length."
    )


def _print(told: dict[str, Any], controls: Controls) -> None:
    """What stands below the table."""
    print(f"\n{'left out of a restore; the first other token:':61} {'greedy':>8} {'sampled':>8} {'drafts':>8}")
    for found in controls.left_out:
        places = (found.greedy, found.sampled, found.drafts)
        print(f"{found.regions:61} " + " ".join(f"{place or '-':>8}" for place in places))
    print(f"\n{'state of a lane':24} {'kB':>10} {'live kB':>10}")
    for usage in controls.usage:
        print(f"{usage.name:24} {usage.bytes / 1e3:10.1f} {usage.live_bytes / 1e3:10.1f}")
    damaged = told["damaged_files"]
    calls = " ".join(f"{key}={value}" for key, value in told["row_plan"].items())
    print(
        f"\ndamaged files: {sum(damaged.values())} in {len(damaged)} kinds; calls: {calls}; format: {told['format']}; ",
        end="",
    )
    peak, capsules = told["peak_memory_bytes"] / 1e6, told["capsule_memory_bytes"] / 1e6
    print(f"peak memory: {peak:.0f} MB, {capsules:.0f} of them for capsules")
    print(f"\nNot exact, and why. {told['not_exact']}")
