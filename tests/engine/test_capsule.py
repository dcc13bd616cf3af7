"""Capsules and marks: exact to the byte, or refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine.capsule import Capsule, Segment
from engine.errors import PoolFull, StateError
from engine.lane import Lane
from engine.pool import Pool
from engine.sampler import Sampling
from engine.session import Engine
from tests.engine import lanes
from tests.engine.lanes import EDGES, WARM, Engines, at, dirty, go_on, some_tokens


@pytest.mark.parametrize("position", EDGES)
def test_a_restored_state_is_the_same_state(engine: Engine, position: int) -> None:
    lane = at(engine, position)
    greedy, sampled = go_on(lane, Sampling()), go_on(lane)
    before, capsule = lane.region_digests(), lane.snapshot()
    assert capsule.region_digests() == before
    assert capsule.digest() == lane.digest()
    dirty(lane)
    assert lane.region_digests() != before
    lane.restore(capsule)
    assert lane.region_digests() == before
    assert go_on(lane, Sampling()) == greedy
    assert go_on(lane) == sampled


@pytest.mark.parametrize("position", EDGES)
def test_appending_after_a_restore_is_never_having_left(engine: Engine, position: int) -> None:
    tokens = some_tokens(330)
    stayed, left = engine.lane(), engine.lane()
    stayed.append_now(tokens)
    left.append_now(tokens[:position])
    capsule = left.snapshot()
    dirty(left)
    left.restore(capsule)
    left.append_now(tokens[position:])
    assert left.region_digests() == stayed.region_digests()


def test_the_empty_state_is_a_state(engine: Engine) -> None:
    lane = engine.lane(seed=4)
    before, capsule = lane.digest(), lane.snapshot()
    dirty(lane)
    lane.restore(capsule)
    assert (lane.position, lane.seed, lane.digest()) == (0, 4, before)
    dirty(lane)
    lane.clear()
    assert (lane.position, lane.seed, lane.digest()) == (0, 4, before)


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


REGIONS = ("kv", "journal", "hidden", "counters", "recurrent", "delta_keys", "delta_values", "delta_decay", "conv")


@pytest.mark.parametrize("left_out", [*REGIONS, "draft_kv"])
def test_every_region_is_needed(engine: Engine, left_out: str) -> None:
    """Leave one region out of a restore: the text goes elsewhere, or the drafts after it. `pytest -rP` says where."""
    lane, other = at(engine, 100), at(engine, 100, seed=2)
    if left_out not in lane.region_digests():
        pytest.skip("the model has no such region")
    text, before, capsule = go_on(lane), lane.region_digests(), lane.snapshot()
    left = other.snapshot()
    left.wait()
    lane.restore(dataclasses.replace(capsule, segments={**capsule.segments, left_out: left.segments[left_out]}))
    assert {name for name, digest in lane.region_digests().items() if digest != before[name]} == {left_out}
    found = go_on(lane)
    assert found != text
    first = next(place for place, (one, other) in enumerate(zip(found, text, strict=True)) if one != other)
    print(f"without {left_out} the text is another from token {first} on")


def test_the_lineage_tells_a_text(engine: Engine) -> None:
    """It decides no token, so leaving it out is seen in it alone, and ever after."""
    lane, other = at(engine, 100), at(engine, 100, seed=2)
    capsule, foreign = lane.snapshot(), other.snapshot()
    foreign.wait()
    lane.restore(dataclasses.replace(capsule, segments={**capsule.segments, "lineage": foreign.segments["lineage"]}))
    lane.append_now(some_tokens(5))
    straight = engine.lane(capsule)
    straight.append_now(some_tokens(5))
    assert lane.snapshot().lineage != straight.snapshot().lineage
    assert capsule.lineage != foreign.lineage


def test_scratch_is_dead_between_steps(engine: Engine) -> None:
    """Fill what is not in the registry with NaN between a restore and the next step: nothing changes."""
    lane = at(engine, 70)
    capsule, text, before = lane.snapshot(), go_on(lane), lane.region_digests()
    dirty(lane)
    lane.restore(capsule)
    with torch.inference_mode():
        for buffer in engine.model.scratch():
            buffer.fill_(torch.nan)
    assert go_on(lane) == text
    assert lane.region_digests() == before


def test_what_is_not_live_is_dead(engine: Engine) -> None:
    """Fill the rest of a new lane with NaN before a restore: nothing changes."""
    lane = at(engine, 70)
    capsule, text = lane.snapshot(), go_on(lane, count=70)
    poisoned = engine.lane()
    for tensor in poisoned._live.state.arena.tensors.values():
        tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    poisoned.restore(capsule)
    assert poisoned.digest() == capsule.digest()
    assert go_on(poisoned, count=70) == text


def test_one_flipped_bit_is_another_digest(engine: Engine) -> None:
    capsule = at(engine, 70).snapshot()
    digest = capsule.digest()
    for name, chain in capsule.segments.items():
        for place in (0, -1):
            chain[0].memory[place] ^= 1
            assert capsule.digest() != digest, name
            chain[0].memory[place] ^= 1
    assert capsule.digest() == digest


def test_a_capsule_holds_nothing_from_after_its_boundary(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now(some_tokens(70))
    fresh, here = lane.snapshot(), lane.mark()
    fresh.wait()
    lane.append_now(some_tokens(50, seed=8))
    lane.roll_back(here)
    later = lane.snapshot()
    for name in fresh.segments:
        assert torch.equal(fresh.packed(name), later.packed(name)), name
    live = sum(usage.live_bytes for usage in lane.usage())
    assert later.total_bytes == later.bytes == live


def cut(segment: Segment, units: range) -> Segment:
    """Some units of a segment, as many bytes from its start."""
    memory = segment.memory[: len(units) * segment.region.unit_bytes]
    return dataclasses.replace(segment, units=units, memory=memory)


def torn(capsule: Capsule, name: str, *chain: Segment) -> Capsule:
    """A capsule with another chain for one region."""
    return dataclasses.replace(capsule, segments={**capsule.segments, name: chain})


def refusals(other: Engine, lane: Lane) -> dict[str, tuple[Callable[[], None], str]]:
    """Everything that must be refused, and what it is refused with."""
    capsule = lane.snapshot()
    kv, journal = capsule.segments["kv"][0], capsule.segments["journal"][0]
    counters = capsule.segments["counters"][0]
    moved = dataclasses.replace(counters, memory=counters.memory.clone())
    moved.memory[0] += 1
    evicted = lane.snapshot()
    evicted.evict()
    stranger = lane.fork()
    return {
        "foreign": (lambda: lane.restore(at(other, 50).snapshot()), "weights are kept as"),
        "missing": (lambda: lane.restore(torn(capsule, "kv")), "region kv is not whole"),
        "short": (lambda: lane.restore(torn(capsule, "kv", cut(kv, range(49)))), "region kv is not whole"),
        "late": (lambda: lane.restore(torn(capsule, "kv", cut(kv, range(1, 50)))), "region kv is not whole"),
        "few bytes": (
            lambda: lane.restore(torn(capsule, "kv", dataclasses.replace(kv, memory=kv.memory[:-1]))),
            "region kv is not whole",
        ),
        "gap": (
            lambda: lane.restore(torn(capsule, "kv", cut(kv, range(20)), cut(kv, range(21, 50)))),
            "region kv is not whole",
        ),
        "swapped": (lambda: lane.restore(torn(capsule, "kv", journal)), "region kv is not whole"),
        "position": (lambda: lane.restore(torn(capsule, "counters", moved)), "another position"),
        "evicted": (lambda: lane.restore(evicted), "it was evicted"),
        "another lane": (lambda: lane.roll_back(stranger.mark()), "another lane"),
        "itself": (lambda: [lane.fork(into=lane)].clear(), "can't be forked"),
        "another engine": (lambda: [lane.fork(into=other.lane())].clear(), "can't be forked"),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("foreign", "missing", "short", "late", "few bytes", "gap", "swapped", "position", "evicted"),
        *("another lane", "itself", "another engine"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(engines: Engines, engine: Engine, case: str) -> None:
    architecture = "dense" if engine.spec.delta is None else "hybrid"
    other = engines(f"{architecture} {'bf16' if engine.weight_format == 'fp32' else 'fp32'}")
    lane = at(engine, 50)
    act, told = refusals(other, lane)[case]
    before, refused = lane.region_digests(), engine.counters.refusals
    with pytest.raises(StateError, match=told):
        act()
    assert lane.region_digests() == before
    assert not lane.dead
    assert engine.counters.refusals == refused + 1


def test_a_capsule_goes_into_any_context_with_room_for_it(engines: Engines, models: Path) -> None:
    large, small = engines("dense fp32"), lanes.load(models, "dense fp32", context_tokens=100)
    capsule = at(large, 100).snapshot()
    assert small.lane(capsule).digest() == capsule.digest()
    with pytest.raises(StateError, match="holds 101 tokens"):
        small.lane(at(large, 101).snapshot())


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
    with pytest.raises(StateError, match="at token 70 needs were overwritten"):
        lane.roll_back(late)
    lane.roll_back(early)
    lane.restore(lane.snapshot())
    with pytest.raises(StateError, match="at token 50 needs were overwritten"):
        lane.roll_back(early)


def test_a_ring_that_went_round_is_out_of_reach(engine: Engine) -> None:
    """At the last token before that a rollback is exact; at the next one a hybrid model refuses it."""
    lane = engine.lane()
    lane.append_now(some_tokens(70))
    here, digest = lane.mark(), lane.digest()
    lost_at = lane._live.state.lost_at(70)
    lane.append_now(some_tokens(min(lost_at, lane.capacity - 1) - 70, seed=2))
    there = lane.mark()
    lane.roll_back(here)
    assert lane.digest() == digest
    lane.roll_back(there)
    lane.append_now([1])
    if engine.spec.delta is None:
        lane.roll_back(here)
        assert lane.digest() == digest
    else:
        with pytest.raises(StateError, match="at token 70 needs were overwritten"):
            lane.roll_back(here)


def test_drafting_moves_nothing_that_is_live(engine: Engine) -> None:
    lane = at(engine, 60)
    if not lanes.has_drafts(lane):
        pytest.skip("the model has no draft head")
    before = lane.region_digests()
    drafts = lane.draft_now(5)
    assert lane.region_digests() == before
    assert lane.draft_now(5) == drafts
    here = lane.mark()
    lane.append_now(some_tokens(10))
    ahead = lane.mark()
    lane.roll_back(here)
    lane.draft_now(5)
    with pytest.raises(StateError, match="at token 70 needs were overwritten"):
        lane.roll_back(ahead)
    with pytest.raises(StateError, match="the lane is empty"):
        engine.lane().draft_now(1)


def test_a_fork_goes_its_own_way(engine: Engine) -> None:
    lane, used = at(engine, 130), at(engine, 200, seed=2)
    digest, text = lane.digest(), go_on(lane)
    for fork in (lane.fork(), lane.fork(into=used), engine.lane(lane.snapshot())):
        assert fork.digest() == digest
        assert fork.generate_now(WARM, 24, stop_ids=()) == text[:24]
        assert lane.digest() == digest


def test_an_evicted_capsule_is_made_again_from_its_tokens(engine: Engine) -> None:
    lane = at(engine, 90, seed=7)
    digest, capsule = lane.digest(), lane.snapshot()
    assert engine.pool.usage().used_bytes >= capsule.total_bytes > 0
    capsule.evict()
    assert (capsule.evicted, capsule.total_bytes, engine.pool.usage().used_bytes) == (True, 0, 0)
    dirty(lane)
    lane.rebuild(capsule)
    assert (lane.digest(), lane.seed, engine.counters.rebuilds) == (digest, 7, 1)


def test_a_full_pool_says_so_and_loses_nothing(engine: Engine) -> None:
    lane = at(engine, 200)
    engine.pool = Pool(lane.snapshot().total_bytes * 3 // 2)
    first = lane.snapshot()
    used, digest = engine.pool.usage().used_bytes, lane.digest()
    with pytest.raises(PoolFull, match=f"{used} of {engine.pool.usage().budget_bytes} bytes are in use"):
        lane.snapshot()
    assert (lane.digest(), first.digest(), engine.pool.usage().used_bytes) == (digest, digest, used)
    assert lane.snapshot(first).digest() == digest
    first.evict()
    assert lane.snapshot().digest() == digest
