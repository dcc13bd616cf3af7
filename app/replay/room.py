"""A room around the simulated sound card: what the loudspeaker plays comes back into the microphone.

The way from one to the other is computed when the room is built, by the image method for a box (Allen and Berkley,
"Image method for efficiently simulating small-room acoustics", JASA 65, 1979): each wall reflects, so the sound seems
to come from mirror images of the loudspeaker too. That is a page of numpy that pencil and paper can check; measured
responses would be data to carry along, and a library one more to install. Before the air comes the loudspeaker, which
bends loud sound a little, and plays nothing below 100 Hz.
"""

from __future__ import annotations

import difflib
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError
from app.sound_ports import Samples
from audio.frame import MIC_HZ

SOUND_M_PER_S = 343.0
_HIGHPASS_HZ = 100.0
_DRIVE = 0.5  # a full sine comes out with 2 % of its third harmonic, as from a small loudspeaker
_LONGEST_S = 0.6
_LONGEST_DRIFT_SAMPLES = MIC_HZ  # an hour of 278 ppm; what is later stays so late
Point = tuple[float, float, float]


class Box(NamedTuple):
    """A room with flat walls that all reflect alike. Lengths in m."""

    size: Point
    loudspeaker: Point
    microphone: Point
    reverb_s: float
    """Time in which sound dies away by 60 dB."""
    echo_db: float
    """Level of the echo at the microphone against what is played, which is as loud as the user."""
    late_s: float = 0.0
    """How much later than the driver says sound leaves the loudspeaker."""
    drift_ppm: float = 0.0
    """How much slower the loudspeaker's clock runs than the microphone's."""


ROOMS = {
    "laptop": Box((3.2, 2.8, 2.5), (1.5, 1.2, 0.8), (1.5, 1.4, 0.9), 0.25, -6.0, late_s=0.02),
    "living": Box((5.2, 4.1, 2.6), (1.0, 2.0, 1.1), (3.1, 2.3, 0.8), 0.40, -12.0, drift_ppm=60.0),
    "kitchen": Box((3.6, 3.0, 2.5), (0.6, 1.4, 1.2), (1.6, 1.7, 0.9), 0.55, -6.0, late_s=0.05),
    "speakerphone": Box((6.5, 4.6, 2.8), (3.0, 2.2, 0.8), (3.1, 2.25, 0.8), 0.45, 0.0),
}
"""Near and dry; far, on two clocks; hard walls; and one case for both, where the echo is as loud as the user."""


class Echo:
    """The loudspeaker's sound as it reaches the microphone. Streaming: blocks come in order, all of one size.

    Args:
        box: The room.
        block_samples: Samples of a block.
        echo_db: Level of the echo, instead of the room's own.
    """

    def __init__(self, box: Box, block_samples: int, echo_db: float | None = None) -> None:
        level = 10 ** ((box.echo_db if echo_db is None else echo_db) / 20)
        taps = np.concatenate([np.zeros(round(box.late_s * MIC_HZ)), response(box) * level])
        self._block = block_samples
        self._drift = box.drift_ppm * 1e-6
        self._played = np.zeros(_LONGEST_DRIFT_SAMPLES + block_samples)
        self._count = 0
        self._size = 1 << (taps.size + block_samples - 1).bit_length()
        self._spectrum = np.fft.rfft(taps, self._size)
        self._heard = np.zeros(self._size)
        """The newest sound, the newest block last."""

    def process(self, played: Samples) -> Samples:
        """float32[block_samples] at 16 kHz that sounds now -> what the microphone gets of it, and of all before it."""
        self._heard = np.roll(self._heard, -self._block)
        self._heard[-self._block :] = np.tanh(_DRIVE * (self._drifted(played) if self._drift else played)) / _DRIVE
        # Overlap-save: only the last samples of the circular convolution are those of the linear one.
        sound = np.fft.irfft(np.fft.rfft(self._heard) * self._spectrum, self._size)
        return sound[-self._block :].astype(np.float32)

    def _drifted(self, played: Samples) -> NDArray[np.float64]:
        """What a slower clock has played by now: each sample later than the one before it (cubic interpolation)."""
        self._played = np.roll(self._played, -self._block)
        self._played[-self._block :] = played
        newest = self._played.size - self._block + np.arange(self._block)
        late = 2 + self._drift * (self._count + np.arange(self._block))
        self._count += self._block
        at = np.maximum(newest - late, 1)
        left = at.astype(np.int64)
        x = at - left
        weights = (
            -x * (x - 1) * (x - 2) / 6,
            (x + 1) * (x - 1) * (x - 2) / 2,
            -(x + 1) * x * (x - 2) / 2,
            (x + 1) * x * (x - 1) / 6,
        )
        return np.sum([weight * self._played[left + k] for k, weight in enumerate(weights, -1)], axis=0)


def find(name: str) -> Box:
    """A room by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    box = ROOMS.get(name)
    if box is None:
        close = difflib.get_close_matches(name, ROOMS, n=1) or list(ROOMS)
        raise ConfigError(f"there is no room {name!r}", f"there are {', '.join(ROOMS)}", f"--room {close[0]}")
    return box


def response(box: Box) -> NDArray[np.float64]:
    """The impulse response from loudspeaker to microphone: float64[n] at 16 kHz, of energy 1.

    Its first sound comes after the distance between the two, and it ends where it has died away by 60 dB.
    """
    reach_s = min(box.reverb_s, _LONGEST_S)
    length = math.ceil(reach_s * MIC_HZ)
    delays, gains = images(box, reach_s)
    places = np.rint(delays * MIC_HZ).astype(np.int64)
    inside = places < length
    taps = _highpass(np.bincount(places[inside], gains[inside], length).astype(np.float64))
    return taps / np.sqrt(np.sum(np.square(taps)))


def images(box: Box, reach_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When each image of the loudspeaker is heard, in s, and how loud, for all images as near as `reach_s`.

    Image (n, p) along an axis of length L lies at 2 n L + (1 - 2 p) x and was reflected |n - p| + |n| times.
    """
    reflection = wall_reflection(box)
    squares: list[NDArray[np.float64]] = []
    bounces: list[NDArray[np.int64]] = []
    for length, source, ear in zip(box.size, box.loudspeaker, box.microphone, strict=True):
        most = math.ceil(reach_s * SOUND_M_PER_S / (2 * length)) + 1
        n, p = (grid.ravel() for grid in np.meshgrid(np.arange(-most, most + 1), [0, 1]))
        squares.append((2 * n * length + (1 - 2 * p) * source - ear) ** 2)
        bounces.append(np.abs(n - p) + np.abs(n))
    distance = np.sqrt(_outer_sum(squares)).ravel()
    count = _outer_sum(bounces).ravel()
    near = distance < reach_s * SOUND_M_PER_S
    gains = reflection ** count[near] / (4 * np.pi * distance[near])
    return distance[near] / SOUND_M_PER_S, gains


def wall_reflection(box: Box) -> float:
    """Share of the pressure that a wall gives back, from the reverberation time by Eyring's formula (1930).

    T60 = 0.161 V / (-S ln(1 - a)), where 1 - a, the share of energy, is the square of what is returned here.
    """
    x, y, z = box.size
    surface = 2 * (x * y + y * z + z * x)
    return math.exp(-0.5 * 0.161 * x * y * z / (surface * box.reverb_s))


def _outer_sum(axes: list[NDArray[np.float64]] | list[NDArray[np.int64]]) -> NDArray[np.float64]:
    x, y, z = axes
    return np.add.outer(np.add.outer(x, y), z)


def _highpass(taps: NDArray[np.float64]) -> NDArray[np.float64]:
    """The filter of Allen and Berkley's program, which takes away what no loudspeaker plays and no small room has."""
    size = 2 * taps.size
    decay = math.exp(-2 * np.pi * _HIGHPASS_HZ / MIC_HZ)
    back = np.exp(-2j * np.pi * np.fft.rfftfreq(size))  # one sample back
    above = 1 - (1 + decay) * back + decay * back**2
    below = 1 - 2 * decay * math.cos(2 * np.pi * _HIGHPASS_HZ / MIC_HZ) * back + decay**2 * back**2
    return np.fft.irfft(np.fft.rfft(taps, size) * above / below, size)[: taps.size]
