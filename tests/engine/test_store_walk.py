"""Random use of a store, against a dictionary of digests: nothing over budget, nothing pinned lost, no byte wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from engine.capsule import Capsule
from engine.errors import PoolFull
from engine.pool import Pool
from engine.store import Store
from tests.engine.states import CAPACITY
from tests.engine.texts import EXPECTED, capsule_of, text

BUDGET = 60_160
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


class Put(NamedTuple):
    """What the model knows of a name."""

    digest: str
    tokens: list[int]
    pinned: bool
    saved: bool


class Walk(RuleBasedStateMachine):
    """A store, and what was put into it."""

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.model: dict[str, Put] = {}
        self.open()

    def open(self) -> None:
        self.pool = Pool(BUDGET)
        self.store = Store(self.pool, EXPECTED, Path(self.folder.name))

    def in_memory(self) -> set[str]:
        return {row.name for row in self.store.rows() if row.bytes}

    def making_room(self, sizes: list[int], keep: Capsule | None = None) -> bool:
        """Make room; whether there is some. What went may go, and only what had to."""
        before, fitted = self.in_memory(), self.pool.fits(sizes)
        untouched = self.store.rows()
        try:
            gone = self.store.make_room(sizes, keep)
        except PoolFull as error:
            told = set(error.pinned_bytes)
            assert (self.store.rows(), told) == (untouched, {name for name in before if self.model[name].pinned})
            return False
        assert self.pool.fits(sizes)
        assert fitted == (not gone)
        assert before - self.in_memory() == {one.name for one in gone}
        for one in gone:
            put = self.model[one.name]
            assert (one.capsule.tokens, one.saved, put.pinned) == (put.tokens, put.saved, False)
            if not put.saved:
                del self.model[one.name]
        return True

    @rule(name=NAMES, parent=NAMES, more=st.integers(0, 90), seed=st.integers(1, 3), pinned=st.booleans())
    def put(self, name: str, parent: str, more: int, seed: int, pinned: bool) -> None:
        """A capsule of a new text, or a delta of one that is in memory."""
        base = self.store.get(parent) if parent in self.in_memory() else None
        start = [] if base is None else base.tokens
        tokens = [*start, *text(CAPACITY, seed)[: min(more, CAPACITY - len(start))]]
        try:
            capsule = capsule_of(self.pool, tokens, base)
        except PoolFull as error:
            if not self.making_room(list(error.sizes_bytes), base):
                return
            capsule = capsule_of(self.pool, tokens, base)
        self.store.put(name, capsule, pinned=pinned, disposable=seed == 3)
        self.model[name] = Put(capsule.digest(), tokens, pinned, False)

    @rule(kilobytes=st.integers(0, 70))
    def make_room(self, kilobytes: int) -> None:
        if not self.making_room([kilobytes * 1000]):
            fixed = sum(row.bytes for row in self.store.rows() if row.pinned)
            assert kilobytes * 1000 > BUDGET or fixed

    @rule(name=NAMES)
    def pin(self, name: str) -> None:
        if name in self.model:
            self.store.pin(name)
            self.model[name] = self.model[name]._replace(pinned=True)

    @rule(name=NAMES, disposable=st.booleans())
    def unpin(self, name: str, disposable: bool) -> None:
        if name in self.model:
            self.store.unpin(name, disposable=disposable)
            self.model[name] = self.model[name]._replace(pinned=False)

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        self.store.drop(name)
        self.model.pop(name, None)

    @rule(name=NAMES, away=st.booleans())
    def save(self, name: str, away: bool) -> None:
        if name in self.model:
            (self.store.spill if away else self.store.save)(name)
            self.model[name] = self.model[name]._replace(saved=True)
            assert not (away and name in self.in_memory())

    @rule(name=NAMES)
    def get(self, name: str) -> None:
        before = self.in_memory()
        try:
            capsule = self.store.get(name)
        except PoolFull:
            assert self.in_memory() == before
            return
        for gone in before - self.in_memory():
            assert not self.model[gone].pinned
            if not self.model[gone].saved:
                del self.model[gone]
        assert (capsule and capsule.digest()) == (self.model[name].digest if name in self.model else None)

    @rule(seed=st.integers(1, 3), length=st.integers(0, CAPACITY))
    def match(self, seed: int, length: int) -> None:
        said = text(length, seed)
        wanted = {
            len(self.model[name].tokens)
            for name in self.in_memory()
            if self.model[name].tokens == said[: len(self.model[name].tokens)]
        } - {0}
        on_disk = [name for name in self.model if name not in self.in_memory()]
        if not on_disk:
            match = self.store.longest_match(said)
            assert (match and match.tokens) == (max(wanted) if wanted else None)

    @rule(depth=st.integers(1, 4))
    def tidy(self, depth: int) -> None:
        used, steps = self.pool.usage().used_bytes, 0
        while self.store.tidy(depth):
            steps += 1
            assert steps < 20
        assert self.pool.usage().used_bytes <= used

    @rule()
    def restart(self) -> None:
        self.open()
        self.model = {name: put._replace(pinned=False) for name, put in self.model.items() if put.saved}

    @invariant()
    def keeps_what_it_promised(self) -> None:
        if hasattr(self, "store"):
            assert self.store.names == sorted(self.model)
            assert self.store.unreadable == {}
            assert self.pool.usage().peak_bytes <= BUDGET
            for row in self.store.rows():
                put = self.model[row.name]
                assert (row.position, row.pinned, row.saved) == (len(put.tokens), put.pinned, put.saved)
                assert row.bytes or put.saved
                if row.bytes:
                    capsule = self.store.get(row.name)
                    assert capsule is not None
                    assert (capsule.digest(), capsule.tokens) == (put.digest, put.tokens)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()


def test_any_use_keeps_what_was_promised() -> None:
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
