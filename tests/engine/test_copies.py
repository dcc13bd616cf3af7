"""Copies that are made beside decoding, and copies that fail."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch

from engine import capsule as capsules
from engine import copier, live
from engine.copier import SLICE_BYTES, BackgroundCopier, Copy
from engine.errors import LaneDead, StateError
from engine.lane import Lane
from engine.session import Engine
from engine.state import LaneState
from tests.engine import lanes
from tests.engine.lanes import CONTEXT, WARM, at, go_on, some_tokens


def numbers(count: int) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32)


def test_a_copy_goes_in_slices() -> None:
    source = numbers(3 * SLICE_BYTES // 4 + 5)
    target = torch.zeros_like(source)
    copy = Copy([(target, source), (few := torch.zeros(3), numbers(3))], 10, 20)
    assert copy.step()
    assert target.count_nonzero() == SLICE_BYTES // 4 - 1
    steps = 1
    while copy.step():
        steps += 1
    assert steps == 5
    assert copy.done
    assert torch.equal(target, source)
    assert few.tolist() == [0, 1, 2]
    assert not copy.step()


def test_no_slice_is_larger_than_it_should_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a region with one large row, as the state at the start of a chunk is."""
    sizes: list[int] = []

    def note(target: torch.Tensor, source: torch.Tensor) -> None:
        sizes.append(target.nbytes)
        target.copy_(source)

    monkeypatch.setattr(copier, "copy_bytes", note)
    source = numbers(SLICE_BYTES).view(1, 4, -1)
    target = torch.zeros_like(source)
    Copy([(target, source)], 10, 20).run()
    assert torch.equal(target, source)
    assert sizes == [SLICE_BYTES] * 4


def test_what_is_in_the_way_of_a_copy() -> None:
    copy = Copy([(torch.zeros(3), numbers(3))], position=10, lost_at=20)
    assert [copy.in_the_way_of(*span) for span in ((10, 15), (10, 20), (10, 21), (9, 10), (-1, 0))] == [
        *(False, False, True, True, True)
    ]
    copy.run()
    assert not copy.in_the_way_of(0, 99)


def test_a_copier_makes_what_somebody_needs() -> None:
    background = BackgroundCopier()
    wanted = [Copy([(torch.zeros(9), numbers(9))], 1, 2) for _ in range(20)]
    for copy in wanted:
        background.add(copy)
    background.close()
    assert all(copy.done for copy in wanted)


def test_a_copier_stops_once_nobody_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a capsule that was dropped comes back after the slice that is being copied, not after the last."""
    wanted = [Copy([(torch.zeros(9), numbers(9)) for _ in range(20)], 1, 2)]
    slices: list[int] = []

    def drop(target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)
        slices.append(len(target))
        if len(slices) == 3:
            wanted.clear()

    monkeypatch.setattr(copier, "copy_bytes", drop)
    copier._run(weakref.ref(wanted[0]))
    assert slices == [9, 9, 9]


def back_and_on(lane: Lane) -> None:
    lane.roll_back(lane.early)  # type: ignore[attr-defined]
    lane.append_now(some_tokens(30, seed=6))


def round_the_rings(lane: Lane) -> None:
    lane.append_now(some_tokens(lane.capacity - lane.position, seed=6))


def over_with_another(lane: Lane) -> None:
    other = at(lane._engine, 200, seed=2)
    other.fork(into=lane)


def back_and_draft(lane: Lane) -> None:
    lane.roll_back(lane.early)  # type: ignore[attr-defined]
    if lanes.has_drafts(lane):
        lane.draft_now(8)
    else:
        lane.append_now(some_tokens(8, seed=6))


OVERWRITING: dict[str, Callable[[Lane], None]] = {
    "going back and on": back_and_on,
    "going round the rings": round_the_rings,
    "restoring": lambda lane: lane.restore(at(lane._engine, 200, seed=2).snapshot()),
    "forking into it": over_with_another,
    "clearing": lambda lane: (lane.clear(), lane.append_now(some_tokens(CONTEXT, seed=6)))[0],
    "reading it again": lambda lane: (at(lane._engine, 90, seed=2).fork(into=lane), lane.rebuild())[1],
    "drafting below it": back_and_draft,
}


@pytest.mark.parametrize("act", OVERWRITING)
def test_a_pending_copy_is_made_before_its_source_changes(
    engine: Engine, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same without that: the copy is another."""
    if act == "going round the rings" and engine.spec.delta is None:
        pytest.skip("nothing of a dense model lies in a ring")
    for fenced in (True, False):
        lane = at(engine, 80)
        lane.early = lane.mark()  # type: ignore[attr-defined]
        lane.append_now(some_tokens(20))
        capsule, digest = lane.snapshot(), lane.digest()
        assert not capsule.ready
        if not fenced:
            monkeypatch.setattr(live.LiveSet, "finish_copies", lambda *_: None)
        OVERWRITING[act](lane)
        assert capsule.ready == fenced
        assert (capsule.digest() == digest) == fenced


@pytest.mark.parametrize("slices", [0, 1, 3])
def test_decoding_goes_on_beside_a_copy(engine: Engine, slices: int) -> None:
    """Token by token, with some slices of the copy between them: nobody waits, and nothing is another."""
    lane, alone = at(engine, 100), at(engine, 100)
    capsule, digest = lane.snapshot(), lane.digest()
    for _ in range(40):
        lane.generate_now(WARM, 1, stop_ids=())
        alone.generate_now(WARM, 1, stop_ids=())
        for _ in range(slices):
            capsule.copies[0].step()
    assert capsule.ready == (slices > 0)
    assert lane.digest() == alone.digest()
    assert capsule.digest() == digest


def test_the_thread_copies_while_others_read(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots at every few tokens of a text, filled by the thread and by those who cannot wait."""
    thread = BackgroundCopier()
    monkeypatch.setattr(engine, "copier", thread)
    lane, straight = engine.lane(), engine.lane()
    kept = []
    for _ in range(2):
        lane.clear()
        for _ in range(40):
            lane.append_now(some_tokens(9))
            kept.append((lane.snapshot(), lane.digest()))
            kept.append((lane.snapshot(kept[-1][0]), lane.digest()))
    straight.append_now(some_tokens(9) * 40)
    assert lane.digest() == straight.digest()
    for capsule, digest in kept[::3]:
        lane.restore(capsule)
        assert lane.digest() == capsule.digest() == digest
    thread.close()


def test_a_capsule_that_nobody_wants_is_not_copied(engine: Engine) -> None:
    lane = at(engine, 100)
    capsule = lane.snapshot()
    assert engine.pool.usage().used_bytes > 0
    del capsule
    assert engine.pool.usage().used_bytes == 0
    assert not list(lane._live._copies)


class Broken:
    """Lets some copies through, then fails."""

    def __init__(self, good: int) -> None:
        self.left = good

    def __call__(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the memory is gone")
        target.copy_(source)


@pytest.fixture(params=["restore", "fork"])
def verb(request: pytest.FixtureRequest) -> str:
    return request.param


def copies_of(engine: Engine) -> int:
    """How many copies a restore at 100 makes."""
    return len(capsules.plan_restore(engine.new_state(), engine.fingerprint, at(engine, 100).snapshot()))


def test_a_copy_that_fails_costs_time_and_nothing_else(
    engine: Engine, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever it is, the lane goes on as if nothing had been asked of it."""
    capsule, other = at(engine, 100).snapshot(), at(engine, 100)
    capsule.wait()
    before = at(engine, 70, seed=2).snapshot()
    text, digest = go_on(engine.lane(before)), before.digest()
    for good in range(copies_of(engine)):
        lane = engine.lane(before)
        known, here = lane.snapshot(), lane.mark()
        with monkeypatch.context() as patched:
            patched.setattr(live, "copy_bytes", Broken(good))
            with pytest.raises(LaneDead, match="the memory is gone"):
                lane.restore(capsule) if verb == "restore" else other.fork(into=lane)
        assert lane.dead
        assert (lane.position, lane.seed) == (70, 2)
        for refused in (lane.snapshot, lane.mark, lane.digest, lane.fork, partial(lane.roll_back, here)):
            with pytest.raises(LaneDead, match="its state is lost"):
                refused()
        rebuilds = engine.counters.rebuilds
        lane.rebuild()
        assert not lane.dead
        assert engine.counters.rebuilds == rebuilds + 1
        assert lane.digest() == digest == known.digest()
        with pytest.raises(StateError, match="overwritten"):
            lane.roll_back(here)
    assert go_on(lane) == text


@pytest.mark.parametrize("error", [RuntimeError("the memory is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_rollback_is_whole_or_the_lane_is_made_again(
    engine: Engine, good: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It copies two things: the last row and the counters. Here it is stopped before each, and after both."""
    lane, there = at(engine, 70), at(engine, 70)
    here, before = lane.mark(), lane.digest()
    for one in (lane, there):
        one.append_now(some_tokens(9))
    left = iter(range(good))

    def fail(target: torch.Tensor, source: torch.Tensor) -> None:
        if next(left, None) is None:
            raise error
        target.copy_(source)
        if good == 2 and target.dtype == torch.int64:
            raise error

    with monkeypatch.context() as patched:
        patched.setattr(live, "copy_bytes", fail)
        with pytest.raises((LaneDead, KeyboardInterrupt)):
            lane.roll_back(here)
    assert lane.dead
    lane.rebuild()
    assert lane.digest() == (before if good == 2 else there.digest())


@pytest.mark.parametrize("verb", ["restore", "clear"])
def test_an_interrupt_leaves_a_dead_lane_and_not_a_torn_one(
    engine: Engine, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, capsule = at(engine, 70), at(engine, 90, seed=2).snapshot()
    capsule.wait()
    digest, empty = lane.digest(), engine.lane(seed=1).digest()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(live, "copy_bytes", interrupt)
        patched.setattr(LaneState, "rewind", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lane.restore(capsule) if verb == "restore" else lane.clear()
    assert lane.dead
    lane.rebuild()
    assert lane.digest() == (digest if verb == "restore" else empty)


def test_a_copy_that_was_interrupted_is_not_gone_on_with(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for it is told at once, and everybody who would read it later as well."""
    capsule = at(engine, 100).snapshot()
    left = iter(range(2))

    def interrupt(target: torch.Tensor, source: torch.Tensor) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        target.copy_(source)

    with monkeypatch.context() as patched:
        patched.setattr(copier, "copy_bytes", interrupt)
        with pytest.raises(KeyboardInterrupt):
            capsule.wait()
    with pytest.raises(StateError, match="was never filled: KeyboardInterrupt"):
        capsule.digest()


def test_a_failed_copy_holds_no_memory(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    capsule = at(engine, 100).snapshot()
    copy = capsule.copies[0]
    with monkeypatch.context() as patched:
        patched.setattr(copier, "copy_bytes", Broken(1))
        copy.run()
    assert copy.error is not None
    capsule.evict()
    assert engine.pool.usage().used_bytes == 0


def test_whoever_has_a_capsule_s_bytes_keeps_them(engine: Engine) -> None:
    """Evicted while it is read: the reader has all of it or is refused, and memory comes back after him."""
    capsule = at(engine, 100).snapshot()
    held = capsule.wait()
    first, held_bytes = held["kv"][0].memory.clone(), engine.pool.usage().used_bytes
    capsule.evict()
    at(engine, 100, seed=2).snapshot().wait()
    assert torch.equal(held["kv"][0].memory, first)
    assert engine.pool.usage().used_bytes == held_bytes
    del held
    assert engine.pool.usage().used_bytes == 0


def dead_lane(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Lane:
    """A lane at 70 whose restore failed after one copy."""
    lane, capsule = at(engine, 70), at(engine, 200, seed=2).snapshot()
    capsule.wait()
    with monkeypatch.context() as patched:
        patched.setattr(live, "copy_bytes", Broken(1))
        with pytest.raises(LaneDead):
            lane.restore(capsule)
    return lane


def test_a_dead_lane_comes_back_by_itself(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = at(engine, 70)
    text = whole.fork().generate_now(WARM, 20, stop_ids=())
    assert dead_lane(engine, monkeypatch).generate_now(WARM, 20, stop_ids=()) == text
    lane = dead_lane(engine, monkeypatch)
    lane.append_now([])
    assert lane.digest() == whole.digest()


def test_a_dead_lane_can_be_given_another_state(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    capsule, fresh = at(engine, 90).snapshot(), engine.lane(seed=1)
    lane = dead_lane(engine, monkeypatch)
    lane.restore(capsule)
    assert lane.digest() == capsule.digest()
    lane = dead_lane(engine, monkeypatch)
    lane.clear()
    assert lane.digest() == fresh.digest()


def test_coming_back_can_be_cancelled(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, digest = dead_lane(engine, monkeypatch), at(engine, 70).digest()

    async def cancel() -> None:
        task = asyncio.create_task(lane.append([]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert lane.position == 70
    lane.rebuild()
    assert lane.digest() == digest


@pytest.mark.parametrize("good", [0, 1, 2])
def test_a_capsule_that_could_not_be_filled_is_refused(
    engine: Engine, good: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, untouched = at(engine, 100), at(engine, 100)
    capsule = lane.snapshot()
    lane.append_now(some_tokens(3))
    untouched.append_now(some_tokens(3))
    child = lane.snapshot(capsule)
    with monkeypatch.context() as patched:
        patched.setattr(copier, "copy_bytes", Broken(good))
        capsule.copies[0].run()
    for broken in (capsule, child):
        with pytest.raises(StateError, match=r"was never filled: .*the memory is gone"):
            lane.restore(broken)
    lane.append_now(some_tokens(200))
    untouched.append_now(some_tokens(200))
    assert lane.digest() == untouched.digest()
