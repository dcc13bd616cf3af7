"""A private PulseAudio with null sinks: a loudspeaker and a microphone for tests, without hardware or a desktop.

What is played on the default sink `speaker` can be read back from its monitor. PortAudio reaches the server through
ALSA's `pulse` plugin, as on a desktop.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest


class SoundServer:
    """Starts on `start`, which may be called again after `kill`. Everything it makes lies in one directory.

    Args:
        directory: For the socket and the server's own files.
        hz: Sample rate of the null sinks.
    """

    def __init__(self, directory: Path, hz: int = 48_000) -> None:
        self._directory = directory
        self._socket = directory / "pulse.socket"
        self._hz = hz
        self._process: subprocess.Popen[bytes] | None = None
        self.environment = {
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_RUNTIME_PATH": str(directory),
            "PULSE_STATE_PATH": str(directory),
            "PULSE_COOKIE": str(directory / "cookie"),
            "HOME": str(directory),
        }
        """What a process needs to reach this server and no other."""

    def start(self) -> None:
        """Return once the server answers; its default source hears its default sink."""
        sinks = [f"module-null-sink sink_name={name} rate={self._hz} channels=1" for name in ("speaker", "room")]
        modules = [f"module-native-protocol-unix socket={self._socket} auth-anonymous=1", *sinks]
        command = [
            "pulseaudio",
            "-n",
            "--daemonize=no",
            "--use-pid-file=no",
            "--exit-idle-time=-1",
            "--disable-shm=yes",
        ]
        for module in modules:
            command += ["-L", module]
        with open(self._directory / "pulseaudio.log", "ab") as log:
            self._process = subprocess.Popen(command, env=os.environ | self.environment, stdout=log, stderr=log)
        # pactl waits for no server, but a fresh one answers within a few tries of its own connection timeout.
        for _ in range(200):
            if self._pactl("info").returncode == 0:
                break
            assert self._process.poll() is None, (self._directory / "pulseaudio.log").read_text()
        assert self._pactl("set-default-sink", "speaker").returncode == 0
        assert self._pactl("set-default-source", "speaker.monitor").returncode == 0

    def kill(self) -> None:
        """As if the machine lost it: SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server, if it runs."""
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(10)
            self._process = None
            self._socket.unlink(missing_ok=True)

    def _pactl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["pactl", *arguments], env=os.environ | self.environment, capture_output=True, timeout=20)


def require_pulseaudio() -> None:
    """Skip where PulseAudio is not installed; in CI that is a failure."""
    if shutil.which("pulseaudio") and shutil.which("pactl"):
        return
    if os.environ.get("CI"):
        pytest.fail("PulseAudio is not installed; .ci/run installs it")
    pytest.skip("PulseAudio is not installed; try: sudo apt-get install pulseaudio pulseaudio-utils libasound2-plugins")
