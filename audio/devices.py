"""Which sound devices there are, which one a name means, and which rates and channels it takes.

PortAudio and sounddevice are loaded inside the functions: without libportaudio2 even the import of sounddevice fails.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import math
import os
from collections.abc import Generator, Iterator
from types import ModuleType
from typing import Literal, NamedTuple

import numpy as np

from audio.errors import DeviceError
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples

Direction = Literal["input", "output"]

_RATES_HZ = {"input": (MIC_HZ, 48_000, 44_100, 32_000), "output": (SPEAKER_HZ, 44_100, 32_000, 16_000)}
SILENT_DBFS = -80.0
"""Below this a microphone hears nothing at all: it is muted or not the one meant."""
_NO_DEVICE = "plug one in or start the sound server, then: backtalk devices"


class Device(NamedTuple):
    """A sound device as PortAudio sees it, in one direction."""

    number: int
    name: str
    host_api: str
    direction: Direction
    channels: int
    """The most it has."""
    default: bool


class Format(NamedTuple):
    """What a stream of a device is opened with."""

    hz: int
    channels: int


def library() -> ModuleType:
    """The sounddevice module.

    Raises:
        DeviceError: It, or PortAudio, is not there.
    """
    try:
        import sounddevice
    except OSError as error:  # PortAudio itself is missing or can't start
        raise DeviceError(
            "sound devices can't be used", str(error), "try: sudo apt-get install libportaudio2"
        ) from error
    except ImportError as error:
        raise DeviceError("sound devices can't be used", str(error), "try: pip install sounddevice") from error
    _hush_alsa()
    return sounddevice


_say_nothing = ctypes.CFUNCTYPE(None)(lambda: None)


@functools.cache
def _hush_alsa() -> None:
    """ALSA prints each underrun on stderr, from a thread of its own and over any screen; the card counts them."""
    with contextlib.suppress(OSError, AttributeError):  # another system, or sound without ALSA
        ctypes.CDLL("libasound.so.2").snd_lib_error_set_handler(_say_nothing)


@contextlib.contextmanager
def quiet_stderr() -> Generator[None, None, None]:
    """Nothing reaches file descriptor 2 meanwhile: ALSA prints each failed probe there, over any screen."""
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def refresh() -> None:
    """Look for devices anew. Ends every stream of this process: PortAudio keeps its list until it starts again.

    Raises:
        DeviceError: There is no sound library, or it does not start.
    """
    sound = library()
    try:
        with quiet_stderr():
            with contextlib.suppress(sound.PortAudioError):  # it has not started, or not again after the last try
                sound._terminate()
            sound._initialize()
    except sound.PortAudioError as error:
        raise _unlisted(error) from error


def devices(direction: Direction) -> list[Device]:
    """All devices of a direction, in PortAudio's order.

    Raises:
        DeviceError: There is no sound library, or it can't tell.
    """
    sound = library()
    try:
        apis, infos = sound.query_hostapis(), sound.query_devices()
    except sound.PortAudioError as error:
        raise _unlisted(error) from error
    default = _default_index(sound, direction)
    return [
        Device(
            index,
            str(info["name"]),
            str(apis[info["hostapi"]]["name"]),
            direction,
            int(info[f"max_{direction}_channels"]),
            index == default,
        )
        for index, info in enumerate(infos)
        if info[f"max_{direction}_channels"] > 0
    ]


def _default_index(sound: ModuleType, direction: Direction) -> int:
    try:
        return int(sound.query_devices(kind=direction)["index"])
    except (sound.PortAudioError, ValueError):
        return -1


def find(direction: Direction, wanted: str) -> Device:
    """The device that a user means.

    Args:
        direction: What it is for.
        wanted: Its index, its name or a part of the name (case does not matter); empty for the default.

    Raises:
        DeviceError: There is none, or several could be meant.
    """
    return choose(devices(direction), direction, wanted)


def choose(there: list[Device], direction: Direction, wanted: str) -> Device:
    """`find` among the given devices."""
    use = {"input": "microphone", "output": "loudspeaker"}[direction]
    if not there:
        raise DeviceError(f"no {use}", f"the system has no {direction} device", _NO_DEVICE)
    if not wanted:
        return next((device for device in there if device.default), there[0])
    if wanted.isdecimal():
        fits = [device for device in there if device.number == int(wanted)]
    else:
        fits = [device for device in there if device.name.casefold() == wanted.casefold()]
        fits = fits or [device for device in there if wanted.casefold() in device.name.casefold()]
    if len(fits) == 1:
        return fits[0]
    if fits:
        names = ", ".join(f"{device.number} ({device.name})" for device in fits)
        raise DeviceError(f'no single {use} "{wanted}"', f"it could be {names}", "give the index instead")
    names = [device.name for device in there]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.3) or names[:3]
    raise DeviceError(
        f'no {use} "{wanted}"', f"there is {', '.join(near)}", "`backtalk devices` lists all names and indices"
    )


def formats(device: Device) -> Iterator[Format]:
    """What a device says it takes, the best first; each is tried as it is asked for."""
    sound = library()
    check = sound.check_input_settings if device.direction == "input" else sound.check_output_settings
    for hz in _RATES_HZ[device.direction]:
        for channels in (1, 2):
            if channels <= device.channels and _takes(sound, check, device, hz, channels):
                yield Format(hz, channels)


def _takes(sound: ModuleType, check: object, device: Device, hz: int, channels: int) -> bool:
    assert callable(check)
    try:
        with quiet_stderr():
            check(device=device.number, channels=channels, dtype="float32", samplerate=hz)
    except (sound.PortAudioError, ValueError):
        return False
    return True


def best_format(device: Device) -> Format:
    """The first of `formats`.

    Raises:
        DeviceError: The device takes none of them.
    """
    for chosen in formats(device):
        return chosen
    tried = ", ".join(f"{hz} Hz" for hz in _RATES_HZ[device.direction])
    raise DeviceError(
        f'"{device.name}" can\'t be used', f"it takes none of {tried} in mono or stereo", "choose another one"
    )


def levels(device: Device, seconds: float) -> Iterator[float]:
    """What a microphone hears: one level in dBFS (root mean square) for each 250 ms.

    Raises:
        DeviceError: The device refuses.
    """
    sound = library()
    chosen = best_format(device)
    block = chosen.hz // 4
    try:
        with quiet_stderr():
            stream = sound.InputStream(chosen.hz, 0, device.number, chosen.channels, "float32")
        with stream:
            for _ in range(math.ceil(seconds * 4)):
                heard, _overflow = stream.read(block)
                yield dbfs(heard[:, 0])
    except sound.PortAudioError as error:
        raise _refused(device, error) from error


def play_chirp(device: Device, seconds: float = 0.6) -> None:
    """Play a soft tone that rises from 300 to 1200 Hz, and return once it was heard.

    Raises:
        DeviceError: The device refuses.
    """
    sound = library()
    chosen = best_format(device)
    tone = chirp(chosen.hz, seconds)
    try:
        with quiet_stderr():
            stream = sound.OutputStream(chosen.hz, 0, device.number, chosen.channels, "float32")
        with stream:
            stream.write(np.repeat(tone[:, None], chosen.channels, axis=1))
    except sound.PortAudioError as error:
        raise _refused(device, error) from error


def chirp(hz: int, seconds: float) -> Samples:
    """float32[hz * seconds]: a tone that rises from 300 to 1200 Hz at -12 dBFS, its ends faded."""
    at_s = np.arange(round(hz * seconds)) / hz
    tone = 0.25 * np.sin(2 * np.pi * (300 * at_s + (1200 - 300) / (2 * seconds) * at_s**2))
    return (tone * np.minimum(1.0, np.minimum(at_s, seconds - at_s) / 0.02)).astype(np.float32)


def dbfs(samples: Samples) -> float:
    """Level of float32[n]: root mean square against full scale, at least -120."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
    return 10.0 * math.log10(max(power, 1e-12))


def _unlisted(error: Exception) -> DeviceError:
    return DeviceError("sound devices can't be listed", str(error), "check that the sound server runs")


def _refused(device: Device, error: Exception) -> DeviceError:
    return DeviceError(
        f'"{device.name}" can\'t be used', str(error), "check that the sound server runs and nothing else holds it"
    )
