"""What an echo canceller achieves, told from the sound itself: ERLE, delay, and echo that still looks like speech."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from audio.frame import FRAME_SAMPLES, MIC_HZ, Samples

_BLOCK_FRAMES = 5
_PLAYBACK_BLOCKS = 5 * MIC_HZ // (_BLOCK_FRAMES * FRAME_SAMPLES)
_LEAST_BLOCKS = 10  # of 100 ms, without the user: fewer tell nothing
_AUDIBLE_POWER = 10 ** (-50 / 10)
_EXPLAINED = 0.5
_DELAY_SAMPLES = 1 << 15


class EchoMeasure(NamedTuple):
    """What the newest 5 s of playback told."""

    erle_db: float
    """Echo return loss enhancement: how much weaker the echo became."""
    delay_s: float
    """From the reference to the strongest sound of its echo."""
    residual_share: float
    """Share of the playback in which what was left of the echo looked like speech, 0..1."""


class _Block(NamedTuple):
    """100 ms of playback."""

    near_power: float
    left_power: float
    speech: bool
    explained: float
    """Share of the microphone's power that the estimated echo explains, 0..1."""


class EchoMeter:
    """Measures while the loudspeaker sounds, as far as the user is silent.

    The user and what is left of the echo both look like speech. It is the user's if the echo that the gentle canceller
    took away explains less than half of what the microphone heard.
    """

    def __init__(self) -> None:
        self._near = np.zeros(_DELAY_SAMPLES, np.float32)
        self._far = np.zeros(_DELAY_SAMPLES, np.float32)
        self._block: list[tuple[Samples, Samples, Samples, bool]] = []
        self._blocks: list[_Block] = []

    def reset(self) -> None:
        """What comes next has nothing to do with what came before."""
        self._block.clear()
        self._blocks.clear()

    def add(self, near: Samples, far: Samples, left: Samples, echo: Samples, *, speech: bool) -> EchoMeasure | None:
        """Take a frame of each, float32[320].

        Args:
            near: The microphone.
            far: The reference.
            left: What the canceller left.
            echo: The echo as the gentle canceller estimates it.
            speech: Whether what is left looks like speech.

        Returns:
            A measure at the end of 5 s of playback, if the user was silent for some of it.
        """
        if float(np.dot(far, far)) < _AUDIBLE_POWER * far.size:
            return None
        for row, sound in ((self._near, near), (self._far, far)):
            row[:-FRAME_SAMPLES] = row[FRAME_SAMPLES:]
            row[-FRAME_SAMPLES:] = sound
        self._block.append((near, left, echo, speech))
        if len(self._block) < _BLOCK_FRAMES:
            return None
        self._blocks.append(_block(self._block))
        self._block.clear()
        if len(self._blocks) < _PLAYBACK_BLOCKS:
            return None
        measured = self._measure()
        self._blocks.clear()
        return measured

    def _measure(self) -> EchoMeasure | None:
        user = [block.speech and block.explained < _EXPLAINED for block in self._blocks]
        # A neighbour of the user's speech may hold its faint beginning or end.
        alone = [block for place, block in enumerate(self._blocks) if not any(user[max(0, place - 1) : place + 2])]
        if len(alone) < _LEAST_BLOCKS:
            return None
        before, after = (sum(power) for power in list(zip(*alone, strict=True))[:2])
        erle_db = 10 * math.log10((before + 1e-12) / (after + 1e-12))
        return EchoMeasure(erle_db, delay_s(self._near, self._far), sum(block.speech for block in alone) / len(alone))


def delay_s(near: Samples, far: Samples) -> float:
    """How much later the echo comes than its reference: the peak of their generalised cross-correlation, s.

    The phases alone decide (Knapp and Carter 1976, PHAT), else the pitch of a voice would. Of two sounds that have
    nothing in common the result means nothing.
    """
    size = 2 * near.size
    cross = np.fft.rfft(near, size) * np.conj(np.fft.rfft(far, size))
    correlation = np.fft.irfft(cross / (np.abs(cross) + 1e-6), size)[: near.size]
    return int(np.argmax(correlation)) / MIC_HZ


def _block(frames: list[tuple[Samples, Samples, Samples, bool]]) -> _Block:
    near, left, echo = (np.concatenate(sounds) for sounds in list(zip(*frames, strict=True))[:3])
    near_power, echo_power = float(np.dot(near, near)), float(np.dot(echo, echo))
    explained = float(np.dot(near, echo)) ** 2 / (near_power * echo_power + 1e-12)
    return _Block(near_power, float(np.dot(left, left)), any(frame[3] for frame in frames), explained)
