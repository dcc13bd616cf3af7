"""The store: names, room in a full pool, and the longest start of a text."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path

import pytest
import torch

from engine.capsule import take
from engine.chains import segments_of
from engine.errors import CapsuleLost, PoolFull, StateError
from engine.fingerprint import Fingerprint
from engine.pool import Pool
from engine.store import Store
from tests.engine.states import CAPACITY, FINGERPRINT, filled
from tests.engine.texts import EXPECTED, ROOM, capsule_of, digest, file_of, flip, put, sizes_of, text


@pytest.fixture
def pool() -> Pool:
    return Pool(ROOM)


@pytest.fixture
def store(pool: Pool, tmp_path: Path) -> Store:
    return Store(pool, EXPECTED, tmp_path / "capsules")


def test_what_is_put_is_got_and_what_is_not_is_missed(store: Store, pool: Pool) -> None:
    before = put(store, pool, "persona", 1)
    assert digest(store, "persona") == before
    assert store.get("turn-1") is None
    after = put(store, pool, "persona", 2, tokens=60)
    assert (store.names, digest(store, "persona")) == (["persona"], after)
    store.drop("persona")
    assert store.get("persona") is None
    assert (store.counters.hits, store.counters.misses) == (2, 2)
    assert pool.usage().used_bytes == 0


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "A", "a\n", "ä", "a" * 81, "a\0"])
def test_names_that_are_no_files_are_refused(store: Store, pool: Pool, name: str) -> None:
    with pytest.raises(StateError, match="can't be called"):
        store.put(name, capsule_of(pool, text(5)))
    with pytest.raises(StateError, match="can't be called"):
        store.drop(name)
    assert store.names == []


def test_a_capsule_that_could_not_be_put_back_is_not_kept(store: Store, pool: Pool) -> None:
    before = put(store, pool, "persona", 1, tokens=10)
    evicted, foreign = capsule_of(pool, text(5)), capsule_of(pool, text(5))
    evicted.evict()
    foreign.fingerprint = Fingerprint({"weights": "cd"})
    for capsule, told in ((evicted, "was evicted"), (foreign, "the weights are others")):
        with pytest.raises(StateError, match=told):
            store.put("persona", capsule)
    assert digest(store, "persona") == before


def test_room_is_made_before_anything_is_copied(store: Store, pool: Pool) -> None:
    put(store, pool, "persona", 1, pinned=True)
    put(store, pool, "loser", 2, disposable=True)
    kept = put(store, pool, "turn", 3)
    assert store.names == ["persona", "turn"]
    assert store.counters.evictions == 1
    assert pool.usage().peak_bytes <= ROOM
    held = store.get("turn")
    assert held is not None
    assert held.digest() == kept
    (gone,) = store.make_room(sizes_of(text(100, 4)))
    assert (gone.name, gone.capsule.tokens, gone.capsule.seed, gone.saved) == ("turn", text(100, 3), 10, False)
    assert held.evicted
    assert store.make_room(sizes_of(text(100, 4))) == []


def test_a_pool_full_of_what_is_pinned_is_the_callers_choice(store: Store, pool: Pool) -> None:
    digests = {name: put(store, pool, name, seed, pinned=True) for seed, name in enumerate(("commit", "persona"), 1)}
    used = pool.usage()
    with pytest.raises(PoolFull, match=r"commit \(without it \d+ bytes more\), persona \(without") as refused:
        put(store, pool, "turn", 3)
    assert refused.value.pinned_bytes == {row.name: row.own_bytes for row in store.rows()}
    assert pool.usage()._replace(largest_free_bytes=0) == used._replace(largest_free_bytes=0)
    assert {name: digest(store, name) for name in store.names} == digests
    assert (store.counters.refusals, store.counters.evictions) == (1, 0)
    store.unpin("commit")
    put(store, pool, "turn", 3)
    assert store.names == ["persona", "turn"]


def test_nothing_is_evicted_in_vain_for_what_never_fits(store: Store, pool: Pool) -> None:
    put(store, pool, "turn", 1)
    with pytest.raises(PoolFull, match="no room for a capsule of 1000000 bytes"):
        store.make_room([1_000_000])
    assert store.names == ["turn"]


def test_an_error_that_is_forgotten_holds_no_memory(store: Store, pool: Pool) -> None:
    put(store, pool, "persona", 1, pinned=True)
    forgotten: list[weakref.ref[PoolFull]] = []
    gc.disable()
    try:
        store.make_room([ROOM])
    except PoolFull as error:
        forgotten.append(weakref.ref(error))
    finally:
        gc.enable()
    assert [error() for error in forgotten] == [None]


def test_memory_that_only_a_caller_holds_is_reckoned_with(store: Store, pool: Pool) -> None:
    held = capsule_of(pool, text(100, 1))
    store.put("turn", held)
    store.drop("turn")
    watched = capsule_of(pool, text(60, 2))
    store.watch(watched)
    put(store, pool, "small", 3, tokens=5)
    with pytest.raises(PoolFull, match=f"in use: {held.total_bytes + watched.total_bytes} bytes"):
        store.make_room([ROOM // 2])
    assert store.names == ["small"]
    del watched
    store.make_room([17_000])
    assert store.names == ["small"]


def test_free_memory_in_pieces_is_not_taken_for_room(pool: Pool) -> None:
    store = Store(pool, EXPECTED)
    for place in range(6):
        put(store, pool, f"turn{place}", place + 1, tokens=20)
    # Every other one goes: the sum would be enough, but no run of free memory is.
    for place in range(0, 6, 2):
        store.drop(f"turn{place}")
    usage = pool.usage()
    wanted = usage.largest_free_bytes + 64
    assert usage.budget_bytes - usage.used_bytes > wanted
    assert store.make_room([wanted])
    assert pool.allocate(wanted).numel() == wanted


def test_a_snapshot_never_loses_its_parent_to_its_own_room(store: Store, pool: Pool) -> None:
    parent = capsule_of(pool, text(100))
    store.put("parent", parent, disposable=True)
    other = put(store, pool, "other", 2)
    state = filled(0)
    state.commit(text(240))
    child, copy = store.with_room(lambda: take(state, FINGERPRINT, pool, parent), keep=parent)
    copy.run()
    assert (store.names, parent.evicted) == (["parent"], False)
    assert child.borrowed <= segments_of(parent)
    assert child.borrowed
    assert other not in (parent.digest(), child.digest())


def test_what_a_parent_holds_is_not_hoped_for(store: Store, pool: Pool) -> None:
    """Nobody told the store of the parent; still its memory does not come free with its child."""
    parent = capsule_of(pool, text(100))
    child = capsule_of(pool, text(110), parent)
    store.put("child", child)
    with pytest.raises(PoolFull):
        store.make_room([pool.usage().largest_free_bytes + child.bytes + 2000], keep=parent)
    assert (store.names, child.evicted) == (["child"], False)


def test_one_capsule_under_two_names_is_evicted_with_both(store: Store, pool: Pool) -> None:
    capsule = capsule_of(pool, text(100))
    store.put("persona", capsule)
    store.put("commit", capsule, pinned=True)
    with pytest.raises(PoolFull):
        store.make_room([ROOM])
    assert store.names == ["commit", "persona"]
    store.spill("persona")
    assert (capsule.evicted, store.get("commit")) == (False, capsule)
    store.unpin("commit")
    assert [gone.name for gone in store.make_room([ROOM])] == ["commit"]
    assert digest(store, "persona")


def test_the_longest_start_of_a_text_is_found_token_for_token(tmp_path: Path) -> None:
    said, pool = text(CAPACITY, 1), Pool(1 << 20)
    store = Store(pool, EXPECTED, tmp_path / "capsules")
    for name, tokens in (("empty", []), ("short", said[:20]), ("long", said[:50]), ("other", text(60, 2))):
        store.put(name, capsule_of(pool, tokens))
    # The digest of another text, as an attacker or a fault would have it.
    forged = capsule_of(pool, text(55, 3))
    forged.lineage = capsule_of(pool, said[:55]).lineage
    store.put("forged", forged)

    def found(tokens: list[int]) -> tuple[str, int] | None:
        match = store.longest_match(tokens)
        assert match is None or match.capsule.tokens == tokens[: match.tokens]
        return None if match is None else (match.name, match.tokens)

    assert found(said) == ("long", 50)
    assert found(said[:50]) == ("long", 50)
    assert found(said[:49]) == ("short", 20)
    assert found([*said[:49], (said[49] + 1) % 50, *said[50:]]) == ("short", 20)
    assert found(said[:19]) is None
    assert found([]) is None
    assert (store.counters.hits, store.counters.misses) == (4, 2)
    flip(file_of(store, tmp_path, "long"), -4096)
    store.spill("long")
    assert found(said) == ("short", 20)
    assert store.names == ["empty", "forged", "other", "short"]


def test_a_capsule_that_somebody_else_evicted_is_told_as_lost(store: Store, pool: Pool) -> None:
    capsule = capsule_of(pool, text(20))
    store.put("turn", capsule)
    capsule.evict()
    with pytest.raises(CapsuleLost, match="somebody else evicted it") as lost:
        store.get("turn")
    assert lost.value.capsule.tokens == text(20)
    assert store.names == []


def test_a_wrong_byte_would_be_noticed(store: Store, pool: Pool) -> None:
    """The digests that these tests compare are of all bytes."""
    before = put(store, pool, "turn", 1, tokens=20)
    capsule = store.get("turn")
    assert capsule is not None
    for chain in capsule.segments.values():
        chain[0].memory[-1] ^= 1
        assert digest(store, "turn") != before
        chain[0].memory[-1] ^= 1
    assert digest(store, "turn") == before
    assert torch.equal(capsule.packed("journal").view(torch.int32), torch.tensor(text(20), dtype=torch.int32))
    assert dataclasses.replace(capsule).digest() == before
