"""The unit of microphone sound, and the two rates everything is counted in."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono sound, -1..1."""

MIC_HZ = 16_000
SPEAKER_HZ = 48_000
BLOCK_MS = 20
FRAME_SAMPLES = MIC_HZ * BLOCK_MS // 1000


class Frame(NamedTuple):
    """20 ms of microphone sound."""

    samples: Samples
    """float32[320] at 16 kHz."""
    first_sample: int
    """Index at 16 kHz since the card was opened; a gap between frames is lost sound."""
