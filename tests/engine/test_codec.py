"""Capsules in files: exact to the byte, written whole or not at all, and refused if one bit is another."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.bench import fuzz
from engine import codec, header
from engine.arena import bytes_of
from engine.capsule import Capsule, plan_restore
from engine.copier import copy_bytes
from engine.errors import PoolFull, StateError
from engine.fingerprint import Fingerprint
from engine.pool import Pool
from engine.sampler import Sampling
from engine.session import Engine
from engine.state import LaneState
from tests.engine import lanes
from tests.engine.states import FINGERPRINT, Written, expected, filled, taken, written

ELSEWHERE = """
import sys
from engine.sampler import Sampling
from engine.session import Engine

engine = Engine.load(sys.argv[1], format="bf16", context_tokens=384)
lane = engine.lane(engine.load_capsule(sys.argv[2]))
print(lane.digest(), *lane.generate_now(Sampling(), 24, stop_ids=()))
engine.close()
"""
EDGES = (0, 1, 3, 63, 64, 65, 127, 128, 200, 299)


class Loader(NamedTuple):
    """A live state and a pool, and the way from a file into them."""

    state: LaneState
    pool: Pool
    path: Path
    before: dict[str, str]
    """Digests of the state's regions."""

    def load(self, data: bytes) -> None:
        """Load a file of these bytes, and see that it could be put back."""
        with self.path.open("r+b") as file:
            # In place: emptying a file first takes longer than all else here.
            file.write(data)
            file.truncate()
        plan_restore(self.state, FINGERPRINT, codec.load(self.path, expected(self.state), self.pool))

    def refuses(self, data: bytes) -> bool:
        """Whether these bytes are refused, with an error that a terminal can show, and nothing is changed."""
        used = self.pool.usage().used_bytes
        try:
            self.load(data)
        except StateError as error:
            told = all(part.isprintable() and part for part in (error.what, error.why, error.fix))
            same = self.state.arena.digests(self.state.position) == self.before
            return told and same and self.pool.usage().used_bytes == used
        return False


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """A capsule of 70 tokens: all regions have something in them."""
    return written(tmp_path_factory.mktemp("codec") / "good.capsule", 70)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    state = filled(33, seed=5)
    path = tmp_path_factory.mktemp("codec") / "other.capsule"
    path.touch()
    return Loader(state, Pool(1 << 20), path, state.arena.digests(33))


def put_back(state: LaneState, capsule: Capsule) -> None:
    """Make a state that of a capsule."""
    for target, source in plan_restore(state, FINGERPRINT, capsule):
        copy_bytes(target, source)


@pytest.mark.parametrize("position", EDGES)
def test_what_is_saved_is_loaded_byte_for_byte(tmp_path: Path, position: int) -> None:
    state, capsule, path = written(tmp_path / "a.capsule", position)
    loaded = codec.load(path, expected(state), Pool(1 << 20))
    assert loaded.region_digests() == state.arena.digests(position) == capsule.region_digests()
    assert (loaded.position, loaded.tokens, loaded.seed) == (position, state.journal(), state.seed)
    assert (loaded.lineage, loaded.fingerprint, loaded.ready) == (state.lineage, FINGERPRINT, True)
    assert codec.verify(path) == codec.read_header(path)
    other = filled(100, seed=3)
    put_back(other, loaded)
    assert other.arena.digests(other.position) == state.arena.digests(position)


def test_the_text_of_a_capsule_is_read_alone(good: Written) -> None:
    text = codec.load_text(good.path, expected(good.state))
    assert (text.tokens, text.seed, text.lineage) == (good.state.journal(), good.state.seed, good.state.lineage)
    assert text.evicted


def test_the_file_holds_the_live_bytes_of_each_region_and_no_others(good: Written) -> None:
    """Read by another hand: the fuzzer's own reading of the format, and hashlib."""
    file = fuzz.File.of(good.path.read_bytes())
    assert [entry["name"] for entry in file.regions] == [region.name for region in good.state.arena.true_regions()]
    assert [entry["offset"] % 4096 for entry in file.regions] == [0] * len(file.regions)
    for entry, region in zip(file.regions, good.state.arena.true_regions(), strict=True):
        raw = b"".join(map(bytes_of, region.pieces(good.state.arena.tensors[region.name], region.units(70))))
        assert file.content(entry) == raw
        assert entry["checksum"] == hashlib.blake2b(raw, digest_size=16).hexdigest()
    assert file.header["parts"] == FINGERPRINT.parts
    assert file.header["lineage"] == good.state.lineage.hex()
    assert fuzz.sealed(fuzz.told_in(good.path.read_bytes()), file.payload) == good.path.read_bytes()


@pytest.mark.parametrize(("early", "late"), [(0, 5), (20, 33), (60, 70), (64, 128), (70, 200), (128, 129), (190, 299)])
def test_a_capsule_in_parts_is_the_same_file_as_one_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: int, late: int
) -> None:
    state, pool = filled(late), Pool(1 << 20)
    # The same bytes lie in both: what a state has read decides only how much of them is live.
    delta = taken(state, pool, parent=taken(filled(early), pool) if early else None)
    codec.save(taken(state, pool), tmp_path / "whole")
    codec.save(delta, tmp_path / "delta")
    assert (delta.depth > 1) == (early > 0)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "delta").read_bytes()
    monkeypatch.setattr(codec, "SLICE_BYTES", 1000)
    codec.save(delta, tmp_path / "slices")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "slices").read_bytes()
    assert codec.load(tmp_path / "slices", expected(state), pool).digest() == delta.digest()


@pytest.mark.parametrize("position", [1, 64, 70, 200])
def test_a_lane_goes_on_from_a_file_as_if_nothing_had_been(engine: Engine, tmp_path: Path, position: int) -> None:
    lane = lanes.at(engine, position)
    text, before = lanes.go_on(lane), lane.region_digests()
    engine.save(lane.snapshot(), tmp_path / "a.capsule")
    lanes.dirty(lane)
    lane.restore(engine.load_capsule(tmp_path / "a.capsule"))
    assert lane.region_digests() == before
    assert lanes.go_on(lane) == text


def test_another_process_goes_on_from_the_file(models: Path, tmp_path: Path) -> None:
    engine, path = lanes.load(models, "hybrid bf16"), tmp_path / "a.capsule"
    lane = lanes.at(engine, 70)
    codec.save(lane.snapshot(), path)
    there = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, models / "hybrid.gguf", path], capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == [lane.digest(), *map(str, lane.generate_now(Sampling(), 24, stop_ids=()))]
    engine.close()


def test_saving_moves_some_bytes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "SLICE_BYTES", 2048)
    pool = Pool(1 << 20)
    delta = taken(filled(299), pool, parent=taken(filled(70), pool))
    for chain in delta.segments.values():
        region = chain[0].region
        most = max(2048, region.row_units * region.unit_bytes)
        assert max(part.nbytes for part in codec._in_one_run(chain)) <= most


def test_the_context_may_be_larger_but_not_smaller(good: Written) -> None:
    for capacity in (70, 77, 4000):
        state = filled(3, capacity)
        put_back(state, codec.load(good.path, expected(state), Pool(1 << 20)))
        assert state.arena.digests(70) == good.state.arena.digests(70)
    with pytest.raises(StateError, match=r"holds 70 tokens, and this context has room for 69.*larger context_tokens"):
        codec.load(good.path, expected(filled(3, 69)), Pool(1 << 20))


def test_a_foreign_capsule_is_refused_in_words(good: Written) -> None:
    ours = Fingerprint({**FINGERPRINT.parts, "torch": "2.12.1"})
    with pytest.raises(StateError, match=r"torch is 2\.12\.1 here and 2\.13\.0 there"):
        codec.load(good.path, expected(good.state, ours), Pool(1 << 20))


def test_a_full_pool_says_so_and_nothing_is_kept(good: Written) -> None:
    pool = Pool(4096)
    with pytest.raises(PoolFull):
        codec.load(good.path, expected(good.state), pool)
    assert pool.usage().used_bytes == 0


def test_nobody_else_can_read_it_from_the_first_byte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    sync = os.fsync

    def look_and_sync(descriptor: int) -> None:
        kind = "directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.extend((kind, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir())
        sync(descriptor)

    monkeypatch.setattr(codec.os, "fsync", look_and_sync)
    before = os.umask(0)
    written(tmp_path / "a.capsule", 5)
    os.umask(before)
    # One file beside the target while it is written; then only the target, and its name is on the disk as well.
    assert seen == [("file", 0o600), ("directory", 0o600)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.capsule"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    path = tmp_path / "a.capsule"
    capsule = written(path, 5).capsule
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(codec.os, call, fail)
    with pytest.raises(StateError if isinstance(error, OSError) else KeyboardInterrupt):
        codec.save(capsule, path)
    assert path.read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.capsule"]


def test_a_file_that_may_not_grow_is_refused_and_removed(tmp_path: Path, good: Written) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StateError, match="can't be written: File too large"):
            codec.save(good.capsule, tmp_path / "a.capsule")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def places(directory: Path, file: Path) -> Iterator[tuple[Path, str]]:
    """What is no file of a capsule, and what is said of it."""
    (directory / "link").symlink_to(file)
    os.mkfifo(directory / "pipe")
    (directory / "empty").touch()
    (directory / "text").write_text("Once upon a time there was a file that was no capsule.")
    yield directory / "link", "it is a symbolic link. Name the file that it leads to"
    yield directory / "pipe", "it is not an ordinary file"
    yield directory, "it is not an ordinary file"
    yield Path("/dev/null"), "it is not an ordinary file"
    yield directory / "nowhere", "No such file or directory"
    yield directory / "empty", "it is not a capsule"
    yield directory / "text", "it is not a capsule"
    yield file / "below", "Not a directory"
    yield directory / ("long" * 99), "File name too long"


def test_what_is_no_file_is_told_plainly(tmp_path: Path, good: Written) -> None:
    for path, told in places(tmp_path, good.path):
        for read in (codec.read_header, codec.verify, lambda path: codec.load(path, expected(good.state), Pool(64))):
            with pytest.raises(StateError) as caught:
                read(path)
            assert told in str(caught.value)
            assert str(path) in caught.value.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_told_plainly(tmp_path: Path, good: Written) -> None:
    path = tmp_path / "a.capsule"
    path.write_bytes(good.path.read_bytes())
    path.chmod(0)
    with pytest.raises(StateError, match="Permission denied"):
        codec.read_header(path)


def test_places_that_can_not_be_written_are_told_plainly(tmp_path: Path, good: Written) -> None:
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "nowhere" / "a.capsule", tmp_path / "directory", good.path / "below"):
        with pytest.raises(StateError, match="can't be written"):
            codec.save(good.capsule, path)
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]
    assert list((tmp_path / "directory").iterdir()) == []


def test_an_evicted_capsule_is_not_written(tmp_path: Path) -> None:
    capsule = taken(filled(5), Pool(1 << 20))
    capsule.evict()
    with pytest.raises(StateError, match="evicted"):
        codec.save(capsule, tmp_path / "a.capsule")
    assert list(tmp_path.iterdir()) == []


def test_a_big_endian_machine_is_refused(tmp_path: Path, good: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    for attempt in (
        lambda: codec.save(good.capsule, tmp_path / "a.capsule"),
        lambda: codec.read_header(good.path),
        lambda: codec.load(good.path, expected(good.state), Pool(1 << 20)),
    ):
        with pytest.raises(StateError, match="little-endian"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_every_damaged_file_is_refused_and_nothing_is_changed(good: Written, loader: Loader) -> None:
    data = good.path.read_bytes()
    found = fuzz.tally(fuzz.cases(data, seed=1, samples=150), loader.refuses)
    assert [case for kind in found for case in kind.let_through] == []
    assert len(found) > 35
    assert sum(kind.cases for kind in found) > 7000
    assert not loader.refuses(data)


def test_the_fuzzer_flips_every_byte_of_preamble_and_header(good: Written) -> None:
    data = good.path.read_bytes()
    places = {
        next(place for place, (ours, theirs) in enumerate(zip(data, case, strict=True)) if ours != theirs)
        for name, case in fuzz.cases(data, seed=1, samples=0)
        if name.startswith("flip in the header: ")
    }
    assert places == set(range(32 + len(fuzz.told_in(data))))


@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    first=st.floats(0, 1),
    length=st.integers(0, 9000),
    put=st.one_of(st.binary(max_size=64), st.integers(0, 9000)),
    place=st.floats(0, 1),
    over=st.booleans(),
    again=st.booleans(),
)
def test_any_splice_is_refused(
    good: Written, loader: Loader, first: float, length: int, put: bytes | int, place: float, over: bool, again: bool
) -> None:
    """A run of the file, or any bytes, put somewhere else or over something; the header's checksum made good or not."""
    data = good.path.read_bytes()
    start, to = int(first * len(data)), int(place * len(data))
    piece = put if isinstance(put, bytes) else data[start : start + length]
    changed = data[:to] + piece + data[to + (len(piece) if over else 0) :]
    if again:
        told = fuzz.told_in(data)
        to = int(place * len(told))
        piece = piece[: 1 + length % 40]
        changed = fuzz.sealed(told[:to] + piece + told[to + (len(piece) if over else 0) :], fuzz.File.of(data).payload)
    assert changed == data or loader.refuses(changed)


@pytest.fixture(scope="module")
def unchecked(good: Written) -> list[fuzz.Case]:
    """Cases that only one check each notices."""
    kinds = ("flip in the payload", "flip in the filling", "lost region", "foreign", "forged")
    made = fuzz.cases(good.path.read_bytes(), seed=1, samples=20)
    return [case for case in made if case[0].startswith(kinds)]


@pytest.mark.parametrize(
    ("module", "check", "instead", "unnoticed"),
    [
        (codec, "_require_checksum", lambda *_: None, {"flip in the payload", "lost region"}),
        (codec, "_read_zeros", lambda file, count: file.seek(count, os.SEEK_CUR), {"flip in the filling"}),
        (codec, "_read_tokens", lambda *_: [], {"forged journal", "forged lineage"}),
        (header, "check", lambda *_: None, {"foreign fingerprint"}),
    ],
)
def test_without_a_check_some_damage_is_not_noticed(
    unchecked: list[fuzz.Case],
    loader: Loader,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    check: str,
    instead: Callable[..., object],
    unnoticed: set[str],
) -> None:
    monkeypatch.setattr(module, check, instead)
    found = fuzz.tally(iter(unchecked), loader.refuses)
    assert {kind.kind for kind in found if kind.let_through} == unnoticed
