"""Devices: which one a name means, and what is said when there is none."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from app.devices import line, meter
from audio import devices
from audio.devices import Device, choose
from audio.errors import DeviceError

THERE = [
    Device(0, "HDA Intel PCH: ALC257 (hw:0,0)", "ALSA", "output", 2, False),
    Device(3, "USB Headset: Audio (hw:1,0)", "ALSA", "output", 2, False),
    Device(5, "pulse", "ALSA", "output", 32, False),
    Device(6, "default", "ALSA", "output", 32, True),
]


@pytest.mark.parametrize(
    ("wanted", "number"), [("", 6), ("3", 3), ("pulse", 5), ("usb headset", 3), ("DEFAULT", 6), ("alc257", 0)]
)
def test_a_device_is_found_by_index_name_or_part_of_it(wanted: str, number: int) -> None:
    assert choose(THERE, "output", wanted).number == number


@pytest.mark.parametrize(
    ("wanted", "why"),
    [("pulsse", "there is pulse"), ("hw:", "it could be 0 (HDA"), ("9", "there is"), ("Bose", "there is")],
)
def test_a_device_that_is_not_there_names_those_that_are(wanted: str, why: str) -> None:
    with pytest.raises(DeviceError) as caught:
        choose(THERE, "output", wanted)
    assert wanted in caught.value.what
    assert caught.value.why.startswith(why)


def test_no_device_at_all_says_what_to_do() -> None:
    with pytest.raises(DeviceError) as caught:
        choose([], "input", "")
    assert caught.value.what == "no microphone"
    assert "backtalk devices" in caught.value.fix


def test_without_portaudio_the_error_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(DeviceError) as caught:
        devices.devices("input")
    assert caught.value.why == "PortAudio library not found"
    assert "apt-get install libportaudio2" in caught.value.fix


def test_rates_are_tried_from_the_best_on_and_a_device_that_takes_none_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A USB microphone as in the field: 16 kHz is refused (PortAudio's -9997), and so is mono."""

    class PortAudioError(Exception):
        pass

    taken = {(44_100, 2), (48_000, 2)}

    def check(*, device: int, channels: int, dtype: str, samplerate: int) -> None:
        if (samplerate, channels) not in taken:
            raise PortAudioError("Invalid sample rate", -9997)

    fake = SimpleNamespace(PortAudioError=PortAudioError, check_input_settings=check)
    monkeypatch.setattr(devices, "library", lambda: fake)
    microphone = Device(2, "USB", "ALSA", "input", 2, True)
    assert list(devices.formats(microphone)) == [(48_000, 2), (44_100, 2)]
    assert devices.best_format(microphone) == (48_000, 2)
    taken.clear()
    with pytest.raises(DeviceError, match="takes none of 16000 Hz, 48000 Hz"):
        devices.best_format(microphone)


def test_levels_are_what_they_are_by_definition() -> None:
    sine = np.sin(np.arange(48_000) * 2 * np.pi * 1000 / 48_000).astype(np.float32)
    assert devices.dbfs(sine) == pytest.approx(-3.01, abs=0.01)
    assert devices.dbfs(0.1 * sine) == pytest.approx(-23.01, abs=0.01)
    assert devices.dbfs(np.zeros(10, np.float32)) == -120.0
    assert meter(-120.0).count("█") == 0
    assert meter(-30.0).count("█") == 15
    assert meter(3.0).count("█") == 30


def test_a_line_tells_what_a_person_needs() -> None:
    assert line(THERE[3], [48_000, 44_100]) == "   6 * default  (ALSA, 32 channels, 48 44.1 kHz)"
    assert line(THERE[0], []).startswith("   0   HDA Intel")


def test_alsa_prints_nothing_over_the_screen(capfd: pytest.CaptureFixture[str]) -> None:
    devices.library()
    alsa, handle = ctypes.CDLL("libasound.so.2"), ctypes.c_void_p()
    assert alsa.snd_pcm_open(ctypes.byref(handle), b"no such thing", 0, 0) < 0
    assert capfd.readouterr().err == ""
    alsa.snd_lib_error_set_handler(None)
    assert alsa.snd_pcm_open(ctypes.byref(handle), b"no such thing", 0, 0) < 0
    assert "no such thing" in capfd.readouterr().err, "it would have been heard of"
    alsa.snd_lib_error_set_handler(devices._say_nothing)  # pyright: ignore[reportPrivateUsage]  # as it was


class Refusing:
    """PortAudio as it is when the sound server goes away: it fails to start, or to list."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.started, self.starts, self.lists = True, True, True

    def _terminate(self) -> None:
        if not self.started:
            raise self.PortAudioError("PortAudio not initialized")
        self.started = False

    def _initialize(self) -> None:
        if not self.starts:
            raise self.PortAudioError("Error initializing PortAudio")
        self.started = True

    def query_hostapis(self) -> list[dict[str, str]]:
        if not self.lists:
            raise self.PortAudioError("Internal PortAudio error")
        return []

    def query_devices(self) -> list[dict[str, str]]:
        return []


def test_after_a_failed_start_the_next_look_for_devices_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    portaudio = Refusing()
    monkeypatch.setattr(devices, "library", lambda: portaudio)
    portaudio.starts = False
    for _ in range(2):
        with pytest.raises(DeviceError, match="Error initializing"):
            devices.refresh()
    portaudio.starts = True
    devices.refresh()
    assert portaudio.started


def test_a_list_that_portaudio_refuses_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    portaudio = Refusing()
    portaudio.lists = False
    monkeypatch.setattr(devices, "library", lambda: portaudio)
    with pytest.raises(DeviceError, match="Internal PortAudio error"):
        devices.devices("input")
