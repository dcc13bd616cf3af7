"""What the conversation may hear of the microphone, by mode: without the echo, or nothing while there would be one."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from app.decisions import Mode
from app.sound_ports import EchoCanceller, Samples
from audio.echo_meter import EchoMeasure, EchoMeter
from audio.echo_notice import EchoNotice
from audio.frame import BLOCK_MS, FRAME_SAMPLES
from audio.reference import AHEAD_S

_TRUST_UP, _TRUST_DOWN = 1 / 150, 1 / 75  # a frame: a canceller needs some seconds to follow without leaking
_AUDIBLE_POWER = 10 ** (-50 / 10)
_WORKS = 10.0  # power that the gentle canceller takes away when nobody talks over the echo and it knows the room
_SOUNDS = 10 ** (-60 / 20)  # peak: what a voice holds between its words is fainter
# The room goes on sounding for 250 ms, and the reference ends before the sound does.
_TAIL_FRAMES = math.ceil((250 + 1000 * AHEAD_S) / BLOCK_MS)


class Guarded(NamedTuple):
    """A frame of the microphone, float32[320] twice."""

    heard: Samples
    """What decides whether the user speaks."""
    kept: Samples
    """What the recogniser reads."""
    rise_db: float | None = None
    """Told when an echo is noticed or no longer there: by how much it raised the microphone; 0: there is none."""


class EchoGuard:
    """Frames in order, each with what the loudspeaker plays.

    Two cancellers, because the one that is safe against hearing the assistant itself takes words away from a user who
    talks over it (`python -m tests.bench.echo_words`). Before the gentle one has learned the room the other works on
    the microphone, and then on what the gentle one left: there is so little echo in it that the user gets through, who
    else is lost under an echo that is louder (`backtalk bench echo`). Both run on in silence: they stay ready for what
    comes next. But only while there is an echo does anybody read them: without one they would take the user's words.

    Args:
        canceller: Decides whether the user speaks; None: the microphone does.
        gentle: What the recogniser reads; None: the microphone.
    """

    def __init__(self, canceller: EchoCanceller | None, gentle: EchoCanceller | None) -> None:
        self._canceller, self._gentle = canceller, gentle
        self._mode: Mode = "duplex"
        self._meter = EchoMeter()
        self._notice = EchoNotice()
        self._measure: EchoMeasure | None = None
        self._frames_since_sound = _TAIL_FRAMES
        self._trust = 0.0
        """In the gentle canceller, 0..1."""

    def set_mode(self, mode: Mode) -> None:
        """From the next frame on."""
        self._mode = mode
        self.reset()

    def reset(self) -> None:
        """Sound was lost, or nobody listened: learn the echo afresh."""
        for canceller in (self._canceller, self._gentle):
            if canceller is not None:
                canceller.reset()
        self._meter.reset()
        self._notice = EchoNotice()
        self._measure = None
        self._trust = 0.0

    def process(self, near: Samples, far: Samples, *, key_down: bool, speech: bool) -> Guarded:
        """Take float32[320] of the microphone, and of the loudspeaker not later than its echo.

        Args:
            near: The microphone.
            far: The loudspeaker.
            key_down: In mode ptt the microphone is open.
            speech: What was heard last looked like speech; for the meter.
        """
        sounds = float(np.abs(far).max()) > _SOUNDS
        self._frames_since_sound = 0 if sounds else self._frames_since_sound + 1
        if self._mode == "headset":
            return Guarded(near, near)
        if self._mode == "half":
            return _SHUT if self._frames_since_sound < _TAIL_FRAMES else Guarded(near, near)
        kept = near if self._gentle is None else self._gentle.process(near, far)
        if self._mode == "ptt":
            return Guarded(kept, kept) if key_down else _SHUT
        heard = near if self._canceller is None else self._canceller.process(self._trusted(near, kept, far), far)
        echo = near - kept
        rise_db = self._notice.add(near, far, echo)
        if not self._notice.present:
            return Guarded(near, near, rise_db)  # where there is no echo, the canceller takes the user for one
        self._measure = self._meter.add(near, far, heard, echo, speech=speech) or self._measure
        return Guarded(heard, kept, rise_db)

    def _trusted(self, near: Samples, kept: Samples, far: Samples) -> Samples:
        """The microphone without as much of the echo as the gentle canceller has earned trust for."""
        if float(np.dot(far, far)) > _AUDIBLE_POWER * far.size:
            before, after = float(np.dot(near, near)), float(np.dot(kept, kept))
            if before > _WORKS * after:
                self._trust = min(1.0, self._trust + _TRUST_UP)
            elif before < after:
                self._trust = max(0.0, self._trust - _TRUST_DOWN)
        return (near + self._trust * (kept - near)).astype(np.float32)

    def take_measure(self) -> EchoMeasure | None:
        """What the canceller achieved in the newest stretch of playback, once; only mode duplex has one."""
        measure, self._measure = self._measure, None
        return measure


_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
_SILENCE.flags.writeable = False
_SHUT = Guarded(_SILENCE, _SILENCE)
