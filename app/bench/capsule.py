"""How long the verbs of a capsule take, beside one copy of the same bytes, and what they save at the first token.

A verb and what it is compared with take turns, so that whatever else the machine does meanwhile falls on both.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import aclosing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from app.bench.report import Row, load, publish, report, row, tell, timed, times_us, tokens_of
from app.config import Config

if TYPE_CHECKING:
    from engine.session import Engine, Lane

LENGTHS_TOKENS = (256, 1024, 2048, 4096)
"""What is measured unless other lengths are asked for; longer prompts take minutes to be read cold."""
SUFFIX_TOKENS = 24
DELTA_TOKENS = 20
APPENDED_TOKENS = 4
STEPS = 20
ROOM_TOKENS = 128
"""Beyond the longest length, for what is read and decoded after it."""
COPIES = 60
FILES = 7
ANSWERS = 10
COLD_RUNS = {256: 3}
"""How often a cold prompt is read, by length; longer ones once."""
COPY = "one copy of the same bytes"

Samples = list[float]


def run(config: Config, path: Path | None, lengths: Sequence[int] | None = None) -> int:
    """Measure the configured model, print the table and write the report.

    Args:
        config: Says which model.
        path: Where the report goes; None: nowhere.
        lengths: Of the texts, in tokens; None for those that take a few minutes. Those beyond the context are left out.
    """
    wanted = LENGTHS_TOKENS if lengths is None else tuple(lengths)
    if lengths is None:
        print(f"texts of {wanted} tokens; for others: --lengths 8192,16384", file=sys.stderr)
    engine = load(config, max(wanted) + ROOM_TOKENS)
    rows: list[Row] = []
    for tokens in wanted:
        if tokens + ROOM_TOKENS <= engine.capacity:
            rows += _Bench(engine, tokens).rows()
    tell("")
    publish(report("capsule", config, engine, rows), path)
    engine.close()
    return 0


class _Bench:
    """One length."""

    def __init__(self, engine: Engine, tokens: int) -> None:
        tell(f"reading {tokens} tokens")
        self._engine = engine
        self._tokens = tokens
        self._text = tokens_of(engine.spec.vocabulary, tokens + SUFFIX_TOKENS)
        self._lane = engine.lane()
        self._cold_us = times_us(self._read_cold, COLD_RUNS.get(tokens, 1), warm_up=0)
        self._lane.clear()
        self._lane.append_now(self._text[:tokens])
        self._capsule = self._lane.snapshot()
        self._capsule.wait()

    def rows(self) -> list[Row]:
        parts = (self._snapshots, self._delta, self._restores, self._files, self._first_tokens, self._steps)
        rows: list[Row] = []
        for part in parts:
            tell(f"{self._tokens} tokens: {part.__name__.strip('_')}")
            rows += part()
        return rows

    def _row(
        self, name: str, samples: Samples, floor: Samples | None = None, size: int | None = None, is_: str = COPY
    ) -> Row:
        middle = None if floor is None else statistics.median(floor)
        params = {"tokens": self._tokens}
        return row(name, params, "us", samples, bytes=size, floor=middle, floor_is=is_ if floor else "")

    def _snapshots(self) -> list[Row]:
        lane, size = self._lane, self._capsule.total_bytes
        copy = _copy(size)
        calls, ready, copies = Samples(), Samples(), Samples()
        for turn in range(-3, COPIES):
            call_us, capsule = timed(lane.snapshot)
            rest_us, _ = timed(capsule.wait)
            copy_us, _ = timed(copy)
            # Its memory is free before the next one is taken.
            del capsule
            if turn >= 0:
                calls.append(call_us)
                ready.append(call_us + rest_us)
                copies.append(copy_us)
        return [
            self._row("raw_copy", copies, size=size),
            self._row("snapshot", calls, copies, size),
            self._row("snapshot_ready", ready, copies, size),
        ]

    def _delta(self) -> list[Row]:
        lane, parent = self._lane, self._capsule
        before = lane.mark()
        lane.append_now(self._text[-DELTA_TOKENS:])
        child = lane.snapshot(parent=parent)
        child.wait()
        copy = _copy(child.bytes)
        calls, copies = Samples(), Samples()
        for _ in range(COPIES):
            call_us, capsule = timed(lambda: lane.snapshot(parent=parent))
            capsule.wait()
            calls.append(call_us)
            copies.append(timed(copy)[0])
        lane.roll_back(before)
        return [self._row("delta_snapshot", calls, copies, child.bytes)]

    def _restores(self) -> list[Row]:
        lane, capsule, size = self._lane, self._capsule, self._capsule.total_bytes
        copy, spare = _copy(size), self._engine.lane()
        restores, restore_copies = _in_turn(lambda: lane.restore(capsule), copy, COPIES)
        forks, fork_copies = _in_turn(lambda: lane.fork(spare), copy, COPIES)
        before = lane.mark()
        lane.append_now(self._text[self._tokens :])
        marks = cycle([before, lane.mark()])
        rolls = times_us(lambda: lane.roll_back(next(marks)), COPIES)
        lane.roll_back(before)
        return [
            self._row("restore", restores, restore_copies, size),
            self._row("fork", forks, fork_copies, size),
            self._row("rollback", rolls, size=0),
        ]

    def _files(self) -> list[Row]:
        capsule, engine = self._capsule, self._engine
        size = capsule.total_bytes
        with tempfile.TemporaryDirectory(prefix="backtalk-bench-") as directory:
            path, plain = Path(directory) / "capsule", Path(directory) / "plain"
            content = bytes(size)
            saves, writes = _in_turn(lambda: engine.save(capsule, path), lambda: _write(plain, content), FILES)
            loads, reads = _in_turn(lambda: engine.load_capsule(path), plain.read_bytes, FILES)
        return [
            self._row("save", saves, writes, size, "one synced write of the same bytes"),
            self._row("load", loads, reads, size, "one read of the same bytes"),
        ]

    def _first_tokens(self) -> list[Row]:
        warm = times_us(self._answer, ANSWERS, warm_up=1)
        self._lane.restore(self._capsule)
        return [
            self._row("ttft_cold", self._cold_us),
            self._row("ttft_restore", warm),
        ]

    def _steps(self) -> list[Row]:
        """A few tokens appended, and a step beside a snapshot, each in turn with a step by itself."""
        from engine.sampler import Sampling

        lane, other = self._lane, self._engine.lane(self._capsule)
        before, words = lane.mark(), self._text[-APPENDED_TOKENS:]
        appends, steps, beside = Samples(), Samples(), Samples()
        with asyncio.Runner() as loop:
            reply = other.generate(Sampling(), 2 * STEPS + 6, stop_ids=())

            def step() -> None:
                loop.run(anext(reply))

            # The first token needs no step of the model: the prompt was its step.
            for turn in range(-2, STEPS):
                append_us, _ = timed(lambda: lane.append_now(words))
                lane.roll_back(before)
                step_us, _ = timed(step)
                copied = other.snapshot()
                beside_us, _ = timed(step)
                copied.wait()
                if turn >= 0:
                    appends.append(append_us)
                    steps.append(step_us)
                    beside.append(beside_us)
            loop.run(reply.aclose())
        alone = "one decode step"
        return [
            self._row("decode_step", steps),
            self._row("append_4", appends, steps, is_=alone),
            self._row("decode_beside_snapshot", beside, steps, is_=alone),
        ]

    def _read_cold(self) -> None:
        self._lane.clear()
        asyncio.run(_first_token(self._lane, self._text))

    def _answer(self) -> None:
        self._lane.restore(self._capsule)
        asyncio.run(_first_token(self._lane, self._text[self._tokens :]))


async def _first_token(lane: Lane, tokens: list[int]) -> None:
    from engine.sampler import Sampling

    await lane.append(tokens)
    async with aclosing(lane.generate(Sampling(), 1, stop_ids=())) as reply:
        await anext(reply)


def _in_turn(thing: Callable[[], object], other: Callable[[], object], count: int) -> tuple[Samples, Samples]:
    """Times of two things that take turns, us, after three rounds that don't count."""
    rounds = [(timed(thing)[0], timed(other)[0]) for _ in range(count + 3)][3:]
    return [one for one, _ in rounds], [two for _, two in rounds]


def _copy(size: int) -> Callable[[], object]:
    """Copies as many bytes from one place to another."""
    import torch

    source, target = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
    return lambda: target.copy_(source)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
