"""What `backtalk verify` runs: the engine's promises, on this machine and the user's own model.

Each gate compares bytes or tokens with something independent: the gguf package, a cold run, a copy. G7 breaks things on
purpose; it passes if the others would have noticed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from app import models, wiring
from app.config import Config
from app.replay.report import machine_facts, write

if TYPE_CHECKING:
    from engine.session import Engine, Lane

POSITIONS = (1, 2, 3, 4, 63, 64, 65, 127, 128, 255, 256, 257)
AFTER_TOKENS = 16
"""Decoded after each way to a state, to see that it goes on the same."""


class Gate(NamedTuple):
    """A row of the table."""

    gate: str
    what: str
    cases: int
    passed: bool
    worst: str


Outcome = tuple[str, bool]
"""A case's name, and whether it held."""


def run(config: Config, report: Path | None) -> int:
    """Run the gates on the configured language model and print a row for each.

    Args:
        config: Its `models.llm` and `llm` say what is verified.
        report: Where the rows go as JSON; None: nowhere.

    Returns:
        0 if all gates hold, else 1.
    """
    path = models.resolve(config.models.llm, "llm", offline=config.offline)
    engine = wiring.load_engine(config, path)
    gates: tuple[tuple[str, str, Callable[[], Iterator[Outcome]]], ...] = (
        ("G0", "weights as the gguf package reads them, bit for bit", lambda: _weights(path)),
        ("G5", "the same tokens and bytes in three runs", lambda: _repeats(engine)),
        ("G6", "snapshot, dirty, restore: every byte and the next tokens", lambda: _capsules(engine)),
        ("G7", "negative controls: what is broken on purpose is noticed", lambda: _controls(engine)),
        ("G8", "the state does not depend on how the tokens were split", lambda: _splits(engine)),
        ("G9", "rolled back and read again, as if never gone there", lambda: _rollbacks(engine)),
    )
    rows: list[Gate] = []
    for name, what, cases in gates:
        outcomes = list(cases())
        failed = [case for case, held in outcomes if not held]
        rows.append(Gate(name, what, len(outcomes), not failed, failed[0] if failed else ""))
        print(
            f"{name}  {'pass' if not failed else 'FAIL'}  {len(outcomes):4d} cases  {what}",
            *failed[:1],
            file=sys.stdout,
        )
    engine.close()
    if report:
        told = {"model": config.models.llm, "format": engine.weight_format, "machine": machine_facts()}
        write(report, [told | {"rows": [msgspec.to_builtins(row._asdict()) for row in rows]}])
    return 0 if all(row.passed for row in rows) else 1


def _weights(path: Path) -> Iterator[Outcome]:
    import gguf

    from engine.weights.gguf import GGUFFile

    ours = GGUFFile.open(path).tensors
    for theirs in gguf.GGUFReader(path).tensors:
        expected = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        found = ours[theirs.name].dequantise()
        yield theirs.name, found.tobytes() == np.ascontiguousarray(expected, np.float32).tobytes()


def _text(engine: Engine, tokens: int, seed: int = 1) -> list[int]:
    """Ordinary tokens, drawn from a seed."""
    return np.random.default_rng(seed).integers(64, engine.spec.vocabulary, tokens).tolist()


def _positions(engine: Engine) -> list[int]:
    room = engine.capacity - AFTER_TOKENS - 16
    return [position for position in (*POSITIONS, room) if position <= room]


def _at(engine: Engine, tokens: list[int]) -> Lane:
    lane = engine.lane()
    lane.append_now(tokens)
    return lane


def _next(lane: Lane) -> list[int]:
    from engine.sampler import Sampling

    return lane.generate_now(Sampling(), AFTER_TOKENS, stop_ids=())


def _repeats(engine: Engine) -> Iterator[Outcome]:
    text = _text(engine, min(200, engine.capacity // 2))
    first = _at(engine, text)
    expected, digest = _next(first), first.digest()
    for attempt in (2, 3):
        lane = _at(engine, text)
        lane.snapshot()
        yield f"run {attempt}", (_next(lane), lane.digest()) == (expected, digest)


def _capsules(engine: Engine) -> Iterator[Outcome]:
    for position in _positions(engine):
        lane = _at(engine, _text(engine, position))
        before, capsule = lane.region_digests(), lane.snapshot()
        expected = _next(lane)
        lane.restore(_at(engine, _text(engine, min(position + 9, engine.capacity - 1), seed=2)).snapshot())
        lane.restore(capsule)
        yield f"position {position}", lane.region_digests() == before and _next(lane) == expected


def _controls(engine: Engine) -> Iterator[Outcome]:
    from engine.errors import StateError

    text = _text(engine, min(200, engine.capacity // 2))
    lane = _at(engine, text)
    capsule = lane.snapshot()
    digest, expected = lane.digest(), _next(lane)
    for name, tensor in capsule.tensors.items():
        damaged = tensor.clone()
        damaged.view(-1)[: max(1, damaged.numel() // 2)] = 0
        broken = dataclasses.replace(capsule, tensors={**capsule.tensors, name: damaged})
        yield f"half of {name} lost: the digest tells", broken.digest() != digest
    lane.restore(dataclasses.replace(capsule, tensors={**capsule.tensors, "kv": capsule.tensors["kv"] * 0}))
    yield "keys and values left out: the text is another", _next(lane) != expected
    lane.restore(capsule)
    stale = lane.mark()
    lane.restore(_at(engine, _text(engine, 5, seed=2)).snapshot())
    foreign = dataclasses.replace(capsule, fingerprint="0" * 32)
    for what, attempt in (
        ("a stale mark is refused", lambda: lane.roll_back(stale)),
        ("a foreign capsule is refused", lambda: lane.restore(foreign)),
    ):
        untouched = lane.digest()
        try:
            attempt()
        except StateError:
            yield what, lane.digest() == untouched
        else:
            yield what, False


def _splits(engine: Engine) -> Iterator[Outcome]:
    text = _text(engine, min(300, engine.capacity - AFTER_TOKENS - 1))
    whole = _at(engine, text)
    digest, expected = whole.digest(), _next(whole)
    for size in (1, 3, 16, 31, 64, 100):
        lane = engine.lane()
        for first in range(0, len(text), size):
            lane.append_now(text[first : first + size])
        yield f"pieces of {size}", (lane.digest(), _next(lane)) == (digest, expected)


def _rollbacks(engine: Engine) -> Iterator[Outcome]:
    for position in _positions(engine):
        text = _text(engine, position + 4)
        straight = _at(engine, text)
        expected, digest = _next(straight), straight.digest()
        lane = _at(engine, text[:position])
        mark = lane.mark()
        lane.append_now(_text(engine, 9, seed=3))
        lane.roll_back(mark)
        lane.append_now(text[position:])
        yield f"position {position}", (_next(lane), lane.digest()) == (expected, digest)
