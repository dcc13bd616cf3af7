"""The sound of a dialogue as one stereo file on the session clock: left the user, right the loudspeaker.

Whoever has the file can measure latency and overlap from it alone. On virtual time there is no sound; there each side
is drawn as a soft hum for as long as it would have been heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from app import events as ev
from app.ports import Samples
from app.replay.director import UserSound
from audio.frame import MIC_HZ, SPEAKER_HZ
from audio.wav import StereoWriter

_HUM_AMPLITUDE = 0.1
_USER_HUM_HZ, _AGENT_HUM_HZ = 220.0, 140.0


class Recording:
    """Collects both sides as 16-bit blocks, about 8 MB a minute, and writes them when the dialogue is over."""

    def __init__(self) -> None:
        self._user: list[NDArray[np.int16]] = []
        self._agent: list[NDArray[np.int16]] = []
        self._user_from_s = self._agent_from_s = 0.0

    def add(self, user: Samples, user_at_s: float, agent: Samples, agent_at_s: float) -> None:
        """Add a block of each side. Blocks of a side follow each other without gaps.

        Args:
            user: float32[n] at 16 kHz.
            user_at_s: Session time of its first sample.
            agent: float32[3 n] at 48 kHz.
            agent_at_s: Session time of its first sample at the output.
        """
        if not self._user:
            self._user_from_s, self._agent_from_s = user_at_s, agent_at_s
        self._user.append(_quantised(user))
        self._agent.append(_quantised(agent))

    def write(self, path: Path) -> None:
        """Write the file; it appears when it is whole.

        Raises:
            AudioError: It can't be written.
        """
        user = _sound(self._user)
        left = _from_zero(soxr.resample(user, MIC_HZ, SPEAKER_HZ).astype(np.float32), self._user_from_s)
        right = _from_zero(_sound(self._agent), self._agent_from_s)
        _write(path, left, right)


def draw(path: Path, events: Sequence[ev.Event], sounds: Sequence[UserSound]) -> None:
    """Write the file of a dialogue on virtual time, each side a hum while it would be heard.

    Raises:
        AudioError: It can't be written.
    """
    end_s = max([event.t_s for event in events] + [sound.end_s for sound in sounds], default=0.0)
    left = _hum([(sound.start_s, sound.end_s) for sound in sounds], _USER_HUM_HZ, end_s)
    right = _hum(loudspeaker_spans(events), _AGENT_HUM_HZ, end_s)
    _write(path, left, right)


def loudspeaker_spans(events: Sequence[ev.Event]) -> list[tuple[float, float]]:
    """When the loudspeaker played, as (from, until) in s; the pauses between clauses count as sound."""
    spans: list[tuple[float, float]] = []
    since_s: float | None = None
    audible = False
    for event in events:
        match event:
            case ev.PlayoutStarted():
                since_s, audible = event.at_s, True
            case ev.OutputResumed() if audible:
                since_s = event.at_s
            case ev.OutputHeld() | ev.PlayoutFinished():
                if since_s is not None:
                    spans.append((since_s, max(since_s, event.at_s)))
                since_s = None
                audible = audible and isinstance(event, ev.OutputHeld)
            case _:
                pass
    return spans


def _hum(spans: Sequence[tuple[float, float]], tone_hz: float, end_s: float) -> Samples:
    sound = np.zeros(round(end_s * SPEAKER_HZ), np.float32)
    for start_s, stop_s in spans:
        first, last = round(start_s * SPEAKER_HZ), min(round(stop_s * SPEAKER_HZ), sound.size)
        phase = 2 * np.pi * tone_hz / SPEAKER_HZ * np.arange(max(0, last - first))
        sound[first:last] += _HUM_AMPLITUDE * np.cos(phase).astype(np.float32)
    return sound


def _sound(blocks: Sequence[NDArray[np.int16]]) -> Samples:
    whole = np.concatenate([np.zeros(0, np.int16), *blocks])
    return np.multiply(whole, 1 / 32768, dtype=np.float32)


def _from_zero(samples: Samples, at_s: float) -> Samples:
    """Put silence before samples so that they begin at session time 0."""
    return np.concatenate([np.zeros(max(0, round(at_s * SPEAKER_HZ)), np.float32), samples])


def _quantised(samples: Samples) -> NDArray[np.int16]:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _write(path: Path, left: Samples, right: Samples) -> None:
    size = max(left.size, right.size)
    with StereoWriter(path, SPEAKER_HZ) as writer:
        for first in range(0, size, SPEAKER_HZ):
            chunk = slice(first, min(first + SPEAKER_HZ, size))
            writer.write(_padded(left[chunk], chunk), _padded(right[chunk], chunk))


def _padded(samples: Samples, chunk: slice) -> Samples:
    return np.pad(samples, (0, chunk.stop - chunk.start - samples.size))
