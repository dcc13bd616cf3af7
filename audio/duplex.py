"""The sound card: an input and an output stream that stay open, on one clock, watched and reopened when they die.

Two streams, because one full-duplex stream dies silently on PulseAudio. A thread of the card's own carries sound on,
resamples where a device wants another rate, and keeps watch.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, TypeVar

import numpy as np

from audio import devices
from audio.errors import DeviceError
from audio.frame import FRAME_SAMPLES, MIC_HZ, Frame, Samples
from audio.reference import AHEAD_S, Reference
from audio.sample_clock import SampleClock
from audio.streams import Loudspeaker, Microphone, Source

_FRAMES_KEPT = 250  # 5 s for a consumer that is busy
_NEWS_KEPT = 64
_ROUND_S = 0.01  # how often the thread looks
_RETRY_S = 0.25
_LATEST_S = 0.2  # after its capture a frame is given, even if it is not known what the loudspeaker plays then

Item = TypeVar("Item")


class Stats(NamedTuple):
    """Counters since the card was opened."""

    xruns: int
    """Blocks that came or were asked for too late."""
    dropped_frames: int
    """20 ms frames that nobody took in time."""


class News(NamedTuple):
    """A device was lost or opened again."""

    device: str
    lost: str | None
    """Why it was lost; None: sound flows (again)."""


class DuplexCard:
    """Microphone and loudspeaker of this machine. Satisfies `app.sound_ports.SoundCard`; a context manager.

    One at a time in a process: opening a device again restarts PortAudio.

    Args:
        playout: What the loudspeaker plays.
        now_s: The session clock.
        input_device: Index, name or part of a name; empty for the default.
        output_device: The same.
        block_ms: Length of the blocks that the devices are driven with.

    Raises:
        DeviceError: A device is missing, ambiguous or refuses.
    """

    def __init__(
        self,
        playout: Source,
        now_s: Callable[[], float],
        *,
        input_device: str = "",
        output_device: str = "",
        block_ms: int = 20,
    ) -> None:
        self._playout, self._now_s, self._block_ms = playout, now_s, block_ms
        self._wanted = (input_device, output_device)
        self._clock = SampleClock(MIC_HZ)
        self._reference = Reference()
        self._troubles: tuple[int, int] | None = None
        self._complete: deque[Frame] = deque()
        self._frames: deque[Frame] = deque()
        self._news: deque[News] = deque(maxlen=_NEWS_KEPT)
        self._dropped_frames = 0
        self._old_xruns = 0
        self._next_sample = 0
        self._base: int | None = None
        self._partial = np.zeros(0, np.float32)
        self._followers: tuple[Callable[[], None], ...] = ()
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._sides = self._open(*self._wanted)
        self._thread = threading.Thread(target=self._keep_going, name="sound card", daemon=True)
        self._thread.start()

    def __enter__(self) -> DuplexCard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the port ----

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Microphone frames in order, each once it is complete, until the card is closed. For one consumer.

        Raises:
            Exception: What ended the card's thread, if it was not `close`.
        """
        async with contextlib.aclosing(self._follow(self._frames)) as frames:
            async for frame in frames:
                yield frame
        if self._failure is not None:
            raise self._failure

    def news(self) -> AsyncGenerator[News, None]:
        """What happens to the devices, until the card is closed; of more than 64 waiting the oldest are forgotten."""
        return self._follow(self._news)

    def time_of_sample(self, sample: int) -> float:
        """Session time in s at which microphone sample `sample` (16 kHz index) was captured."""
        return self._clock.time_of(sample)

    def reference(self, at_s: float, count: int) -> Samples:
        """What the loudspeaker sounds: float32[count] at 16 kHz from session time `at_s` on, zeros where not known.

        It is known for 40 ms beyond the end of each frame that was given. For one consumer, who asks for one frame
        after the other.
        """
        return self._reference.read(at_s, count)

    def stats(self) -> Stats:
        """Counters since the card was opened."""
        xruns = self._old_xruns + sum(side.xruns for side in self._sides or ())
        return Stats(xruns, self._dropped_frames)

    def close(self) -> None:
        """End both streams and the thread. May be called twice."""
        self._closing.set()
        self._thread.join()
        self._tell()

    # ---- the thread ----

    def _keep_going(self) -> None:
        try:
            while not self._closing.wait(_ROUND_S):
                if self._sides is None:
                    self._reopen()
                    continue
                microphone, loudspeaker = self._sides
                loudspeaker.feed()
                self._carry_back(loudspeaker)
                self._carry(microphone)
                self._give_what_is_known()
                for side in self._sides:
                    if reason := side.trouble():
                        self._lose(side, reason)
                        break
        except Exception as error:  # nobody waits for this thread, so whoever takes the frames is told
            self._failure = error
        finally:
            for side in self._sides or ():
                side.close()
            self._closing.set()
            self._tell()

    def _open(self, input_device: str, output_device: str) -> tuple[Microphone, Loudspeaker]:
        """Both streams, running."""
        devices.refresh()
        microphone = Microphone(devices.find("input", input_device), self._block_ms, self._now_s)
        loudspeaker = None
        try:
            device = devices.find("output", output_device)
            loudspeaker = Loudspeaker(device, self._playout, self._block_ms, self._now_s)
            loudspeaker.start()
            microphone.start()
        except BaseException:
            microphone.close()
            if loudspeaker is not None:
                loudspeaker.close()
            raise
        return microphone, loudspeaker

    def _lose(self, lost: Microphone | Loudspeaker, reason: str) -> None:
        sides = self._sides or ()
        self._news.append(News(lost.device.name, reason))
        self._old_xruns += sum(side.xruns for side in sides)
        self._sides = None
        for side in sides:
            side.close()
        self._partial, self._base = self._partial[:0], None
        self._troubles = None
        self._tell()

    def _reopen(self) -> None:
        """Try the wanted devices, then the defaults; the next try is in a quarter of a second."""
        for wanted in dict.fromkeys([self._wanted, ("", "")]):
            with contextlib.suppress(DeviceError):
                self._sides = self._open(*wanted)
                self._news.extend(News(side.device.name, None) for side in self._sides)
                self._tell()
                return
        self._closing.wait(_RETRY_S)

    def _carry_back(self, loudspeaker: Loudspeaker) -> None:
        """What is being played to the reference."""
        troubles = (loudspeaker.xruns, loudspeaker.lost)
        first, sound = loudspeaker.take()
        if sound.shape[0]:
            self._reference.add(sound, loudspeaker.time_of(first), afresh=troubles != self._troubles)
            self._troubles = troubles

    def _carry(self, microphone: Microphone) -> None:
        """New sound into frames, each with its place on the sample clock."""
        lost_before = microphone.lost
        first, sound = microphone.take()
        mark = microphone.mark
        if mark is None or sound.shape[0] == 0:
            return
        if self._base is None:
            self._base = self._clock.restart(microphone.time_of(0), self._next_sample)
        overrun_s = (microphone.lost - lost_before) / microphone.hz
        self._dropped_frames += math.ceil(overrun_s * MIC_HZ / FRAME_SAMPLES)
        missed = self._clock.observe(self._base + mark.position * MIC_HZ // microphone.hz, mark.at_s)
        self._base += missed
        if missed or overrun_s:
            self._partial = self._partial[:0]
        start = self._base + first - self._partial.shape[0]
        sound = np.concatenate([self._partial, sound])
        whole = sound.shape[0] // FRAME_SAMPLES * FRAME_SAMPLES
        for at in range(0, whole, FRAME_SAMPLES):
            self._complete.append(Frame(sound[at : at + FRAME_SAMPLES].copy(), start + at))
        self._partial = sound[whole:].copy()
        self._next_sample = start + sound.shape[0]

    def _give_what_is_known(self) -> None:
        """Frames for which it is known what the loudspeaker plays meanwhile: with most devices all of them, at once."""
        while self._complete:
            end_s = self._clock.time_of(self._complete[0].first_sample + FRAME_SAMPLES)
            if self._reference.known_until_s < end_s + AHEAD_S and self._now_s() < end_s + _LATEST_S:
                return
            self._give(self._complete.popleft())

    def _give(self, frame: Frame) -> None:
        if len(self._frames) >= _FRAMES_KEPT:
            with contextlib.suppress(IndexError):  # the consumer was quicker
                self._frames.popleft()
                self._dropped_frames += 1
        self._frames.append(frame)
        self._tell()

    def _tell(self) -> None:
        for wake in self._followers:
            wake()

    # ---- the event loop ----

    async def _follow(self, queue: deque[Item]) -> AsyncGenerator[Item, None]:
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            _set_soon(loop, arrived)

        self._followers += (wake,)
        try:
            while not self._closing.is_set():
                arrived.clear()
                while queue:
                    yield queue.popleft()
                if not self._closing.is_set():
                    await arrived.wait()
        finally:
            self._followers = tuple(other for other in self._followers if other is not wake)


def _set_soon(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
        loop.call_soon_threadsafe(arrived.set)
