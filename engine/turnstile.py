"""A lock that is given in turn."""

from __future__ import annotations

import threading


class Turnstile:
    """Whoever waits for it gets it before somebody who just had it and wants it again.

    A plain lock would be taken back at once by a thread that reads a long text, and released between two calls of the
    model only as long as it takes to look at the clock: who wants to stop that text would wait until its end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = threading.Lock()
        """Held by the one who is next."""

    def __enter__(self) -> None:
        with self._next:
            self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()
