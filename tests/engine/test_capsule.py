"""Capsules and marks: exact to the byte, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from engine.capsule import Capsule, Mark
from engine.errors import StateError
from engine.sampler import Sampling
from engine.session import Engine, Lane
from tests.engine import tiny
from tests.engine.tiny import VOCABULARY, Shape

CONTEXT = 256
EDGES = (1, 2, 3, 4, 63, 64, 65, 127, 128, 129, 191, 192)
WARM = Sampling(temperature=0.9, top_k=40, repetition_penalty=1.1)
SHAPE = Shape(hidden=72, query_heads=9, kv_heads=3, head_dim=8)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write(tmp_path_factory.mktemp("tiny") / "m.gguf", SHAPE, tiny.reference(SHAPE))


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def engine(request: pytest.FixtureRequest, path: Path) -> Engine:
    return Engine.load(path, format=request.param, context_tokens=CONTEXT)


def some_tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count).tolist()


def at(engine: Engine, position: int) -> Lane:
    """A lane that has read some tokens, and chosen some."""
    lane = engine.lane(seed=11)
    lane.append_now(some_tokens(position - position // 8))
    lane.generate_now(WARM, position // 8, stop_ids=())
    assert lane.position == position
    return lane


def dirty(engine: Engine, lane: Lane) -> None:
    """Read another text over everything, from the start, with another seed."""
    lane.restore(engine.lane(seed=5).snapshot())
    lane.append_now(some_tokens(CONTEXT, seed=9))


def go_on(lane: Lane, sampling: Sampling = WARM) -> list[int]:
    """The next 64 tokens, after which the state is put back."""
    here = lane.snapshot()
    text = lane.generate_now(sampling, 64, stop_ids=())
    lane.restore(here)
    return text


@pytest.mark.parametrize("position", EDGES)
def test_a_restored_state_is_the_same_state(engine: Engine, position: int) -> None:
    lane = at(engine, position)
    greedy, sampled = go_on(lane, Sampling()), go_on(lane)
    before, capsule = lane.region_digests(), lane.snapshot()
    assert capsule.region_digests() == before
    assert capsule.digest() == lane.digest()
    dirty(engine, lane)
    assert lane.region_digests() != before
    lane.restore(capsule)
    assert lane.region_digests() == before
    assert go_on(lane, Sampling()) == greedy
    assert go_on(lane) == sampled


@pytest.mark.parametrize("position", EDGES)
def test_appending_after_a_restore_is_never_having_left(engine: Engine, position: int) -> None:
    tokens = some_tokens(250)
    stayed, left = engine.lane(), engine.lane()
    stayed.append_now(tokens)
    left.append_now(tokens[:position])
    capsule = left.snapshot()
    dirty(engine, left)
    left.restore(capsule)
    left.append_now(tokens[position:])
    assert left.region_digests() == stayed.region_digests()


def test_rolling_back_and_reading_again_is_never_having_gone_there(engine: Engine) -> None:
    straight, detour = engine.lane(seed=3), engine.lane(seed=3)
    for lane in (straight, detour):
        lane.append_now(some_tokens(60))
    here = detour.mark()
    detour.append_now(some_tokens(33, seed=4))
    detour.generate_now(dataclasses.replace(WARM, seed=99), 40, stop_ids=())
    detour.roll_back(here)
    assert detour.region_digests() == straight.region_digests()
    for lane in (straight, detour):
        lane.append_now(some_tokens(25, seed=5))
    assert detour.region_digests() == straight.region_digests()
    assert go_on(detour) == go_on(straight)


def test_another_seed_samples_another_text(engine: Engine) -> None:
    lane = at(engine, 40)
    capsule = lane.snapshot()
    texts: dict[int, tuple[int, ...]] = {}
    for seed in (1, 2, 1):
        lane.restore(capsule)
        text = tuple(lane.generate_now(dataclasses.replace(WARM, seed=seed), 30, stop_ids=()))
        assert texts.setdefault(seed, text) == text
    assert texts[1] != texts[2]


@pytest.mark.parametrize("left_out", ["kv", "hidden", "counters", "journal"])
def test_every_region_is_needed(engine: Engine, left_out: str) -> None:
    """Leave one region out of a restore: the text goes elsewhere."""
    sampling = dataclasses.replace(WARM, repetition_penalty=1.5)
    lane = at(engine, 100)
    text, before, capsule = go_on(lane, sampling), lane.region_digests(), lane.snapshot()
    dirty(engine, lane)
    kept = lane.snapshot().tensors[left_out]
    partial = dict(capsule.tensors)
    partial[left_out] = kept[: len(partial[left_out])].clone()
    if left_out == "counters":
        # The position tells how much of the rest is live, so only the seed can be left out.
        partial[left_out][0] = capsule.position
        partial[left_out][1] = 12345
    lane.restore(dataclasses.replace(capsule, tensors=partial))
    assert {name for name, digest in lane.region_digests().items() if digest != before[name]} == {left_out}
    assert go_on(lane, sampling) != text


def test_scratch_is_dead_between_steps(engine: Engine) -> None:
    """Fill what is not in the registry with NaN: nothing changes."""
    lane = at(engine, 70)
    text, before = go_on(lane), lane.region_digests()
    with torch.inference_mode():
        for buffer in engine.model._memory:
            buffer.fill_(torch.nan)
    assert go_on(lane) == text
    assert lane.region_digests() == before


def test_one_flipped_bit_is_another_digest(engine: Engine) -> None:
    capsule = at(engine, 70).snapshot()
    digest = capsule.digest()
    for name in capsule.tensors:
        view = capsule.tensors[name].reshape(-1).view(torch.uint8)
        view[0] ^= 1
        assert capsule.digest() != digest
        view[0] ^= 1
    assert capsule.digest() == digest


def test_a_capsule_holds_nothing_from_after_its_boundary(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now(some_tokens(70))
    fresh = lane.snapshot()
    here = lane.mark()
    lane.append_now(some_tokens(50, seed=8))
    lane.roll_back(here)
    later = lane.snapshot()
    for name, tensor in fresh.tensors.items():
        assert torch.equal(tensor.view(torch.uint8), later.tensors[name].view(torch.uint8)), name


def test_the_memory_of_an_old_capsule_serves_again(engine: Engine) -> None:
    lane = at(engine, 100)
    old = lane.snapshot()
    pointers = {tensor.data_ptr() for tensor in old.tensors.values()}
    lane.roll_back(lane.mark())
    lane.append_now(some_tokens(5))
    new = lane.snapshot(reuse=old)
    assert pointers & {tensor.data_ptr() for tensor in new.tensors.values()}
    assert new.digest() == lane.digest()


def refusals(engine: Engine, other: Engine, lane: Lane) -> dict[str, tuple[Callable[[], None], str]]:
    """Everything that must be refused, and what it is refused with."""
    capsule = lane.snapshot()
    long = engine.lane()
    long.append_now(some_tokens(200))
    torn = dict(capsule.tensors)
    torn["kv"] = torn["kv"][:0]
    return {
        "foreign": (lambda: lane.restore(at(other, 50).snapshot()), "another model"),
        "torn": (lambda: lane.restore(dataclasses.replace(capsule, tensors=torn)), "region kv does not fit"),
        "another lane": (lambda: lane.roll_back(long.mark()), "another lane"),
    }


@pytest.mark.parametrize("case", ["foreign", "torn", "another lane"])
def test_what_does_not_fit_is_refused_and_changes_nothing(path: Path, engine: Engine, case: str) -> None:
    other = Engine.load(path, format="bf16" if engine.weight_format == "fp32" else "fp32", context_tokens=CONTEXT)
    lane = at(engine, 50)
    before = lane.region_digests()
    act, told = refusals(engine, other, lane)[case]
    with pytest.raises(StateError, match=told):
        act()
    assert lane.region_digests() == before


def test_a_capsule_longer_than_the_context_is_refused(path: Path) -> None:
    large, small = (Engine.load(path, format="fp32", context_tokens=tokens) for tokens in (CONTEXT, 100))
    lane = small.lane()
    lane.restore(at(large, 100).snapshot())
    assert lane.position == 100
    with pytest.raises(StateError, match="holds 101 tokens"):
        lane.restore(at(large, 101).snapshot())


def test_a_mark_is_refused_once_its_rows_are_overwritten(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now(some_tokens(50))
    early = lane.mark()
    lane.append_now(some_tokens(20, seed=2))
    late, digest = lane.mark(), lane.digest()
    lane.roll_back(early)
    lane.roll_back(late)
    assert lane.digest() == digest
    lane.roll_back(early)
    lane.append_now(some_tokens(1, seed=3))
    with pytest.raises(StateError, match="below token 70 were overwritten"):
        lane.roll_back(late)
    lane.roll_back(early)
    lane.restore(lane.snapshot())
    with pytest.raises(StateError, match="below token 50 were overwritten"):
        lane.roll_back(early)


class Walk(RuleBasedStateMachine):
    """Random walks of two lanes, against lanes that simply read the journal."""

    engine: Engine

    @initialize()
    def start(self) -> None:
        self.lanes = [self.engine.lane(), self.engine.lane()]
        self.capsules: list[tuple[Capsule, list[int]]] = []
        self.marks: list[tuple[int, Mark, list[int]]] = []

    @rule(lane=st.integers(0, 1), count=st.integers(1, 40), seed=st.integers(0, 5))
    def append(self, lane: int, count: int, seed: int) -> None:
        room = self.lanes[lane].capacity - self.lanes[lane].position
        self.lanes[lane].append_now(some_tokens(min(count, room), seed))

    @rule(lane=st.integers(0, 1), count=st.integers(1, 6), seed=st.integers(0, 5))
    def decode(self, lane: int, count: int, seed: int) -> None:
        chosen = self.lanes[lane]
        if 0 < chosen.position <= chosen.capacity - count:
            chosen.generate_now(dataclasses.replace(WARM, seed=seed), count, stop_ids=())

    @rule(lane=st.integers(0, 1))
    def snapshot(self, lane: int) -> None:
        self.capsules.append((self.lanes[lane].snapshot(), self.lanes[lane].journal))

    @rule(lane=st.integers(0, 1))
    def mark(self, lane: int) -> None:
        self.marks.append((lane, self.lanes[lane].mark(), self.lanes[lane].journal))

    @precondition(lambda self: self.capsules)
    @rule(lane=st.integers(0, 1), which=st.integers(0, 99))
    def restore(self, lane: int, which: int) -> None:
        capsule, journal = self.capsules[which % len(self.capsules)]
        self.lanes[lane].restore(capsule)
        assert self.lanes[lane].journal == journal

    @precondition(lambda self: self.marks)
    @rule(which=st.integers(0, 99))
    def roll_back(self, which: int) -> None:
        lane, mark, journal = self.marks[which % len(self.marks)]
        before = self.lanes[lane].digest()
        try:
            self.lanes[lane].roll_back(mark)
        except StateError:
            assert self.lanes[lane].digest() == before
        else:
            assert self.lanes[lane].journal == journal

    @invariant()
    def is_what_the_journal_says(self) -> None:
        for lane in getattr(self, "lanes", ()):
            fresh = self.engine.lane(lane.seed)
            fresh.append_now(lane.journal)
            if lane.position:
                assert lane.region_digests() == fresh.region_digests()


def test_any_walk_ends_where_its_journal_leads(path: Path) -> None:
    Walk.engine = Engine.load(path, format="bf16", context_tokens=CONTEXT)
    run_state_machine_as_test(
        Walk,
        settings=settings(
            max_examples=25,
            stateful_step_count=15,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
