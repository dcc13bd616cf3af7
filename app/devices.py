"""What `backtalk devices` prints: all sound devices, which are the defaults, what they take, and whether they work."""

from __future__ import annotations

from audio import devices
from audio.devices import Device, Direction

_TITLES: dict[Direction, str] = {"input": "Microphones", "output": "Loudspeakers"}
_METER_DBFS = (-60.0, 0.0)
_METER_WIDTH = 30
_LISTEN_S = 3.0


def print_devices(*, test: bool) -> int:
    """List the devices; on request play a tone on the default loudspeaker and show the default microphone's level.

    Returns:
        The exit status.

    Raises:
        DeviceError: There is no sound library, or with `test` no device to test.
    """
    devices.refresh()
    for direction, title in _TITLES.items():
        print(f"{title}:")
        there = devices.devices(direction)
        for device in there:
            print(line(device, [chosen.hz for chosen in devices.formats(device) if chosen.channels == 1]))
        if not there:
            print("  none; plug one in or start the sound server")
    if test:
        _test()
    return 0


def line(device: Device, rates_hz: list[int]) -> str:
    """One device: its number, the mark of the default, name, host API, channels and rates."""
    rates = " ".join(f"{hz / 1000:g}" for hz in rates_hz)
    mark = "*" if device.default else " "
    takes = f"{rates} kHz" if rates else "stereo only or none of our rates"
    return f"{device.number:>4} {mark} {device.name}  ({device.host_api}, {device.channels} channels, {takes})"


def meter(dbfs: float) -> str:
    """A level as a bar, -60 to 0 dBFS."""
    low, high = _METER_DBFS
    filled = round(_METER_WIDTH * min(1.0, max(0.0, (dbfs - low) / (high - low))))
    return "█" * filled + "·" * (_METER_WIDTH - filled)


def _test() -> None:
    speaker = devices.find("output", "")
    print(f'\na chirp on "{speaker.name}"', flush=True)
    devices.play_chirp(speaker)
    microphone = devices.find("input", "")
    print(f'{_LISTEN_S:.0f} s of "{microphone.name}"; say something', flush=True)
    levels: list[float] = []
    for dbfs in devices.levels(microphone, _LISTEN_S):
        levels.append(dbfs)
        print(f"  {dbfs:6.1f} dBFS {meter(dbfs)}", flush=True)
    loudest = max(levels)
    if loudest < devices.SILENT_DBFS:
        print(f"  only silence ({loudest:.0f} dBFS): the microphone may be muted, or another one is meant")
