"""Session time. Together with audio/ the only code that reads a real clock."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime


class WallClock:
    """Seconds since it was made, on the monotonic clock that PortAudio's stream times are mapped to."""

    def __init__(self) -> None:
        self._zero_s = time.monotonic()

    @property
    def zero_s(self) -> float:
        """`time.monotonic()` at session time 0."""
        return self._zero_s

    def now_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self._zero_s

    def stamp(self) -> str:
        """The time of day as a file name, to the second: 2026-11-23T14-02-31."""
        return datetime.now().astimezone().strftime("%Y-%m-%dT%H-%M-%S")

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`, as near as the event loop can; at once if it has passed."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))
