"""The sound of a dialogue as one stereo file on the session clock: left the user, right the loudspeaker.

Whoever has the file can measure latency and overlap from it alone. It grows as the dialogue goes, so a long one needs
no memory, and one that dies leaves what was heard. On virtual time there is no sound; there each side is drawn as a
soft hum for as long as it would have been heard.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soxr

from app import events as ev
from app.replay.moments import UserSound
from app.sound_ports import Samples
from audio.errors import AudioError
from audio.frame import MIC_HZ, SPEAKER_HZ
from audio.wav import StereoWriter

_HUM_AMPLITUDE = 0.1
_USER_HUM_HZ, _AGENT_HUM_HZ = 220.0, 140.0
# A driver's times jitter, and its blocks follow each other all the same; what is further off is a gap.
_JITTER_S = 0.06
# How far one side may be ahead of the other until that one counts as silent.
_WAITS_S = 5.0


class _Side:
    """One side of the file: its sound so far, from session time 0 on, less what was written."""

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._up = soxr.ResampleStream(rate_hz, SPEAKER_HZ, 1, dtype="float32") if rate_hz != SPEAKER_HZ else None
        self._end = 0
        """Samples at the side's own rate that were taken."""
        self._waiting: list[Samples] = []
        self.samples = 0
        """Samples at 48 kHz that wait."""

    @property
    def until_s(self) -> float:
        """How far this side goes."""
        return self._end / self._rate_hz

    def add(self, samples: Samples, at_s: float) -> None:
        """Take float32[n] that begins at a session time; sound from before time 0 is left out."""
        late = round(at_s * self._rate_hz) - self._end
        if self._end == 0 or abs(late) > _JITTER_S * self._rate_hz:
            self._take(np.zeros(max(0, late), np.float32))
            samples = samples[max(0, -late) :]
        self._take(samples)

    def pad(self, until_s: float) -> None:
        """Silence up to a session time."""
        if (missing := round(until_s * self._rate_hz) - self._end) > 0:
            self._take(np.zeros(missing, np.float32))

    def flush(self) -> None:
        """What the resampler holds back."""
        if self._up:
            self._keep(self._up.resample_chunk(np.zeros(0, np.float32), last=True))

    def give(self, count: int) -> Samples:
        """The oldest samples that wait; silence where there are fewer."""
        sound = np.concatenate([np.zeros(0, np.float32), *self._waiting])
        self._waiting = [sound[count:]]
        self.samples = max(0, self.samples - count)
        return np.pad(sound[:count], (0, max(0, count - sound.size)))

    def _take(self, samples: Samples) -> None:
        self._end += samples.size
        self._keep(self._up.resample_chunk(samples) if self._up else samples.copy())

    def _keep(self, samples: Samples) -> None:
        self._waiting.append(samples)
        self.samples += samples.size


class Recording:
    """The file in the making. A context: it gets its name when it is whole, which it is after an error too.

    Args:
        path: Where it goes.

    Raises:
        AudioError: It can't be written. What fails later is told by `close`, so that no dialogue dies of it.
    """

    def __init__(self, path: Path) -> None:
        self._writer = StereoWriter(path, SPEAKER_HZ)
        self._user, self._agent = _Side(MIC_HZ), _Side(SPEAKER_HZ)
        self._failure: AudioError | None = None

    def add_user(self, samples: Samples, at_s: float) -> None:
        """float32[n] at 16 kHz that begins at a session time. The blocks of a side come in order."""
        self._reach(at_s)
        self._user.add(samples, at_s)
        self._write()

    def add_agent(self, samples: Samples, at_s: float) -> None:
        """float32[n] at 48 kHz whose first sample is at the output at a session time."""
        self._reach(at_s)
        self._agent.add(samples, at_s)
        self._write()

    def close(self) -> None:
        """Write what is left, and complete the file.

        Raises:
            AudioError: Something could not be written.
        """
        for side in (self._user, self._agent):
            side.flush()
        self._put(max(self._user.samples, self._agent.samples))
        self._writer.close()
        if self._failure:
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _reach(self, at_s: float) -> None:
        """Write silence up to a little before a time that is far ahead of both sides."""
        while (until_s := max(self._user.until_s, self._agent.until_s)) < at_s - _WAITS_S:
            self._agent.pad(until_s + 1.0)
            self._write()

    def _write(self) -> None:
        """Write what both sides have, once it is a second; a side that has fallen silent is not waited for."""
        until_s = max(self._user.until_s, self._agent.until_s)
        for side in (self._user, self._agent):
            side.pad(until_s - _WAITS_S)
        if (both := min(self._user.samples, self._agent.samples)) >= SPEAKER_HZ:
            self._put(both)

    def _put(self, count: int) -> None:
        """Write so many samples, a second at a time."""
        for done in range(0, count, SPEAKER_HZ):
            left, right = (side.give(min(SPEAKER_HZ, count - done)) for side in (self._user, self._agent))
            if self._failure is None:
                try:
                    self._writer.write(left, right)
                except AudioError as error:
                    self._failure = error


def draw(path: Path, events: Sequence[ev.Event], sounds: Sequence[UserSound]) -> None:
    """Write the file of a dialogue on virtual time, each side a hum while it would be heard.

    Raises:
        AudioError: It can't be written.
    """
    end_s = max([event.t_s for event in events] + [sound.end_s for sound in sounds], default=0.0)
    left = _hum([(sound.start_s, sound.end_s) for sound in sounds], _USER_HUM_HZ, end_s)
    right = _hum(loudspeaker_spans(events), _AGENT_HUM_HZ, end_s)
    with StereoWriter(path, SPEAKER_HZ) as writer:
        writer.write(left, right)


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
