"""The two streams of a sound card, each with what its callback shares with the thread behind it.

A callback touches a ring, the playout and a few numbers, and waits for nobody.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from audio import devices
from audio.devices import Device, Format
from audio.errors import DeviceError
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.ring import Ring

_RING_S = 4
_WARM_UP_S = 3.0  # a sleeping sink takes up to 2 s to wake, with a gap in the callbacks
# Callbacks that stay away this long are not late, they are gone; a vanished device usually says so itself, at once.
_SILENT_S = 1.0
# A longer delay between air and callback is not believed: a source of PulseAudio that has just woken claims 0.6 s.
_LONGEST_DELAY_S = {"input": 0.3, "output": 2.0}
_LOOK_AHEAD_BLOCKS = 3  # sound resampled ahead of a loudspeaker with another rate


class Source(Protocol):
    """What the loudspeaker plays: audio/playout.py."""

    def read(self, out: Samples, at_s: float) -> None:
        """Fill float32[n] at 48 kHz, audible from session time `at_s` on."""
        ...


class Mark(NamedTuple):
    """A sample of a stream and the session time at which it was captured or becomes audible."""

    position: int
    at_s: float


class _Side:
    """One stream of the card while it is open, and what its callback shares with the thread."""

    def __init__(self, device: Device, chosen: Format, block_ms: int, now_s: Callable[[], float]) -> None:
        self.device = device
        self.hz = chosen.hz
        self.xruns = 0
        self.mark: Mark | None = None
        """Of the newest block."""
        self.ended = threading.Event()
        self._now_s = now_s
        self._opened_at_s = self._called_at_s = now_s()
        self._longest_delay_s = _LONGEST_DELAY_S[device.direction]
        sound = devices.library()
        kind = sound.InputStream if device.direction == "input" else sound.OutputStream
        try:
            with devices.quiet_stderr():
                self._stream: Any = kind(
                    samplerate=chosen.hz,
                    blocksize=chosen.hz * block_ms // 1000,
                    device=device.number,
                    channels=chosen.channels,
                    dtype="float32",
                    latency="low",
                    callback=self._capture if device.direction == "input" else self._play,
                    finished_callback=self.ended.set,
                )
        except (sound.PortAudioError, ValueError) as error:
            raise DeviceError(
                f'"{device.name}" can\'t be opened', str(error), "close what uses it, or choose another one"
            ) from error
        self._usual_delay_s = float(self._stream.latency)

    def start(self) -> None:
        """Let sound flow.

        Raises:
            DeviceError: The device refuses.
        """
        sound = devices.library()
        try:
            self._stream.start()
        except sound.PortAudioError as error:
            raise DeviceError(
                f'"{self.device.name}" can\'t be started', str(error), "check that the sound server runs"
            ) from error

    def trouble(self) -> str | None:
        """Why no sound flows any more, if so."""
        if self.ended.is_set():
            return "the stream ended"
        now_s = self._now_s()
        silent_s = now_s - self._called_at_s
        if silent_s > (_SILENT_S if now_s - self._opened_at_s > _WARM_UP_S else _WARM_UP_S):
            return f"no sound for {silent_s:.1f} s"
        return None

    def close(self) -> None:
        """End the stream at once."""
        with contextlib.suppress(Exception), devices.quiet_stderr():  # a dead device may refuse even that
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)

    def _capture(self, sound: Samples, frames: int, time: Any, status: Any) -> None:
        raise NotImplementedError

    def _play(self, out: Samples, frames: int, time: Any, status: Any) -> None:
        raise NotImplementedError

    def _called(self, position: int, sign: int, delay_s: float) -> float:
        """Note a callback; the session time of the block's first sample, `delay_s` before (-1) or after (+1) now."""
        now_s = self._called_at_s = self._now_s()
        at_s = now_s + sign * (delay_s if 0.0 <= delay_s <= self._longest_delay_s else self._usual_delay_s)
        self.mark = Mark(position, at_s)
        return at_s


class Microphone(_Side):
    """The input stream: callback to ring, and out of the ring at 16 kHz."""

    def __init__(self, device: Device, block_ms: int, now_s: Callable[[], float]) -> None:
        chosen = devices.best_format(device)
        self._ring = Ring(chosen.hz * _RING_S)
        self._row = np.zeros(chosen.hz * _RING_S, np.float32)
        self._to_mic_hz = _resampler(chosen.hz, MIC_HZ)
        self._taken = 0
        super().__init__(device, chosen, block_ms, now_s)

    @property
    def lost(self) -> int:
        """Device samples that overran the ring."""
        return self._ring.lost

    def _capture(self, sound: Samples, frames: int, time: Any, status: Any) -> None:
        if status.input_overflow:
            self.xruns += 1
        self._called(self._ring.written, -1, time.currentTime - time.inputBufferAdcTime)
        self._ring.write(sound[:, 0])

    def take(self) -> tuple[int, Samples]:
        """New sound at 16 kHz, and the index of its first sample, counted from the opening of the stream."""
        count = self._ring.read(self._row)
        sound = self._to_mic_hz(self._row[:count])
        first = self._taken + self._ring.lost * MIC_HZ // self.hz
        self._taken += sound.shape[0]
        return first, sound


class Loudspeaker(_Side):
    """The output stream: straight from the source at 48 kHz, else through a ring that the thread keeps filled."""

    def __init__(self, device: Device, source: Source, block_ms: int, now_s: Callable[[], float]) -> None:
        chosen = devices.best_format(device)
        self._source = source
        self._ring = None if chosen.hz == SPEAKER_HZ else Ring(chosen.hz)
        self._from_speaker_hz = _resampler(SPEAKER_HZ, chosen.hz)
        self._row = np.zeros(chosen.hz, np.float32)
        self._block = np.zeros(SPEAKER_HZ * block_ms // 1000, np.float32)
        self._ahead = _LOOK_AHEAD_BLOCKS * chosen.hz * block_ms // 1000
        self._played = 0
        self._short = 0
        super().__init__(device, chosen, block_ms, now_s)

    def _play(self, out: Samples, frames: int, time: Any, status: Any) -> None:
        if status.output_underflow:
            self.xruns += 1
        at_s = self._called(self._played, +1, time.outputBufferDacTime - time.currentTime)
        self._played += frames
        row = self._row[:frames]
        if self._ring is None:
            self._source.read(row, at_s)
        else:
            count = self._ring.read(row)
            row[count:] = 0.0
            self._short += frames - count
        for channel in range(out.shape[1]):
            out[:, channel] = row

    def feed(self) -> None:
        """Keep the ring filled, if there is one."""
        if self._ring is None or self.mark is None:
            return
        while self._ring.waiting < self._ahead:
            ahead = self._ring.written + self._short - self.mark.position
            self._source.read(self._block, self.mark.at_s + ahead / self.hz)
            self._ring.write(self._from_speaker_hz(self._block))


def _resampler(from_hz: int, to_hz: int) -> Callable[[Samples], Samples]:
    if from_hz == to_hz:
        return lambda sound: sound
    import soxr

    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    return lambda sound: stream.resample_chunk(sound)
