"""Virtual time: order, exactness, and what it refuses."""

from __future__ import annotations

import asyncio

import pytest

from app.replay.virtual import Deadlock, VirtualClock, run


def test_an_hour_takes_no_time_and_ends_exactly() -> None:
    async def main() -> float:
        clock = VirtualClock()
        for step in range(1, 36_001):
            await clock.sleep_until(step / 10)
        return clock.now_s()

    assert run(main()) == 3600.0


def test_timers_of_one_instant_fire_in_the_order_they_were_set() -> None:
    async def main() -> list[int]:
        loop, fired = asyncio.get_running_loop(), list[int]()
        for number in range(200):
            loop.call_at(1.0 + (number % 2) * 1e-12, fired.append, number)
        await asyncio.sleep(1.1)
        return fired

    assert run(main()) == list(range(200))


def test_a_cancelled_timer_neither_fires_nor_moves_the_clock() -> None:
    async def main() -> tuple[list[str], float]:
        loop, fired = asyncio.get_running_loop(), list[str]()
        loop.call_later(5, fired.append, "late").cancel()
        both = [loop.call_later(1, fired.append, "first"), loop.call_later(1, fired.append, "second")]
        loop.call_at(1, both[1].cancel)
        await asyncio.sleep(2)
        return fired, loop.time()

    # The second was due before its cancellation was, at the same instant.
    assert run(main()) == (["first", "second"], 2.0)


def test_timeouts_work() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await asyncio.Event().wait()
        return VirtualClock().now_s()

    assert run(main()) == 0.25


def test_waiting_for_nothing_is_told_and_not_waited_for() -> None:
    with pytest.raises(Deadlock, match="no timer"):
        run(asyncio.Event().wait())


def test_worker_threads_are_refused() -> None:
    with pytest.raises(RuntimeError, match="worker thread"):
        run(asyncio.to_thread(int))
