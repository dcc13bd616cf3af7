"""The store behind an engine: snapshots that make their own room, a restart, and a rebuild of what was lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import CapsuleLost, PoolFull
from engine.session import Engine
from tests.engine import lanes
from tests.engine.lanes import some_tokens

KINDS = ("dense", "hybrid")


def engine_over(models: Path, kind: str, directory: Path, capsule_bytes: int = 64 << 20) -> Engine:
    model = lanes.checkpoint(models, kind)
    return Engine(model, "fp32", lanes.CONTEXT, 2, capsule_bytes, lanes.NoCopier(), directory)


def bytes_at(models: Path, kind: str, position: int) -> int:
    """What the pool needs for one capsule."""
    engine = lanes.load(models, f"{kind} fp32")
    capsule = lanes.at(engine, position).snapshot()
    assert capsule.position == position
    return engine.pool.usage().used_bytes


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_evicts_what_costs_least_and_never_what_is_pinned(models: Path, tmp_path: Path, kind: str) -> None:
    engine = engine_over(models, kind, tmp_path, int(2.5 * bytes_at(models, kind, 100)))
    digests: dict[str, str] = {}
    for seed, name in enumerate(("persona", "turn-1", "turn-2"), 1):
        lane = lanes.at(engine, 100, seed)
        engine.store.put(name, lane.snapshot(), pinned=name == "persona")
        digests[name] = lane.digest()
    assert engine.store.names == ["persona", "turn-2"]
    engine.store.pin("turn-2")
    lane = lanes.at(engine, 100, seed=4)
    before = lane.digest()
    with pytest.raises(PoolFull, match="pinned: persona"):
        lane.snapshot()
    assert lane.digest() == before
    for name in engine.store.names:
        capsule = engine.store.get(name)
        assert capsule is not None
        lane.restore(capsule)
        assert lane.digest() == digests[name]


@pytest.mark.parametrize("kind", KINDS)
def test_after_a_restart_the_longest_known_start_is_restored(models: Path, tmp_path: Path, kind: str) -> None:
    said = some_tokens(200)
    engine = engine_over(models, kind, tmp_path)
    lane, parent = engine.lane(), None
    for position in (40, 90, 130):
        lane.append_now(said[lane.position : position])
        parent = lane.snapshot(parent)
        engine.store.put(f"turn-{position}", parent)
        engine.store.spill(f"turn-{position}")
        parent = engine.store.get(f"turn-{position}")
        assert parent is not None
        lane.restore(parent)
    again = engine_over(models, kind, tmp_path)
    match = again.store.longest_match(said)
    assert match is not None
    assert (match.name, match.tokens) == ("turn-130", 130)
    warm = again.lane(match.capsule)
    warm.append_now(said[match.tokens :])
    cold = again.lane()
    cold.append_now(said)
    assert warm.region_digests() == cold.region_digests()


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_turns_is_joined_and_goes_on_as_a_parent(models: Path, tmp_path: Path, kind: str) -> None:
    said = some_tokens(200)
    engine = engine_over(models, kind, tmp_path)
    lane, commit = engine.lane(), None
    for position in (10, 30, 50, 70, 90, 110):
        lane.append_now(said[lane.position : position])
        commit = lane.snapshot(commit)
        engine.store.put("commit", commit, pinned=True)
    assert commit is not None
    assert commit.depth == 6
    commit.wait()
    before = commit.digest()
    assert not engine.store.tidy()
    assert (commit.depth, commit.digest()) == (1, before)
    lane.append_now(said[110:150])
    child = lane.snapshot(commit)
    assert child.borrowed
    fresh = engine.lane()
    fresh.append_now(said[:150])
    assert engine.lane(child).region_digests() == fresh.region_digests()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_damaged_file_held_is_read_again(models: Path, tmp_path: Path, kind: str) -> None:
    engine = engine_over(models, kind, tmp_path)
    lane = lanes.at(engine, 70, seed=3)
    digest = lane.digest()
    engine.store.put("commit", lane.snapshot())
    engine.store.spill("commit")
    path = tmp_path / "commit.capsule"
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    lane.clear()
    with pytest.raises(CapsuleLost) as lost:
        engine.store.get("commit")
    lane.rebuild(lost.value.capsule)
    assert lane.digest() == digest
