"""Steps that somebody stops, and states moved under them: what was asked for before does nothing, and no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
import pytest
import torch

from engine import live
from engine.errors import LaneDead, StateError
from engine.lane import Lane, in_inference
from engine.session import Engine
from engine.state import LaneState
from engine.turnstile import Turnstile
from tests.engine.lanes import WARM, at, some_tokens

TEXT = some_tokens(300, seed=5)


def wait_for_a_queue(lock: Turnstile) -> None:
    """Return once somebody waits for a lock that is taken."""
    while not lock._next.locked():
        pass


def test_a_lock_is_given_in_turn() -> None:
    """A thread that lets go of it and takes it back does not pass by one that waited."""
    lock, taken = Turnstile(), threading.Event()
    order: list[str] = []

    def read_on() -> None:
        for _ in range(3):
            with lock:
                order.append("reader")
                if not taken.is_set():
                    taken.set()
                    wait_for_a_queue(lock)

    reader = threading.Thread(target=read_on)
    reader.start()
    taken.wait()
    with lock:
        order.append("other")
    reader.join()
    assert order == ["reader", "other", "reader", "reader"]


class Reading:
    """A text that is being read in the worker thread, stopped in its second call until somebody waits for the lock."""

    def __init__(self, engine: Engine, lane: Lane, patch: pytest.MonkeyPatch) -> None:
        self._inside, self._calls, forward = threading.Event(), 0, engine.model.forward

        def stop(state: LaneState, tokens: Sequence[int]) -> None:
            self._calls += 1
            if self._calls == 2:
                self._inside.set()
                wait_for_a_queue(engine.lock)
            forward(state, tokens)

        patch.setattr(engine.model, "forward", stop)
        self._thread = threading.Thread(target=lane.append_now, args=(TEXT,))
        self._thread.start()
        self._inside.wait()

    def end(self) -> None:
        """Wait until no more is read."""
        self._thread.join()


def straight(engine: Engine, tokens: Sequence[int]) -> str:
    """The digest of a state that has read a text at once."""
    lane = engine.lane(seed=1)
    lane.append_now(tokens)
    return lane.digest()


def fail(*_: object) -> None:
    raise RuntimeError("the memory is gone")


def test_a_refused_restore_does_not_stop_an_append(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, evicted = at(engine, 20), at(engine, 30).snapshot()
    evicted.evict()
    wanted = straight(engine, lane.journal + TEXT)
    reading = Reading(engine, lane, monkeypatch)
    with pytest.raises(StateError, match="evicted"):
        lane.restore(evicted)
    reading.end()
    assert lane.digest() == wanted


def test_a_restore_stops_an_append_after_the_call_it_is_in(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    lane, capsule = at(engine, 20), at(engine, 30, seed=2).snapshot()
    digest = capsule.digest()
    reading = Reading(engine, lane, monkeypatch)
    lane.restore(capsule)
    reading.end()
    assert lane.digest() == digest


def test_a_restore_that_fails_during_an_append_keeps_what_was_read(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane, capsule = at(engine, 20), at(engine, 30, seed=2).snapshot()
    capsule.wait()
    before, room = lane.journal, engine.model.room
    with monkeypatch.context() as patched:
        patched.setattr(live, "copy_bytes", fail)
        reading = Reading(engine, lane, patched)
        with pytest.raises(LaneDead, match="the memory is gone"):
            lane.restore(capsule)
        reading.end()
    assert lane.dead
    read = room(20) + room(20 + room(20))
    assert lane.journal == before + TEXT[:read]
    wanted = straight(engine, [*lane.journal, 1])
    asyncio.run(lane.append([1]))
    assert (lane.dead, lane.digest()) == (False, wanted)


@pytest.mark.parametrize("act", [Lane.snapshot, Lane.mark, Lane.fork, lambda lane: lane.journal])
def test_who_only_looks_does_not_stop_an_append(
    engine: Engine, act: Callable[[Lane], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = at(engine, 20)
    wanted = straight(engine, lane.journal + TEXT)
    reading = Reading(engine, lane, monkeypatch)
    act(lane)
    reading.end()
    assert lane.digest() == wanted


async def begun(engine: Engine, tokens: AsyncGenerator[int, None]) -> asyncio.Future[int]:
    """A step that waits for the lock, which the caller holds."""
    step = asyncio.ensure_future(anext(tokens))
    await asyncio.to_thread(wait_for_a_queue, engine.lock)
    return step


def test_a_step_that_was_cancelled_before_it_began_does_nothing(engine: Engine) -> None:
    """So whoever looks at the state after that sees what it stays."""
    lane = at(engine, 20)
    lane.generate_now(WARM, 1, stop_ids=())
    before = lane.digest()

    async def cancel() -> None:
        tokens = lane.generate(WARM, 20, stop_ids=())
        await anext(tokens)
        with engine.lock:
            step = await begun(engine, tokens)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
        engine.run(int)

    asyncio.run(cancel())
    assert lane.digest() == before


def test_a_step_that_is_cancelled_late_does_not_stop_what_came_after_it(engine: Engine) -> None:
    lane = at(engine, 20)
    wanted = straight(engine, lane.journal + TEXT)

    async def cancel() -> None:
        with engine.lock:
            late = await begun(engine, lane.generate(WARM, 20, stop_ids=()))
            reading = asyncio.ensure_future(lane.append(TEXT))
            await asyncio.sleep(0)
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
        await reading

    asyncio.run(cancel())
    assert lane.digest() == wanted


def test_an_interrupted_caller_leaves_nobody_reading(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while `append_now` waits: the worker thread stops within one call, too."""
    lane, run = at(engine, 20), engine.run

    def interrupt(job: Callable[..., object], *arguments: object) -> None:
        with engine.lock:
            engine.worker.submit(in_inference, job, *arguments)
            wait_for_a_queue(engine.lock)
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(engine, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lane.append_now(TEXT)
    run(int)
    assert lane.position in (20, 20 + engine.model.room(20))
    assert lane.digest() == straight(engine, lane.journal)


def test_tokens_are_numbers_and_the_lane_s_own(engine: Engine) -> None:
    wanted = straight(engine, TEXT)
    lane = engine.lane(seed=1)
    lane.append_now(np.array(TEXT))  # type: ignore[arg-type]  # numpy's integers are no ints
    assert lane.digest() == wanted
    for wrong in ([1.5], ["1"], [None]):
        with pytest.raises(TypeError):
            lane.append_now(wrong)  # type: ignore[arg-type]  # the refusal is the test
    assert lane.digest() == wanted
    lane.journal.clear()
    assert lane.digest() == wanted

    async def change_them_meanwhile() -> None:
        tokens = list(TEXT)
        reading = asyncio.ensure_future(lane.append(tokens))
        await asyncio.sleep(0)
        tokens[:] = []
        await reading

    lane.clear()
    asyncio.run(change_them_meanwhile())
    assert lane.digest() == wanted


def test_no_tokens_have_no_scores(engine: Engine) -> None:
    assert at(engine, 20).score_now([]).shape == torch.Size([0, engine.spec.vocabulary])


@pytest.mark.parametrize("seed", [-1, 1 << 63])
def test_a_seed_that_fits_no_state_is_refused(engine: Engine, seed: int) -> None:
    with pytest.raises(ValueError, match="is not in 0"):
        engine.lane(seed=seed)
