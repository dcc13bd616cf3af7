"""The root of all events."""

from __future__ import annotations

import msgspec


class Fact(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The root of all events.

    Attributes:
        t_s: When the event entered the log, s on the session clock. Stamped by the session, so 0 until then.
    """

    t_s: float = 0.0
