"""Chains made shorter in idle time: the same bytes, and nothing kept twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.capsule import Capsule, take
from engine.chains import segments_of
from engine.pool import Pool
from engine.store import Store
from tests.engine.states import CAPACITY, FINGERPRINT, filled
from tests.engine.texts import EXPECTED, ROOM, capsule_of, chain_in, digest, text


@pytest.fixture
def pool() -> Pool:
    return Pool(ROOM)


@pytest.fixture
def store(pool: Pool, tmp_path: Path) -> Store:
    return Store(pool, EXPECTED, tmp_path / "capsules")


def test_a_chain_whose_ancestors_are_gone_is_joined_and_stays_the_same(store: Store, pool: Pool) -> None:
    chain = chain_in(pool, (20, 30, 40, 50, 60, 63))
    told = chain[-1].digest(), chain[-1].region_digests()
    store.put("persona", chain[0], pinned=True)
    store.put("commit", chain[-1], pinned=True)
    used = pool.usage().used_bytes
    del chain[1:-1]
    assert chain[-1].depth == 6
    assert not store.tidy(depth=6)
    assert not store.tidy(depth=2)
    assert chain[-1].depth == 2
    assert (chain[-1].digest(), chain[-1].region_digests()) == told
    # What the persona holds is still held by both.
    shared = segments_of(chain[0]) & segments_of(chain[-1])
    assert shared
    assert chain[-1].borrowed == shared
    assert pool.usage().used_bytes < used
    assert store.counters.joins == 1
    assert not store.tidy(depth=1)


def test_siblings_share_what_is_joined(store: Store, pool: Pool) -> None:
    said = text(CAPACITY)
    trunk = chain_in(pool, (20, 30, 40))[-1]
    branches = [capsule_of(pool, [*said[:40], token, 9, 9], trunk) for token in (1, 2)]
    digests = [branch.digest() for branch in branches]
    del trunk
    for place, branch in enumerate(branches):
        store.put(f"branch{place}", branch)
    used = pool.usage().used_bytes
    assert not store.tidy(depth=2)
    assert [branch.digest() for branch in branches] == digests
    assert [branch.depth for branch in branches] == [2, 2]
    assert pool.usage().used_bytes <= used
    shared = segments_of(branches[0]) & segments_of(branches[1])
    assert [branch.borrowed for branch in branches] == [shared, shared]
    assert {len(segment.units) for segment in shared if segment.region.name == "journal"} == {40}
    store.spill("branch0")
    assert [digest(store, f"branch{place}") for place in (0, 1)] == digests


def test_chains_are_left_alone_while_there_is_no_room_or_they_are_being_filled() -> None:
    pool = Pool(24_000)
    store = Store(pool, EXPECTED)
    chain = chain_in(pool, (5, 10, 15, 20))
    state = filled(0)
    state.commit(text(25))
    last, copy = take(state, FINGERPRINT, pool, chain[-1])
    store.put("last", last)
    chain.clear()
    assert (last.ready, store.tidy(depth=2), last.depth) == (False, False, 5)
    copy.run()
    rest = pool.allocate(pool.usage().largest_free_bytes)
    assert (store.tidy(depth=2), last.depth) == (False, 5)
    del rest
    before = last.digest()
    assert (store.tidy(depth=2), last.depth, last.digest()) == (False, 1, before)


def test_tidying_goes_on_until_all_is_short(store: Store, pool: Pool) -> None:
    capsules: list[Capsule] = []
    for seed in (1, 2, 3):
        capsule = None
        for position in (4, 8, 12, 16):
            capsule = capsule_of(pool, text(position, seed), capsule)
        assert capsule is not None
        store.put(f"turn{seed}", capsule)
        capsules.append(capsule)
    del capsule
    assert [store.tidy(depth=3) for _ in range(4)] == [True, True, False, False]
    assert [capsule.depth for capsule in capsules] == [1, 1, 1]
