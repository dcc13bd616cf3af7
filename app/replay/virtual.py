"""Time that nobody waits for: an asyncio event loop whose clock jumps to the next timer as soon as all tasks wait.

Time is a whole number of nanoseconds, and timers of the same instant fire in the order they were set, so the same
program gives the same log, byte for byte. A worker thread would let time run past every timer while it works: there
are none.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits, and there is no timer that could wake one."""


class _JumpingSelector(selectors.SelectSelector):
    """Where a real loop would sleep, the clock jumps instead. There is no input or output on virtual time."""

    def __init__(self, jump: Callable[[], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            self._jump()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time, which starts at 0."""

    def __init__(self) -> None:
        self._now_ns = 0
        self._set = 0
        self._timers: list[tuple[int, int, asyncio.TimerHandle, Callable[[], object]]] = []
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now_ns / 1e9

    def call_at(  # pyright: ignore[reportIncompatibleMethodOverride]  # typeshed ties args to the callback's own; Any takes all
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback` once the clock has reached `when`, after all timers set before for the same instant."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)

        def fire() -> None:
            if not handle.cancelled():
                self.call_soon(callback, *args, context=context)

        self._set += 1
        heapq.heappush(self._timers, (max(self._now_ns, round(when * 1e9)), self._set, handle, fire))
        return handle

    def call_later(  # pyright: ignore[reportIncompatibleMethodOverride]  # as call_at
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Run `callback` after `delay` virtual seconds."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]  # never returns
        """Refused."""
        raise RuntimeError("a worker thread has no place on virtual time: parts must be coroutines")

    def _jump(self) -> None:
        while self._timers and self._timers[0][2].cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise Deadlock("every task waits for another, and no timer is set")
        self._now_ns = self._timers[0][0]
        while self._timers and self._timers[0][0] == self._now_ns:
            heapq.heappop(self._timers)[3]()


class VirtualClock:
    """Session time on the running virtual loop. Satisfies `app.ports.Clock`."""

    def now_s(self) -> float:
        """Virtual seconds since the loop was made."""
        return asyncio.get_running_loop().time()

    async def sleep_until(self, at_s: float) -> None:
        """Return once `now_s() >= at_s`; others that are ready run first."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end on virtual time.

    Raises:
        Deadlock: It would never end.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
