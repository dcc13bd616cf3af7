"""A live conversation's sound goes into a recording as it passes."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from app.replay.card import BlockSource
from app.replay.recording import Recording
from app.sound_ports import CardStatsLike, FrameLike, Samples, SoundCard
from audio.frame import SPEAKER_HZ
from audio.ring import Ring

# What waits between the sound callback and the event loop, which takes it with each frame of the microphone.
_RING_SECONDS, _RING_BLOCKS = 4, 1024


class LiveRecording:
    """A context around the sound card: `tap` goes between playout and card, `card` between card and ears.

    Left the microphone as it is, echo included; right what was handed to the loudspeaker.

    Args:
        path: Where it goes.

    Raises:
        AudioError: It can't be written. What fails later is told at the end, so that no conversation dies of it.
    """

    def __init__(self, path: Path) -> None:
        self._recording = Recording(path)
        self._ring = Ring(_RING_SECONDS * SPEAKER_HZ)
        self._blocks: deque[tuple[int, int, float]] = deque(maxlen=_RING_BLOCKS)
        """Position in the ring, samples and session time of each block that waits."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drain()
        self._recording.close()

    def tap(self, source: BlockSource) -> BlockSource:
        """What the card is to read instead of the source."""
        return _Tap(source, self._ring, self._blocks)

    def card(self, card: SoundCard) -> SoundCard:
        """The card that the ears are to listen to instead."""
        return _Card(card, self._take)

    def _take(self, frame: FrameLike, at_s: float) -> None:
        self._recording.add_user(frame.samples, at_s)
        self._drain()

    def _drain(self) -> None:
        """What the callback left since the last time; what was overwritten meanwhile is silence in the file."""
        while self._blocks:
            first, count, at_s = self._blocks.popleft()
            if first < self._ring.position:
                continue
            out = np.zeros(count, np.float32)
            got = self._ring.read(out)
            if self._ring.position - got == first:
                self._recording.add_agent(out[:got], at_s)


class _Tap:
    """The sound callback's side: never waits, allocates no arrays."""

    def __init__(self, source: BlockSource, ring: Ring, blocks: deque[tuple[int, int, float]]) -> None:
        self._source, self._ring, self._blocks = source, ring, blocks

    def read(self, out: Samples, at_s: float) -> None:
        """As the source does."""
        self._source.read(out, at_s)
        first = self._ring.written
        self._ring.write(out)
        self._blocks.append((first, out.shape[0], at_s))


class _Card:
    """Satisfies `app.sound_ports.SoundCard`."""

    def __init__(self, card: SoundCard, take: Callable[[FrameLike, float], None]) -> None:
        self._card, self._take = card, take

    async def frames(self) -> AsyncIterator[FrameLike]:
        """The card's frames, each once it is recorded."""
        async for frame in self._card.frames():
            self._take(frame, self._card.time_of_sample(frame.first_sample))
            yield frame

    def time_of_sample(self, sample: int) -> float:
        """As the card's."""
        return self._card.time_of_sample(sample)

    def reference(self, at_s: float, count: int) -> Samples:
        """As the card's."""
        return self._card.reference(at_s, count)

    def stats(self) -> CardStatsLike:
        """As the card's."""
        return self._card.stats()
