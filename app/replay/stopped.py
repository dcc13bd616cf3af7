"""Time that stands still while the models compute: virtual time for the real parts.

What is handed to a worker runs on it, to its end, before anything else happens. Its result then arrives at once, or,
measured, after as much virtual time as the work really took; other timers fire meanwhile, and a worker that is busy
makes the next job wait. So a dialogue runs as fast as its models allow, and at no cost its log is the same each time,
byte for byte. Work that is done on the event loop itself (voice activity, echo, capsules) costs nothing either way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from app.clock import WallClock
from app.replay.virtual import VirtualLoop

T = TypeVar("T")
Compute = Literal["free", "measured"]
"""What computing costs on the clock: nothing, or what it really took."""


class StoppedLoop(VirtualLoop):
    """A virtual loop with worker threads.

    Args:
        compute: What their work costs.
    """

    def __init__(self, compute: Compute = "free") -> None:
        super().__init__()
        self._watch = WallClock() if compute == "measured" else None
        self._free_at_s: WeakKeyDictionary[Executor, list[float]] = WeakKeyDictionary()
        """When each thread of an executor will have done what it was given."""

    def run_in_executor(  # pyright: ignore[reportIncompatibleMethodOverride]  # typeshed ties args to the callback's own
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run `func` on the executor, or here if it is None, and let the result arrive when its time has come."""
        arrival: asyncio.Future[T] = self.create_future()
        since_s = self._watch.now_s() if self._watch else 0.0
        try:
            result = func(*args) if executor is None else executor.submit(func, *args).result()
            deliver = partial(arrival.set_result, result)
        except Exception as error:
            deliver = partial(arrival.set_exception, error)

        def arrive() -> None:
            if not arrival.cancelled():
                deliver()

        if self._watch:
            self.call_at(self._done_at_s(executor, self._watch.now_s() - since_s), arrive)
        else:
            self.call_soon(arrive)
        return arrival

    def _done_at_s(self, executor: Executor | None, took_s: float) -> float:
        """When work is done that is given to an executor now."""
        if executor is None:
            return self.time() + took_s
        threads: int = getattr(executor, "_max_workers", 1)  # the standard library tells it nowhere else
        free_at_s = self._free_at_s.setdefault(executor, [0.0] * threads)
        first = free_at_s.index(min(free_at_s))
        free_at_s[first] = max(self.time(), free_at_s[first]) + took_s
        return free_at_s[first]


def run(main: Coroutine[Any, Any, T], compute: Compute = "free") -> T:
    """Run a coroutine to its end on time that stands still while workers compute.

    Raises:
        Deadlock: It would never end.
    """
    with asyncio.Runner(loop_factory=lambda: StoppedLoop(compute)) as runner:
        return runner.run(main)
