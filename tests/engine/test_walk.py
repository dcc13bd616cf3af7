"""Random walks of lanes over everything a lane can do, against lanes that simply read the journal."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine import live
from engine.capsule import Capsule, Mark
from engine.copier import Copy
from engine.errors import LaneDead, PoolFull, StateError
from engine.lane import Lane
from engine.pool import Pool
from engine.session import Engine
from tests.engine import lanes
from tests.engine.lanes import WARM, Engines, some_tokens

LANES = st.integers(0, 1)
ANY = st.integers(0, 99)
CAPSULE_BYTES = 1 << 20
"""Not enough for all capsules of a long walk."""


class Walk(RuleBasedStateMachine):
    """Two lanes that share capsules, whose copies are made at some time or other."""

    engine: Engine
    broken: pytest.MonkeyPatch
    file: Path
    known: ClassVar[dict[tuple[int, ...], str]]

    @initialize()
    def start(self) -> None:
        self.lanes = [self.engine.lane(), self.engine.lane()]
        self.capsules: list[tuple[Capsule, list[int], int]] = []
        self.marks: list[tuple[Lane, Mark, list[int]]] = []
        self.append(0, 70, 0)
        self.snapshot(0)
        self.mark(0)

    @rule(lane=LANES, count=st.integers(1, 90), seed=st.integers(0, 5))
    def append(self, lane: int, count: int, seed: int) -> None:
        chosen = self.lanes[lane]
        chosen.append_now(some_tokens(min(count, chosen.capacity - chosen.position), seed))

    @rule(lane=LANES, count=st.integers(1, 6), seed=st.integers(0, 5))
    def decode(self, lane: int, count: int, seed: int) -> None:
        chosen = self.lanes[lane]
        if 0 < chosen.position <= chosen.capacity - count:
            chosen.generate_now(dataclasses.replace(WARM, seed=seed), count, stop_ids=())

    @rule(lane=LANES)
    def draft(self, lane: int) -> None:
        chosen = self.lanes[lane]
        if lanes.has_drafts(chosen) and 0 < chosen.position <= chosen.capacity - 3:
            chosen.draft_now(3)

    def keep(self, lane: Lane, parent: Capsule | None = None) -> None:
        self.capsules.append((lane.snapshot(parent), lane.journal, lane.seed))

    @rule(lane=LANES)
    def snapshot(self, lane: int) -> None:
        try:
            self.keep(self.lanes[lane])
        except PoolFull:
            self.capsules.pop(0)[0].evict()

    @precondition(lambda self: self.capsules)
    @rule(lane=LANES, which=ANY)
    def delta(self, lane: int, which: int) -> None:
        parent, journal, _ = self.capsules[which % len(self.capsules)]
        before = self.engine.pool.usage().used_bytes
        try:
            self.keep(self.lanes[lane], parent)
        except PoolFull:
            parent.evict()
        except StateError:
            # Refused, rightly or out of caution: rows of equal tokens may have been written again.
            assert self.engine.pool.usage().used_bytes == before
        else:
            assert self.lanes[lane].journal[: len(journal)] == journal

    @rule(depth=st.integers(1, 3))
    def tidy(self, depth: int) -> None:
        self.engine.store.tidy(depth)

    @precondition(lambda self: self.capsules)
    @rule(which=ANY, steps=st.integers(1, 3))
    def copy(self, which: int, steps: int) -> None:
        for pending in self.capsules[which % len(self.capsules)][0].copies:
            for _ in range(steps):
                pending.step()

    @precondition(lambda self: self.capsules)
    @rule(which=ANY)
    def evict(self, which: int) -> None:
        self.capsules[which % len(self.capsules)][0].evict()

    @precondition(lambda self: self.capsules)
    @rule(which=ANY)
    def save_and_load(self, which: int) -> None:
        capsule, journal, seed = self.capsules[which % len(self.capsules)]
        if not capsule.evicted:
            self.engine.save(capsule, self.file)
            try:
                self.capsules.append((self.engine.load_capsule(self.file), journal, seed))
            except PoolFull:
                capsule.evict()

    @rule(lane=LANES)
    def fork(self, lane: int) -> None:
        self.lanes[1 - lane] = self.lanes[lane].fork(into=self.lanes[1 - lane])

    @rule(lane=LANES)
    def fork_anew(self, lane: int) -> None:
        self.lanes[1 - lane] = self.lanes[lane].fork()

    @rule(lane=LANES)
    def mark(self, lane: int) -> None:
        self.marks.append((self.lanes[lane], self.lanes[lane].mark(), self.lanes[lane].journal))

    @precondition(lambda self: self.marks)
    @rule(which=ANY)
    def roll_back(self, which: int) -> None:
        lane, mark, journal = self.marks[which % len(self.marks)]
        before = lane.digest()
        try:
            lane.roll_back(mark)
        except StateError:
            assert lane.digest() == before
        else:
            assert lane.journal == journal

    @precondition(lambda self: self.capsules)
    @rule(lane=LANES, which=ANY)
    def restore(self, lane: int, which: int) -> None:
        capsule, journal, seed = self.capsules[which % len(self.capsules)]
        if capsule.evicted:
            with pytest.raises(StateError):
                self.lanes[lane].restore(capsule)
            self.lanes[lane].rebuild(capsule)
        else:
            self.lanes[lane].restore(capsule)
        assert (self.lanes[lane].journal, self.lanes[lane].seed) == (journal, seed)

    @precondition(lambda self: self.capsules)
    @rule(lane=LANES, which=ANY, good=st.integers(0, 12))
    def fail_to_restore(self, lane: int, which: int, good: int) -> None:
        left = iter(range(good))

        def fail(target: object, source: object) -> None:
            if next(left, None) is None:
                raise RuntimeError("broken")
            target.copy_(source)  # type: ignore[attr-defined]

        chosen, before = self.lanes[lane], (self.lanes[lane].journal, self.lanes[lane].seed)
        with self.broken.context() as patched:
            patched.setattr(live, "copy_bytes", fail)
            try:
                chosen.restore(self.capsules[which % len(self.capsules)][0])
            except LaneDead:
                assert (chosen.journal, chosen.seed) == before
                chosen.rebuild()
            except StateError:
                assert not chosen.dead

    @rule(lane=LANES)
    def clear(self, lane: int) -> None:
        self.lanes[lane].clear()

    @invariant()
    def is_what_the_journal_says(self) -> None:
        for lane in getattr(self, "lanes", ()):
            assert lane.digest() == self.straight(lane.journal, lane.seed)

    def teardown(self) -> None:
        """Whatever was copied late still is what was there when the capsule was taken, and all memory comes back."""
        self.check_capsules()
        self.capsules = []
        assert self.engine.pool.usage().used_bytes == 0

    def check_capsules(self) -> None:
        for capsule, journal, seed in getattr(self, "capsules", ()):
            assert (capsule.tokens, capsule.seed) == (journal, seed)
            if not capsule.evicted:
                assert capsule.digest() == self.straight(journal, seed)

    def straight(self, journal: list[int], seed: int) -> str:
        """The digest of a state that was made by reading a text from its start."""
        key = (seed, *journal)
        if key not in self.known:
            fresh = self.engine.lane(seed=seed)
            fresh.append_now(journal)
            self.known[key] = fresh.digest()
        return self.known[key]


def walk(engine: Engine, broken: pytest.MonkeyPatch, directory: Path, walks: int) -> None:
    """Some walks, always the same."""
    Walk.engine, Walk.broken, Walk.known, Walk.file = engine, broken, {}, directory / "a.capsule"
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=walks,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.parametrize("kind", ["dense fp32", "hybrid fp32"])
def test_any_walk_ends_where_its_journal_leads(
    engines: Engines, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engines(kind)
    pool = Pool(CAPSULE_BYTES)
    monkeypatch.setattr(engine, "pool", pool)
    monkeypatch.setattr(engine.store, "_pool", pool)
    walk(engine, monkeypatch, tmp_path, walks=20)


def test_a_walk_finds_a_fence_that_is_missing(
    engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Copy, "in_the_way_of", lambda *_: False)
    with pytest.raises(AssertionError):
        walk(engines("dense fp32"), monkeypatch, tmp_path, walks=200)
