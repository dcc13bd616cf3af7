"""Deltas: capsules that share what their parent has, in chains, joined, and after the parent is gone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from engine.capsule import MAX_DEPTH, Capsule
from engine.errors import StateError
from engine.lane import Lane
from engine.session import Engine
from tests.engine import lanes
from tests.engine.lanes import EDGES, WARM, Engines, at, dirty, some_tokens


def chain_of(lane: Lane, positions: tuple[int, ...]) -> list[tuple[Capsule, str]]:
    """A capsule at each position, each the next one's parent, and the lane's digest there."""
    text = some_tokens(positions[-1])
    found: list[tuple[Capsule, str]] = []
    for position in positions:
        lane.append_now(text[lane.position : position])
        found.append((lane.snapshot(found[-1][0] if found else None), lane.digest()))
    return found


@pytest.mark.parametrize("positions", [EDGES[:7], EDGES[7:], (0, 5, 5, 70), (30, 100, 260), (64, 128, 192, 256)])
def test_a_chain_is_as_good_as_whole_capsules(engine: Engine, positions: tuple[int, ...]) -> None:
    lane = engine.lane()
    chain = chain_of(lane, positions)
    dirty(lane)
    for capsule, digest in reversed(chain):
        lane.restore(capsule)
        assert lane.digest() == capsule.digest() == digest
    for parent, child in pairwise(capsule for capsule, _ in chain):
        assert child.borrowed == {
            segment for segment in child.borrowed if segment in parent.segments[segment.region.name]
        }
        assert child.bytes < child.total_bytes or parent.position == 0


def test_a_delta_carries_what_its_parent_lacks(engine: Engine) -> None:
    lane = engine.lane()
    (parent, _), (child, _) = chain_of(lane, (70, 75))
    for name, chain in child.segments.items():
        region = chain[0].region
        own = [segment.units for segment in chain if segment not in child.borrowed]
        match region.live.value:
            case "prefix" | "chunk":
                assert own == [range(70, 75)], name
            case "base":
                assert own == [], name
            case _:
                assert own == [region.units(75)], name
    assert all(segment.memory is child.segments["kv"][0].memory for segment in parent.segments["kv"])
    lane.append_now(some_tokens(60))
    beyond = lane.snapshot(child)
    assert all(units.region.live.value == "prefix" for units in beyond.borrowed)


def test_an_evicted_parent_takes_nothing_from_its_children(engine: Engine) -> None:
    lane = engine.lane()
    chain = chain_of(lane, (40, 60, 100, 140))
    last, digest = chain[-1]
    for capsule, _ in chain[:-1]:
        capsule.evict()
        with pytest.raises(StateError, match="it was evicted"):
            capsule.digest()
    assert last.digest() == digest
    held = engine.pool.usage().used_bytes
    assert last.total_bytes <= held < 1.5 * last.total_bytes
    last.evict()
    assert engine.pool.usage().used_bytes == 0
    assert [capsule.tokens for capsule, _ in chain] == [some_tokens(140)[:end] for end in (40, 60, 100, 140)]


def test_memory_returns_when_nobody_holds_it(engine: Engine) -> None:
    lane = engine.lane()
    chain = chain_of(lane, (40, 60, 100))
    weights = [capsule.bytes for capsule, _ in chain]
    assert sum(weights) <= engine.pool.usage().used_bytes < sum(weights) + 64 * 40
    del chain[0]
    assert engine.pool.usage().used_bytes > sum(weights[1:])
    chain.clear()
    assert engine.pool.usage().used_bytes == 0


def test_a_chain_does_not_grow_for_ever(engine: Engine) -> None:
    chain = chain_of(engine.lane(), tuple(range(10, 10 + 3 * MAX_DEPTH)))
    depths = [capsule.depth for capsule, _ in chain]
    assert depths == [*range(1, MAX_DEPTH + 1)] * 3
    assert all(capsule.bytes == capsule.total_bytes for capsule, _ in chain if capsule.depth == 1)


def test_a_parent_may_be_joined_meanwhile(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.store, "_pool", engine.pool)
    lane = engine.lane()
    *chain, (parent, digest) = chain_of(lane, (20, 66, 100, 150))
    chain.clear()
    parent.wait()
    engine.store.tidy(depth=1)
    assert (parent.depth, parent.digest()) == (1, digest)
    lane.append_now(some_tokens(9))
    child, straight = lane.snapshot(parent), lane.digest()
    dirty(lane)
    lane.restore(child)
    assert (child.depth, lane.digest()) == (2, straight)


def test_a_lane_that_was_put_back_or_forked_grows_from_there(engine: Engine) -> None:
    lane = at(engine, 90)
    parent = lane.snapshot()
    fork = lane.fork()
    dirty(lane)
    lane.restore(parent)
    for one in (lane, fork):
        one.generate_now(WARM, 10, stop_ids=())
        child = one.snapshot(parent)
        assert child.borrowed
        assert child.digest() == one.digest()


def test_a_chain_may_begin_in_a_shorter_context(
    engines: Engines, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows lie in the same bytes, however many have a place there."""
    long = engines("hybrid fp32")
    short = lanes.load(models, "hybrid fp32", context_tokens=100)
    parent = at(short, 90).snapshot()
    lane = long.lane(parent)
    lane.append_now(some_tokens(270))
    child = lane.snapshot(parent)
    assert child.borrowed
    assert child.digest() == lane.digest()
    long.save(child, tmp_path / "a.capsule")
    assert long.load_capsule(tmp_path / "a.capsule").digest() == lane.digest()
    monkeypatch.setattr(long.store, "_pool", long.pool)
    parent.evict()
    long.store.tidy(depth=1)
    assert (child.depth, child.digest()) == (1, lane.digest())
    short.close()


def test_a_chain_forgets_copies_that_are_made(engine: Engine) -> None:
    """And none begins where one failed: its bytes would be in every capsule after it."""
    lane, parent = engine.lane(), None
    for _ in range(MAX_DEPTH - 1):
        lane.append_now(some_tokens(5))
        parent = lane.snapshot(parent)
        assert len(parent.copies) == 1
        parent.copies[0].run()
    assert parent is not None
    parent.copies[0].error = RuntimeError("gone")
    with pytest.raises(StateError, match="never filled"):
        lane.snapshot(parent)


def test_what_did_not_grow_from_a_capsule_is_refused(engine: Engine) -> None:
    lane = engine.lane()
    lane.append_now(some_tokens(50))
    early = lane.mark()
    parent = lane.snapshot()
    lane.append_now(some_tokens(20))
    later = lane.snapshot(parent)
    lane.roll_back(early)
    with pytest.raises(StateError, match="50 tokens did not grow from its parent's 70"):
        lane.snapshot(later)
    lane.append_now(some_tokens(30, seed=2))
    with pytest.raises(StateError, match="80 tokens did not grow from its parent's 70"):
        lane.snapshot(later)
    assert lane.snapshot(parent).digest() == lane.digest()
    stranger = engine.lane()
    stranger.append_now(lane.journal)
    with pytest.raises(StateError, match="never was where its parent is"):
        stranger.snapshot(parent)
    lane.clear()
    lane.append_now(some_tokens(60))
    with pytest.raises(StateError, match="did not grow"):
        lane.snapshot(parent)
    later.evict()
    lane.rebuild()
    with pytest.raises(StateError, match="its parent was evicted"):
        lane.snapshot(later)


def test_sharing_without_the_check_would_be_wrong(engine: Engine) -> None:
    """What the refusal is for: a delta over another text has the digest of neither."""
    lane, other = at(engine, 50), at(engine, 50, seed=2)
    parent = lane.snapshot()
    other._live._visits[parent] = lane._live._visits[parent]._replace(writes=other._live.state.writes)
    other.append_now(some_tokens(5))
    wrong = other.snapshot(parent)
    assert wrong.digest() != other.digest()
