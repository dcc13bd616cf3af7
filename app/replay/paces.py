"""How long things take on virtual time, how irregularly, and how often they go wrong."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import numpy as np


class Faults(NamedTuple):
    """How often scripted parts fail their users. Shares are 0..1."""

    slow: float = 0.0
    """Share of what a part is asked for that takes longer, by up to"""
    slow_s: float = 3.0
    unheard: float = 0.0
    """Share of partial transcripts that never come."""
    failing: float = 0.0
    """Share of replies that break off with an error."""
    unread: float = 0.0
    """Share of the user's turns that the model can't read."""


NO_FAULTS = Faults()


class Times(NamedTuple):
    """How long things take, s; near what the real parts take on two cores."""

    user_word: float = 0.33
    onset_late: float = 0.048
    """Voice activity tells of speech so long after it began,"""
    onset_error: float = 0.016
    """and places its beginning so long after the true one."""
    offset_late: float = 0.080
    offset_error: float = 0.032
    half_tail: float = 0.25
    """In mode half the microphone stays shut so long after the loudspeaker has fallen silent."""
    partial: float = 0.15
    final: float = 0.12
    read_word: float = 0.004
    first_token: float = 0.03
    token: float = 0.02
    rollback: float = 0.0002
    synthesis: float = 0.06
    synthesis_word: float = 0.01
    spoken_word: float = 0.30
    clause_pause: float = 0.12
    device: float = 0.04
    block: float = 0.02
    faults: Faults = NO_FAULTS


class Jitter:
    """Lateness and accidents drawn from a seed.

    Args:
        seed: The same one draws the same.
        share: Each time is stretched by up to this share of itself. 0 draws nothing.
        faults: How often something goes wrong.
    """

    def __init__(self, seed: int, share: float, faults: Faults = NO_FAULTS) -> None:
        self._random = np.random.default_rng(seed)
        self._share = share
        self.faults = faults

    def __call__(self, seconds: float) -> float:
        """`seconds`, stretched, in whole microseconds."""
        if self._share == 0:
            return seconds
        return round(seconds * (1 + self._share * float(self._random.random())), 6)

    def happens(self, share: float) -> bool:
        """Whether something that happens in this share of all cases does."""
        return share > 0 and float(self._random.random()) < share

    async def take(self, seconds: float) -> float:
        """Let the time of a piece of work pass.

        Returns:
            How long it took, s.
        """
        took_s = self(seconds)
        if self.happens(self.faults.slow):
            took_s = round(took_s + self.faults.slow_s * float(self._random.random()), 6)
        await asyncio.sleep(took_s)
        return took_s
