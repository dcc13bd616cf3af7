"""The disk tier: what is moved there comes back, after a restart as well, and files that lie are found out."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from engine import codec
from engine.capsule import Capsule
from engine.errors import CapsuleLost, PoolFull, StateError
from engine.fingerprint import Fingerprint
from engine.pool import Pool
from engine.store import Store
from tests.engine.states import CAPACITY
from tests.engine.texts import EXPECTED, ROOM, capsule_of, chain_in, digest, file_of, flip, put, text


@pytest.fixture
def pool() -> Pool:
    return Pool(ROOM)


@pytest.fixture
def store(pool: Pool, tmp_path: Path) -> Store:
    return Store(pool, EXPECTED, tmp_path / "capsules")


def test_a_spilled_capsule_frees_its_memory_and_comes_back(store: Store, pool: Pool, tmp_path: Path) -> None:
    chain = chain_in(pool, (70, 90))
    digests = [capsule.digest() for capsule in chain]
    for name, capsule in zip(("start", "turn"), chain, strict=True):
        store.put(name, capsule, pinned=True)
        store.spill(name)
    assert pool.usage().used_bytes == 0
    assert all(row.saved and row.pinned and not row.bytes for row in store.rows())
    assert [digest(store, name) for name in ("start", "turn")] == digests
    assert (store.counters.spills, store.counters.loads) == (2, 2)
    path = tmp_path / "capsules" / "turn.capsule"
    assert [stat.S_IMODE(place.stat().st_mode) for place in (path, path.parent)] == [0o600, 0o700]
    store.drop("turn")
    assert not path.exists()


def test_what_lies_on_disk_goes_from_memory_first_and_keeps_its_name(store: Store, pool: Pool) -> None:
    kept, saved = put(store, pool, "kept", 1), put(store, pool, "saved", 2)
    store.save("saved")
    last = put(store, pool, "last", 3)
    assert {row.name: (row.bytes > 0, row.saved) for row in store.rows()} == {
        "kept": (True, False),
        "last": (True, False),
        "saved": (False, True),
    }
    store.save("kept")
    assert digest(store, "saved") == saved
    assert {row.name for row in store.rows() if row.bytes} == {"last", "saved"}
    store.pin("last")
    store.pin("saved")
    with pytest.raises(PoolFull, match="pinned: last"):
        store.get("kept")
    store.unpin("last")
    store.drop("last")
    assert digest(store, "kept") == kept != last


def test_a_store_without_a_directory_saves_nothing(pool: Pool) -> None:
    store = Store(pool, EXPECTED)
    before = put(store, pool, "turn", 1)
    with pytest.raises(StateError, match="has no directory"):
        store.spill("turn")
    assert digest(store, "turn") == before
    for act in (store.spill, store.save, store.pin, store.unpin):
        with pytest.raises(StateError):
            act("nobody")


def test_a_directory_that_is_a_file_is_refused(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateError, match="can't be used"):
        Store(pool, EXPECTED, tmp_path / "file")


def test_a_new_store_finds_what_an_older_one_saved(store: Store, pool: Pool, tmp_path: Path) -> None:
    digests = {name: put(store, pool, name, seed, tokens=90) for seed, name in enumerate(("commit", "persona"), 1)}
    for name in digests:
        store.spill(name)
    fresh = Pool(ROOM)
    again = Store(fresh, EXPECTED, tmp_path / "capsules")
    assert (again.names, again.unreadable, fresh.usage().used_bytes) == (["commit", "persona"], {}, 0)
    match = again.longest_match(text(CAPACITY, 2))
    assert match is not None
    assert (match.name, match.tokens, match.capsule.digest()) == ("persona", 90, digests["persona"])
    assert {name: digest(again, name) for name in again.names} == digests
    assert fresh.usage().used_bytes > 0


def test_a_name_that_was_given_to_another_does_not_come_back_as_what_it_was(
    store: Store, pool: Pool, tmp_path: Path
) -> None:
    put(store, pool, "commit", 1, tokens=20)
    store.save("commit")
    latest = put(store, pool, "commit", 2, tokens=20)
    assert Store(pool, EXPECTED, tmp_path / "capsules").names == []
    store.save("commit")
    assert digest(Store(Pool(ROOM), EXPECTED, tmp_path / "capsules"), "commit") == latest


def test_what_can_not_be_read_is_left_alone_and_told(store: Store, pool: Pool, tmp_path: Path) -> None:
    put(store, pool, "good", 1, tokens=20)
    good = file_of(store, tmp_path, "good")
    bad = {
        "header": good.read_bytes().replace(b"position", b"positiom", 1),
        "empty": b"",
        "short": good.read_bytes()[:-1],
        "UPPER": good.read_bytes(),
    }
    for name, data in bad.items():
        good.with_stem(name).write_bytes(data)
    good.with_stem("link").symlink_to(good)
    good.with_stem("directory").mkdir()
    good.with_name(".good.capsule.x.part").write_bytes(b"half")
    foreign = capsule_of(pool, text(20))
    foreign.fingerprint = Fingerprint({"weights": "cd"})
    codec.save(foreign, good.with_stem("foreign"))
    names = {path.name for path in good.parent.iterdir()}
    again = Store(pool, EXPECTED, good.parent)
    assert again.names == ["good"]
    assert {path.name for path in again.unreadable} == names - {"good.capsule"}
    assert "the weights are others" in str(again.unreadable[good.with_stem("foreign")])
    assert {path.name for path in good.parent.iterdir()} == names
    # Nor is one of them replaced, until somebody says so.
    before = put(again, pool, "foreign", 2, tokens=20)
    with pytest.raises(StateError, match="a file that is no capsule of this engine"):
        again.spill("foreign")
    assert digest(again, "foreign") == before
    again.drop("foreign")
    put(again, pool, "foreign", 2, tokens=20)
    again.spill("foreign")
    assert digest(again, "foreign") == before


@pytest.mark.parametrize("damage", ["payload", "header", "gone", "another"])
def test_a_damaged_file_costs_its_memory_and_not_its_text(
    store: Store, pool: Pool, tmp_path: Path, damage: str
) -> None:
    other = put(store, pool, "other", 2, tokens=50)
    put(store, pool, "turn", 1, tokens=70)
    path = file_of(store, tmp_path, "turn")
    store.spill("turn")
    match damage:
        case "payload":
            flip(path, 4096 + 700)
        case "header":
            flip(path, 40)
        case "gone":
            path.unlink()
        case _:
            path.write_bytes(file_of(store, tmp_path, "other").read_bytes())
    used = pool.usage().used_bytes
    with pytest.raises(CapsuleLost, match="can't be loaded") as lost:
        store.get("turn")
    assert (lost.value.capsule.tokens, lost.value.capsule.seed) == (text(70, 1), 8)
    assert "lane.rebuild" in lost.value.fix
    assert pool.usage().used_bytes == used
    assert (store.names, digest(store, "other")) == (["other"], other)
    assert store.unreadable[path].__traceback__ is None
    assert path.exists() == (damage != "gone")
    assert store.counters.refusals == 1
    assert store.get("turn") is None
    # A file that is damaged stands in the way of another until somebody drops it; one that is gone does not.
    again = put(store, pool, "turn", 3, tokens=20)
    if damage != "gone":
        with pytest.raises(StateError, match="or damaged"):
            store.save("turn")
        store.drop("turn")
        put(store, pool, "turn", 3, tokens=20)
    store.spill("turn")
    assert (digest(store, "turn"), store.unreadable) == (again, {})


def test_the_text_of_a_file_is_known_before_its_damage_is(store: Store, pool: Pool, tmp_path: Path) -> None:
    """The regions of the text are whole, others are not: a new store finds that out when it reads them."""
    put(store, pool, "turn", 1, tokens=70)
    flip(file_of(store, tmp_path, "turn"), 4096 + 700)
    again = Store(pool, EXPECTED, tmp_path / "capsules")
    assert again.names == ["turn"]
    with pytest.raises(CapsuleLost) as lost:
        again.get("turn")
    assert lost.value.capsule.tokens == text(70, 1)


@pytest.mark.parametrize("meanwhile", ["dropped", "replaced"])
def test_a_name_given_away_while_it_is_written_leaves_no_file(
    store: Store, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    put(store, pool, "turn", 1, tokens=20)
    write = codec.save

    def write_slowly(capsule: Capsule, path: Path) -> None:
        # It is being read, so it does not go, whatever room is asked for.
        with pytest.raises(PoolFull):
            store.make_room([ROOM])
        store.drop("turn")
        if meanwhile == "replaced":
            put(store, pool, "turn", 2, tokens=20)
        write(capsule, path)

    monkeypatch.setattr(codec, "save", write_slowly)
    store.spill("turn")
    assert list((tmp_path / "capsules").iterdir()) == []
    capsule = store.get("turn")
    assert (capsule and capsule.tokens) == (text(20, 2) if meanwhile == "replaced" else None)
