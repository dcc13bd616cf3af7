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
from audio.devices import Device
from audio.downsample import Downsampler
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

    def __init__(self, device: Device, block_ms: int, now_s: Callable[[], float]) -> None:
        chosen = devices.best_format(device)
        self.device = device
        self.hz = chosen.hz
        self.xruns = 0
        self.mark: Mark | None = None
        """Of the newest block."""
        self._passed = Ring(chosen.hz * _RING_S)
        self._row = np.zeros(chosen.hz * _RING_S, np.float32)
        self._to_mic_hz = Downsampler(chosen.hz)
        self._taken = 0
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

    @property
    def lost(self) -> int:
        """Device samples that overran the ring."""
        return self._passed.lost

    def take(self) -> tuple[int, Samples]:
        """What passed since the last call, at 16 kHz, and the index of its first sample, from the opening on."""
        count = self._passed.read(self._row)
        sound = self._to_mic_hz.process(self._row[:count])
        first = self._taken + self._passed.lost * MIC_HZ // self.hz
        self._taken += sound.shape[0]
        return first, sound

    def time_of(self, sample: int) -> float:
        """Session time of a sample at 16 kHz, counted from the opening, by what the driver said last."""
        assert self.mark is not None
        return self.mark.at_s + sample / MIC_HZ - self.mark.position / self.hz

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
    """The input stream: what it captures is taken at 16 kHz."""

    def _capture(self, sound: Samples, frames: int, time: Any, status: Any) -> None:
        if status.input_overflow:
            self.xruns += 1
        self._called(self._passed.written, -1, time.currentTime - time.inputBufferAdcTime)
        self._passed.write(sound[:, 0])


class Loudspeaker(_Side):
    """The output stream: straight from the source at 48 kHz, else through a ring that the thread keeps filled.

    What it plays can be taken at 16 kHz, before it is heard.
    """

    def __init__(self, device: Device, source: Source, block_ms: int, now_s: Callable[[], float]) -> None:
        self._source = source
        super().__init__(device, block_ms, now_s)
        self._ahead = None if self.hz == SPEAKER_HZ else Ring(self.hz)
        self._from_speaker_hz = _resampler(SPEAKER_HZ, self.hz)
        self._out = np.zeros(self.hz, np.float32)
        self._block = np.zeros(SPEAKER_HZ * block_ms // 1000, np.float32)
        self._ahead_samples = _LOOK_AHEAD_BLOCKS * self.hz * block_ms // 1000
        self._short = 0

    def _play(self, out: Samples, frames: int, time: Any, status: Any) -> None:
        if status.output_underflow:
            self.xruns += 1
        at_s = self._called(self._passed.written, +1, time.outputBufferDacTime - time.currentTime)
        row = self._out[:frames]
        if self._ahead is None:
            self._source.read(row, at_s)
        else:
            count = self._ahead.read(row)
            row[count:] = 0.0
            self._short += frames - count
        self._passed.write(row)
        for channel in range(out.shape[1]):
            out[:, channel] = row

    def feed(self) -> None:
        """Keep the ring filled, if there is one."""
        if self._ahead is None or self.mark is None:
            return
        while self._ahead.waiting < self._ahead_samples:
            ahead = self._ahead.written + self._short - self.mark.position
            self._source.read(self._block, self.mark.at_s + ahead / self.hz)
            self._ahead.write(self._from_speaker_hz(self._block))


def _resampler(from_hz: int, to_hz: int) -> Callable[[Samples], Samples]:
    if from_hz == to_hz:
        return lambda sound: sound
    import soxr

    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32")
    return lambda sound: stream.resample_chunk(sound)
