"""Sound cards without hardware. A block's microphone sound is complete when the block is over; the loudspeaker's block
that is read at that moment sounds a block and a millisecond later, as with a driver's callback.

The user's lines are mixed into the microphone, over a floor of noise, and so is what the room gives back of the
loudspeaker. `WallCard` goes at the pace of the wall clock, on a thread of its own; `StoppedCard` is a timer of the
event loop, for a clock that stands still while models compute.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from app.ports import Clock
from app.replay.recording import Recording
from app.replay.room import Echo
from app.sound_ports import CardStats, Samples
from audio.downsample import Downsampler
from audio.frame import BLOCK_MS, FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ, Frame
from audio.memory import SoundMemory
from audio.reference import Reference

_BLOCK_S = BLOCK_MS / 1000
_BLOCK_SAMPLES = SPEAKER_HZ * BLOCK_MS // 1000
# By the millisecond the reference is known for 40 ms beyond each frame, which an echo canceller wants.
_OUTPUT_DELAY_SAMPLES = FRAME_SAMPLES + MIC_HZ // 1000
_OUTPUT_DELAY_S = _OUTPUT_DELAY_SAMPLES / MIC_HZ
_FLOOR = 10 ** (-75 / 20)
_FLOOR_SECONDS = 10
# Frames that may wait for the ears: two seconds of sound.
_WAITING_FRAMES = 100


class BlockSource(Protocol):
    """Where the loudspeaker's sound comes from: audio/playout.py."""

    def read(self, out: Samples, at_s: float) -> None:
        """Fill float32[960] at 48 kHz that sounds from session time `at_s` on."""
        ...


class SimulatedCard:
    """What both cards share: all of `app.sound_ports.SoundCard` but `frames`. A context; sound flows inside it only.

    Args:
        source: Where the loudspeaker's sound comes from; read once a block.
        clock: The session's clock.
        seed: For the noise floor.
        recording: Gets what the user's side says and what the loudspeaker plays; None: nobody does.
        echo: The room; None: no echo.
    """

    def __init__(
        self,
        source: BlockSource,
        clock: Clock,
        *,
        seed: int,
        recording: Recording | None = None,
        echo: Echo | None = None,
    ) -> None:
        self._source, self._clock, self._recording, self._echo = source, clock, recording, echo
        random = np.random.default_rng(seed)
        self._floor = (random.standard_normal(_FLOOR_SECONDS * MIC_HZ) * _FLOOR).astype(np.float32)
        self._lock = threading.Lock()
        self._sounds: list[tuple[int, Samples]] = []
        self._to_mic_hz = Downsampler(SPEAKER_HZ)
        self._reference = Reference()
        self._sounded = SoundMemory(MIC_HZ)
        """What the loudspeaker sounds, by the index of the microphone's sample of the same time."""
        self._sounded.skip_to(FRAME_SAMPLES + _OUTPUT_DELAY_SAMPLES)
        self._out = np.zeros(_BLOCK_SAMPLES, np.float32)
        self._zero_s = 0.0
        self._blocks = 0
        self._xruns = self._dropped = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Sound flows no more."""

    def time_of_sample(self, sample: int) -> float:
        """Session time of a microphone sample."""
        return self._zero_s + sample / MIC_HZ

    def reference(self, at_s: float, count: int) -> Samples:
        """What the loudspeaker sounds from a session time on, as the driver sees it: before the room, without delay."""
        return self._reference.read(at_s, count)

    def stats(self) -> CardStats:
        """Blocks that came too late for the loudspeaker, and frames that nobody took."""
        return CardStats(self._xruns, self._dropped)

    def play(self, samples: Samples) -> float:
        """Mix float32[n] at 16 kHz into the microphone from the next block on.

        Returns:
            Session time of its first sample.
        """
        with self._lock:
            first = self._blocks * FRAME_SAMPLES
            self._sounds.append((first, samples))
        return self.time_of_sample(first)

    def _due_s(self) -> float:
        """When the next block is over."""
        return self._zero_s + (self._blocks + 1) * _BLOCK_S

    def _turn(self) -> Frame:
        """A block is over: hand out the loudspeaker's next one, and take the microphone's."""
        sounds_at_s = self._due_s() + _OUTPUT_DELAY_S
        self._source.read(self._out, sounds_at_s)
        played = self._to_mic_hz.process(self._out)
        self._reference.add(played, self.time_of_sample(self._sounded.end), afresh=self._blocks == 0)
        self._sounded.append(played)
        with self._lock:
            first = self._blocks * FRAME_SAMPLES
            self._blocks += 1
            user = self._said(first)
        if self._recording:
            self._recording.add_user(user, self.time_of_sample(first))
            self._recording.add_agent(self._out, sounds_at_s)
        if self._echo is None:
            return Frame(user, first)
        return Frame(user + self._echo.process(self._sounded.read(first, first + FRAME_SAMPLES)), first)

    def _said(self, first: int) -> Samples:
        """What the user's side says in the block from sample `first` on."""
        self._sounds = [(at, sound) for at, sound in self._sounds if at + sound.size > first]
        samples = self._floor[first % self._floor.size :][:FRAME_SAMPLES].copy()
        for at, sound in self._sounds:
            piece = sound[max(0, first - at) : first - at + FRAME_SAMPLES]
            samples[max(0, at - first) :][: piece.size] += piece
        return samples


class WallCard(SimulatedCard):
    """Its thread lives inside the context; frames that come before anybody listens are gone, as with a real card."""

    def __enter__(self) -> Self:
        self._zero_s = self._clock.now_s()
        self._closed = threading.Event()
        self._frames: asyncio.Queue[Frame] = asyncio.Queue(_WAITING_FRAMES)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._pace, name="simulated card", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    async def frames(self) -> AsyncIterator[Frame]:
        """Microphone frames, each once it is complete."""
        assert self._loop is None, "a card has one listener"
        self._loop = asyncio.get_running_loop()
        while True:
            yield await self._frames.get()

    def _pace(self) -> None:
        """The thread. It waits for the clock and for nothing else."""
        while not self._closed.is_set():
            if (wait_s := self._due_s() - self._clock.now_s()) > 0:
                self._closed.wait(wait_s)
                continue
            if -wait_s > _OUTPUT_DELAY_S:
                self._xruns += 1
            frame = self._turn()
            if self._loop is not None:
                # A closed loop means that the session ended, and nobody listens any more.
                with contextlib.suppress(RuntimeError):
                    self._loop.call_soon_threadsafe(self._offer, frame)

    def _offer(self, frame: Frame) -> None:
        if self._frames.full():
            self._dropped += 1
        else:
            self._frames.put_nowait(frame)


class StoppedCard(SimulatedCard):
    """Its sound flows from its first use on, and never too late: who listens turns the block over."""

    _flows = False

    async def frames(self) -> AsyncIterator[Frame]:
        """Microphone frames, each once it is complete."""
        self._open()
        while True:
            await self._clock.sleep_until(self._due_s())
            yield self._turn()

    def play(self, samples: Samples) -> float:
        """As the others do."""
        self._open()
        return super().play(samples)

    def _open(self) -> None:
        if not self._flows:
            self._flows, self._zero_s = True, self._clock.now_s()
