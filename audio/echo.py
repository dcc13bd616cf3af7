"""The echo canceller that decides whether the user speaks: AEC3 of WebRTC, from the wheel pywebrtc-audio (Apache-2.0).

It suppresses what its own filter leaves of the echo, which makes it safe against hearing itself, and costs words of a
user who talks at the same time: a recogniser should read audio/linear_echo.py instead.
"""

from __future__ import annotations

from pywebrtc_audio import EchoCanceller

from audio.frame import MIC_HZ, Samples


class WebRtcCanceller:
    """Satisfies `app.sound_ports.EchoCanceller`. About 0.1 ms for 10 ms of sound, without the GIL.

    Noise suppression and gain control are off: with them it heard the user late, or its own voice. The high-pass of
    WebRTC is part of the canceller. It finds the delay of the echo itself and needs no hint.
    """

    def __init__(self) -> None:
        self._canceller = EchoCanceller(MIC_HZ)

    def process(self, near: Samples, far: Samples) -> Samples:
        """float32[n] of the microphone and of the loudspeaker, n a multiple of 160 -> float32[n] without the echo."""
        return self._canceller.process(near, far)

    def reset(self) -> None:
        """Learn the echo afresh."""
        self._canceller.reset()
