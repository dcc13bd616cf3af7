"""The guard lets a canceller work only where there is an echo for it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from app.echo_guard import EchoGuard
from app.replay.room import ROOMS, Echo
from app.sound_ports import EchoCanceller, Samples
from audio.echo import WebRtcCanceller
from audio.echo_meter import EchoMeasure
from audio.frame import FRAME_SAMPLES, MIC_HZ
from audio.linear_echo import LinearCanceller
from audio.probe import speech_like


class Eater:
    """A canceller that takes everything away."""

    def process(self, near: Samples, far: Samples) -> Samples:
        return np.zeros_like(near)

    def reset(self) -> None: ...


class Gone(NamedTuple):
    """What went through a guard."""

    heard: Samples
    kept: Samples
    rises: dict[float, float]
    """When an echo was noticed or gone, s, to its rise in dB."""
    measures: list[EchoMeasure]


def through(near: Samples, far: Samples, canceller: EchoCanceller, gentle: EchoCanceller) -> Gone:
    guard = EchoGuard(canceller, gentle)
    gone = Gone(np.zeros_like(near), np.zeros_like(near), {}, [])
    for at in range(0, near.size, FRAME_SAMPLES):
        frame = slice(at, at + FRAME_SAMPLES)
        out = guard.process(near[frame], far[frame], key_down=False, speech=False)
        gone.heard[frame], gone.kept[frame] = out.heard, out.kept
        if out.rise_db is not None:
            gone.rises[at / MIC_HZ] = out.rise_db
        if measure := guard.take_measure():
            gone.measures.append(measure)
    return gone


def seconds(count: float) -> int:
    return round(count * MIC_HZ)


def floor(size: int) -> Samples:
    return np.random.default_rng(5).normal(0, 10 ** (-65 / 20), size).astype(np.float32)


def in_room(name: str, far: Samples) -> Samples:
    room = Echo(ROOMS[name], FRAME_SAMPLES)
    return np.concatenate([room.process(far[at : at + FRAME_SAMPLES]) for at in range(0, far.size, FRAME_SAMPLES)])


FAR = np.concatenate([np.zeros(seconds(1.0), np.float32), speech_like(MIC_HZ, 9.0)])
USER = np.zeros_like(FAR)
USER[seconds(4) : seconds(6)] = speech_like(MIC_HZ, 2.0, seed=4)


def test_without_an_echo_the_microphone_comes_through_bit_for_bit() -> None:
    near = floor(FAR.size) + USER
    gone = through(near, FAR, Eater(), LinearCanceller())
    assert np.array_equal(gone.heard, near)
    assert np.array_equal(gone.kept, near)
    assert list(gone.rises.values()) == [0.0]
    assert gone.measures == []


def test_from_an_echo_on_each_canceller_gives_its_own() -> None:
    gone = through(floor(FAR.size) + in_room("laptop", FAR), FAR, Eater(), LinearCanceller())
    ((noticed_s, rise_db),) = gone.rises.items()
    assert 1.0 < noticed_s < 1.3
    assert rise_db > 20
    assert gone.heard[: seconds(noticed_s)].all()
    assert not gone.heard[seconds(noticed_s) :].any()
    assert gone.kept[seconds(noticed_s) :].any()
    assert gone.measures


@pytest.mark.parametrize("room", ROOMS)
def test_headphones_in_and_out_again(room: str) -> None:
    near = np.concatenate([in_room(room, FAR), USER, in_room(room, FAR)]) + floor(3 * FAR.size)
    far = np.tile(FAR, 3)
    gone = through(near, far, WebRtcCanceller(), LinearCanceller())
    assert [rise_db > 0 for rise_db in gone.rises.values()] == [True, False, True]
    _, without_s, again_s = gone.rises
    first_s, second_s = (times * FAR.size / MIC_HZ + 1.0 for times in (1, 2))  # when playback begins
    assert without_s - first_s < 1.0
    assert again_s - second_s < 3.5
    raw = slice(seconds(without_s), 2 * FAR.size)
    assert np.array_equal(gone.heard[raw], near[raw])
    for end in (FAR.size, near.size):
        last = slice(end - seconds(3), end)
        assert np.sum(gone.heard[last] ** 2) < 0.01 * np.sum(near[last] ** 2)
