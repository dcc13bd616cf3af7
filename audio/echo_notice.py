"""Whether the microphone hears the loudspeaker at all. Over headphones it does not, and then a canceller only harms."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from audio.frame import BLOCK_MS, Samples

_SOUNDS_POWER = 10 ** (-45 / 10)  # the voice, and not the hiss before its first word
_QUIETEST_POWER = 10 ** (-90 / 10)
_RISE = 10.0  # 10 dB: a fan or a street does not begin just when we do
_STILL = 4.0  # 6 dB over the floor is still the floor
_FLOOR_RISE = 1.05  # 10 dB a second: the floor is the quiet between the user's words, and not the words
_NOTICED_FRAMES = 2  # a click is shorter
_SOON_FRAMES = 160 // BLOCK_MS  # the reference is 40 ms ahead; what begins later is a user who goes on
_STILL_FRAMES = 500 // BLOCK_MS
_EXPLAINED_FRAMES = 300 // BLOCK_MS
_EXPLAINED = 0.5


class EchoNotice:
    """Watches frames while the loudspeaker sounds.

    At first the microphone's level tells: it rises soon after the first sound of the loudspeaker, or it stays where it
    was. A user who begins to speak in that very moment looks like an echo; one who spoke before does not. Later a
    silent microphone tells that there is no echo any more, and a gentle canceller that explains what is heard tells
    that there is one (again).

    Attributes:
        present: Whether there is an echo; None before the first sound.
    """

    def __init__(self) -> None:
        self.present: bool | None = None
        self._floor_power = 0.0
        self._quiet_frames = _STILL_FRAMES
        """Since the loudspeaker sounded."""
        self._sounding_frames = 0
        """Of the loudspeaker, since it was last quiet for long."""
        self._user_speaks = False
        """The microphone was loud before an echo could be: its level tells nothing of this reply."""
        self._loud: list[float] = []
        self._still_frames = 0
        self._explained: deque[tuple[float, float, float]] = deque(maxlen=_EXPLAINED_FRAMES)

    def add(self, near: Samples, far: Samples, echo: Samples) -> float | None:
        """Take a frame, float32[320] each.

        Args:
            near: The microphone.
            far: The reference, earlier than its echo.
            echo: The echo as a gentle canceller estimates it.

        Returns:
            When `present` changed: by how many dB the microphone became louder with the echo, 0 if there is none.
        """
        near_power = max(float(np.dot(near, near)) / near.size, _QUIETEST_POWER)
        if float(np.dot(far, far)) < _SOUNDS_POWER * far.size:
            self._quiet_frames += 1
            if not self._loud:
                self._floor_power = min(near_power, self._floor_power * _FLOOR_RISE) or near_power
            return None
        floor_power = self._floor_power or _QUIETEST_POWER
        is_loud = near_power > _RISE * floor_power
        if self._quiet_frames >= _STILL_FRAMES:
            self._user_speaks = is_loud and self._floor_power > 0
            self._sounding_frames = 0
        self._quiet_frames = 0
        self._sounding_frames += 1
        self._still_frames = self._still_frames + 1 if near_power < _STILL * floor_power else 0
        self._explained.append((float(np.dot(near, echo)), float(np.dot(near, near)), float(np.dot(echo, echo))))
        if self.present is None:
            soon = self._sounding_frames <= _SOON_FRAMES
            self._loud = [*self._loud, near_power] if is_loud and soon and not self._user_speaks else []
        if len(self._loud) == _NOTICED_FRAMES:
            rise = sum(self._loud) / _NOTICED_FRAMES / floor_power
            self._loud.clear()
            return self._tell(10 * math.log10(rise))
        if self.present is not False and self._still_frames == _STILL_FRAMES:
            return self._tell(0.0)
        if not self.present and self._is_explained():
            return self._tell(max(1.0, 10 * math.log10(near_power / floor_power)))
        return None

    def _tell(self, rise_db: float) -> float:
        self.present = rise_db > 0
        self._still_frames = 0
        self._explained.clear()
        return rise_db

    def _is_explained(self) -> bool:
        """Whether most of what the microphone heard of late is what the canceller expected it to."""
        if len(self._explained) < _EXPLAINED_FRAMES:
            return False
        both, near, echo = (sum(column) for column in zip(*self._explained, strict=True))
        return both > 0 and echo > _EXPLAINED**2 * near and both**2 > _EXPLAINED * near * echo
