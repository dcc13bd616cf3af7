"""A sound card without hardware: a thread at the pace of the wall clock that does what a driver's callback does.

A block's microphone sound is complete when the block is over; the loudspeaker's block that is read at that moment
sounds one block later. The user's lines are mixed into the microphone, over a floor of noise. There is no echo.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from app.ports import CardStats, Clock, Samples
from app.replay.recording import Recording
from audio.frame import BLOCK_MS, FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ, Frame

_BLOCK_S = BLOCK_MS / 1000
_OUTPUT_DELAY_S = _BLOCK_S
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
    """Satisfies `app.ports.SoundCard`. A context: the thread lives inside it; frames that come before anybody listens
    are gone, as with a real card.

    Args:
        source: Where the loudspeaker's sound comes from; read on the thread.
        clock: The session's clock.
        seed: For the noise floor.
        recording: Gets both sides; None: nobody does.
    """

    def __init__(self, source: BlockSource, clock: Clock, *, seed: int, recording: Recording | None = None) -> None:
        self._source, self._clock, self._recording = source, clock, recording
        random = np.random.default_rng(seed)
        self._floor = (random.standard_normal(_FLOOR_SECONDS * MIC_HZ) * _FLOOR).astype(np.float32)
        self._lock = threading.Lock()
        self._sounds: list[tuple[int, Samples]] = []
        self._zero_s = 0.0
        self._blocks = 0
        self._xruns = self._dropped = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._pace, name="simulated card", daemon=True)
        self._frames: asyncio.Queue[Frame] = asyncio.Queue(_WAITING_FRAMES)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._zero_s = self._clock.now_s()
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

    def time_of_sample(self, sample: int) -> float:
        """Session time of a microphone sample."""
        return self._zero_s + sample / MIC_HZ

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

    def _pace(self) -> None:
        """The thread. It waits for the clock and for nothing else."""
        out = np.zeros(SPEAKER_HZ * BLOCK_MS // 1000, np.float32)
        while not self._closed.is_set():
            due_s = self._zero_s + (self._blocks + 1) * _BLOCK_S
            if (wait_s := due_s - self._clock.now_s()) > 0:
                self._closed.wait(wait_s)
                continue
            if -wait_s > _OUTPUT_DELAY_S:
                self._xruns += 1
            self._source.read(out, due_s + _OUTPUT_DELAY_S)
            frame = self._next_frame()
            if self._recording:
                at_s = self.time_of_sample(frame.first_sample)
                self._recording.add(frame.samples, at_s, out, due_s + _OUTPUT_DELAY_S)
            self._pass_on(frame)

    def _pass_on(self, frame: Frame) -> None:
        if self._loop is not None:
            # A closed loop means that the session ended, and nobody listens any more.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._offer, frame)

    def _next_frame(self) -> Frame:
        with self._lock:
            first = self._blocks * FRAME_SAMPLES
            self._blocks += 1
            sounds = self._sounds = [(at, sound) for at, sound in self._sounds if at + sound.size > first]
        samples = self._floor[first % self._floor.size :][:FRAME_SAMPLES].copy()
        for at, sound in sounds:
            piece = sound[max(0, first - at) : first - at + FRAME_SAMPLES]
            samples[max(0, at - first) :][: piece.size] += piece
        return Frame(samples, first)

    def _offer(self, frame: Frame) -> None:
        if self._frames.full():
            self._dropped += 1
        else:
            self._frames.put_nowait(frame)
