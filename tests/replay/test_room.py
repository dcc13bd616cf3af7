"""Rooms against what pencil and paper say of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from app.errors import ConfigError
from app.replay import room
from app.replay.room import ROOMS, Box, Echo, find, images, response, wall_reflection
from app.sound_ports import Samples

BLOCK = 320


def through(echo: Echo, sound: Samples) -> Samples:
    return np.concatenate([echo.process(sound[at : at + BLOCK]) for at in range(0, sound.size, BLOCK)])


def noise(seconds: float, level: float = 0.05) -> Samples:
    return (np.random.default_rng(1).standard_normal(round(seconds * 16_000)) * level).astype(np.float32)


def test_images_lie_where_mirrors_put_them() -> None:
    box = Box((4.0, 3.0, 2.5), (1.0, 1.0, 1.0), (2.0, 1.0, 1.0), 0.3, 0.0)
    delays, gains = images(box, 0.05)
    one = wall_reflection(box)
    # The loudspeaker itself, and its mirror images behind each of the six walls.
    mirrored = [1.0, 3.0, 5.0, math.hypot(1, 2), math.hypot(1, 4), math.hypot(1, 2), math.hypot(1, 3)]
    for distance, bounces in zip(mirrored, [0, 1, 1, 1, 1, 1, 1], strict=True):
        at = np.flatnonzero(np.abs(delays - distance / 343) < 1e-9)
        assert np.any(np.isclose(gains[at], one**bounces / (4 * np.pi * distance)))
    # Their number grows as the volume of the sphere that they fill.
    assert delays.size == pytest.approx(4 / 3 * np.pi * (0.05 * 343) ** 3 / (4 * 3 * 2.5), rel=0.05)


@pytest.mark.parametrize("name", ROOMS)
def test_sound_arrives_after_its_way_and_dies_away_in_time(name: str) -> None:
    box, taps = ROOMS[name], response(ROOMS[name])
    way = math.dist(box.loudspeaker, box.microphone) / 343 * 16_000
    first = np.flatnonzero(np.abs(taps) > 1e-3)[0]
    assert first == pytest.approx(way, abs=1)
    assert reverb_s(taps[first + 80 :]) == pytest.approx(box.reverb_s, rel=0.25)


def test_harder_walls_ring_longer() -> None:
    box = ROOMS["laptop"]
    assert reverb_s(response(box._replace(reverb_s=0.5))) > 1.5 * reverb_s(response(box))


def reverb_s(taps: NDArray[np.float64]) -> float:
    """Schroeder's backward integration (JASA 37, 1965), from -5 to -20 dB."""
    left = np.cumsum(np.square(taps)[::-1])[::-1]
    level_db = 10 * np.log10(left / left[0] + 1e-15)
    start, end = np.argmax(level_db < -5), np.argmax(level_db < -20)
    return float(end - start) * 4 / 16_000


@pytest.mark.parametrize("name", ROOMS)
def test_blocks_give_what_one_convolution_gives_at_the_level_of_the_room(name: str) -> None:
    box = ROOMS[name]._replace(drift_ppm=0.0)
    sound = noise(1.5)
    whole = np.convolve(np.tanh(0.5 * sound.astype(np.float64)) / 0.5, response(box))
    late = round(box.late_s * 16_000)
    expected = np.concatenate([np.zeros(late), whole])[: sound.size] * 10 ** (box.echo_db / 20)
    got = through(Echo(box, BLOCK), sound)
    assert np.abs(got - expected).max() < 1e-6
    assert level_db(got[8000:]) - level_db(sound) == pytest.approx(box.echo_db, abs=0.5)
    assert level_db(through(Echo(box, BLOCK, echo_db=-20), sound)[8000:]) - level_db(sound) == pytest.approx(
        -20, abs=0.5
    )


def level_db(sound: Samples) -> float:
    return 20 * math.log10(float(np.std(sound)))


def test_the_loudspeaker_bends_loud_sound_and_hardly_a_soft_one() -> None:
    time_s = np.arange(16_000) / 16_000
    box = ROOMS["laptop"]
    shares: list[float] = []
    for level in (0.05, 1.0):
        heard = through(Echo(box, BLOCK), (level * np.sin(2 * np.pi * 1000 * time_s)).astype(np.float32))
        lines = np.abs(np.fft.rfft(heard[8000:]))
        shares.append(float(lines[1500] / lines[500]))
    at_3_khz, at_1_khz = (abs(np.fft.rfft(response(box), 16_000)[hz]) for hz in (3000, 1000))
    # tanh(x/2) = x/2 - x^3/24 + ...: a full sine comes with a third harmonic of 2 %.
    assert shares[1] == pytest.approx(0.02 * at_3_khz / at_1_khz, rel=0.2)
    assert shares[0] < shares[1] / 100


def test_a_slow_clock_lowers_the_tone() -> None:
    time_s = np.arange(10 * 16_000) / 16_000
    tone = (0.01 * np.sin(2 * np.pi * 1000 * time_s)).astype(np.float32)
    heard = through(Echo(ROOMS["laptop"]._replace(drift_ppm=500.0), BLOCK), tone)[32_000:]
    lines = np.abs(np.fft.rfft(heard * np.hanning(heard.size), 1 << 20))
    assert int(np.argmax(lines)) * 16_000 / (1 << 20) == pytest.approx(999.5, abs=0.03)


def test_no_room_of_that_name() -> None:
    assert find("kitchen") is room.ROOMS["kitchen"]
    with pytest.raises(ConfigError, match="there is no room 'kichen'") as told:
        find("kichen")
    assert told.value.fix == "--room kitchen"
