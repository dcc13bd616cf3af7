"""A room in which the assistant talks without a break and a user talks over the last part of it, for benchmarks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import NamedTuple

import numpy as np

from app.replay.room import Box, Echo
from app.sound_ports import CardStats, Samples
from audio.frame import FRAME_SAMPLES, MIC_HZ, Frame
from audio.memory import SoundMemory

USER_DBFS, REPLY_DBFS = -26.0, -20.0
_FLOOR_DBFS = -65.0
_ROUNDS = 2
_PERIOD_S = 6


class Material(NamedTuple):
    """Speech at 16 kHz: sentences of the assistant, and what the user says."""

    sentences: list[Samples]
    interruptions: list[Samples]


class RoomCard:
    """Satisfies `app.sound_ports.SoundCard`: a room in which sentences are played without a break, computed as it goes.

    The user talks over the last part of it.
    """

    def __init__(self, box: Box, echo_db: float, material: Material, seconds: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._material = material
        self._echo = Echo(box, MIC_HZ, USER_DBFS - REPLY_DBFS + echo_db)
        spoken = _ROUNDS * len(material.interruptions)
        self._seconds = seconds + spoken * _PERIOD_S + 2
        self._user = SoundMemory((spoken * _PERIOD_S + 3) * MIC_HZ)
        self._user.skip_to(seconds * MIC_HZ)
        self.onsets_s: list[float] = []
        """When each interruption begins."""
        for number in range(spoken):
            line = material.interruptions[number % len(material.interruptions)]
            at_s = seconds + number * _PERIOD_S + 1 + float(self._random.random()) * 2
            self.onsets_s.append(round(at_s * MIC_HZ) / MIC_HZ)
            self._user.skip_to(round(at_s * MIC_HZ))
            self._user.append(line)
        self._user.skip_to(self._seconds * MIC_HZ)
        self._played = SoundMemory(6 * MIC_HZ)
        self._waiting = np.zeros(0, np.float32)
        self.powers: list[float] = []
        """Of the microphone in each second, a mean square."""
        self.frame_us: list[float] = []
        self.now_s = 0.0

    async def frames(self) -> AsyncIterator[Frame]:
        """All of it, as fast as it is taken."""
        self._play_a_second()
        for second in range(self._seconds):
            self._play_a_second()
            start = second * MIC_HZ
            near = self._echo.process(self._played.read(start, start + MIC_HZ))
            near += self._random.standard_normal(MIC_HZ).astype(np.float32) * np.float32(10 ** (_FLOOR_DBFS / 20))
            if start >= self._user.first:
                near += self._user.read(start, start + MIC_HZ)
            self.powers.append(float(np.mean(np.square(near))))
            started_s = time.thread_time()
            for at in range(0, MIC_HZ, FRAME_SAMPLES):
                self.now_s = (start + at + FRAME_SAMPLES) / MIC_HZ
                yield Frame(near[at : at + FRAME_SAMPLES], start + at)
            self.frame_us.append((time.thread_time() - started_s) * 1e6 * FRAME_SAMPLES / MIC_HZ)

    def time_of_sample(self, sample: int) -> float:
        """Session time is microphone time."""
        return sample / MIC_HZ

    def reference(self, at_s: float, count: int) -> Samples:
        """What is played, as the driver tells it."""
        start = round(at_s * MIC_HZ)
        return self._played.read(start, start + count)

    def stats(self) -> CardStats:
        """Nothing is ever late."""
        return CardStats(0, 0)

    def _play_a_second(self) -> None:
        while self._waiting.size < MIC_HZ:
            sentence = self._material.sentences[int(self._random.integers(len(self._material.sentences)))]
            self._waiting = np.concatenate([self._waiting, sentence])
        self._played.append(self._waiting[:MIC_HZ])
        self._waiting = self._waiting[MIC_HZ:]


def levelled(sound: Samples, dbfs: float) -> Samples:
    """The sound with its loud parts at a level."""
    loud = sound[np.abs(sound) > 0.02 * np.abs(sound).max()]
    return (sound * (10 ** (dbfs / 20) / np.sqrt(np.mean(np.square(loud))))).astype(np.float32)


def trimmed(sound: Samples) -> Samples:
    """Without the silence at its ends."""
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    return sound[loud[0] : loud[-1] + 1]
