"""The whole program from outside: its process and events, and a user who plays sound into its microphone."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import TypeVar

import msgspec

from app import events as ev
from app.clock import WallClock
from app.replay.director import UserSound
from app.replay.script import Line
from app.replay.user import Rendered
from audio.frame import MIC_HZ
from audio.wav import write_wav
from tests.soundserver import SoundServer

Wanted = TypeVar("Wanted")

_decoder = msgspec.json.Decoder(ev.Event)


class Program:
    """A command of backtalk as a user starts it, its events, and its end.

    Its microphone hears the sink `room` and nothing of its own loudspeaker. It is also its session clock, as told by
    the stamps of its events to the few ms that a line takes to get here; so a Director can perform for it.

    Args:
        server: Carries its sound.
        directory: For its journal and what it writes on stderr.
        arguments: Of the command line.
        sinks: Take every event as it comes.
    """

    def __init__(
        self, server: SoundServer, directory: Path, *arguments: str, sinks: tuple[Callable[[ev.Event], None], ...] = ()
    ) -> None:
        self._command = [sys.executable, "-m", "app.cli", *arguments]
        self._directory = directory
        self._sinks = sinks
        self._clock = WallClock()
        self._zero_s = math.inf
        self._come = asyncio.Event()
        self.lines: list[bytes] = []
        """What it wrote on stdout."""
        self.events: list[ev.Event] = []
        self.errors: list[str] = []
        """Lines on stderr."""
        self.environment = (
            os.environ
            | server.environment
            | {"XDG_STATE_HOME": str(directory / "state"), "PULSE_SINK": "speaker", "PULSE_SOURCE": "room.monitor"}
        )
        self.process: asyncio.subprocess.Process

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[Program]:
        """The program runs inside, and is killed if it still does at the end."""
        self.process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_events(self.process.stdout))
            tasks.create_task(self._read_errors(self.process.stderr))
            try:
                yield self
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self.process.kill()
                await self.process.wait()

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait until what it wrote makes `done` true."""
        try:
            async with asyncio.timeout(seconds):
                while not done():
                    self._come.clear()
                    await self._come.wait()
        except TimeoutError as error:
            seen = [event for event in self.events if not isinstance(event, ev.LevelsMeasured)]
            error.add_note("\n".join(map(str, [*seen[-40:], f"now {self.now_s():.1f} s", *self.errors])))
            raise

    async def first(
        self, kind: type[Wanted], seconds: float, when: Callable[[Wanted], bool] = lambda _: True
    ) -> Wanted:
        """The first event of a kind for which `when` holds, be it past or to come."""
        await self.until(lambda: any(when(event) for event in self.of(kind)), seconds)
        return next(event for event in self.of(kind) if when(event))

    async def end(self, how: signal.Signals, seconds: float) -> tuple[int, float]:
        """Signal it; its exit status, and how long it took, s."""
        since_s = self._clock.now_s()
        self.process.send_signal(how)
        status = await asyncio.wait_for(self.process.wait(), seconds)
        return status, self._clock.now_s() - since_s

    def of(self, kind: type[Wanted]) -> list[Wanted]:
        """Its events of a kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def journals(self) -> list[Path]:
        """Files that it kept."""
        return sorted(self._directory.glob("state/backtalk/journals/*"))

    def now_s(self) -> float:
        """Seconds since its session began."""
        return self._clock.now_s() - self._zero_s

    async def sleep_until(self, at_s: float) -> None:
        """Return when its session is `at_s` old."""
        await asyncio.sleep(max(0.0, at_s - self.now_s()))

    async def _read_events(self, stdout: asyncio.StreamReader) -> None:
        async for line in stdout:
            event = _decoder.decode(line)
            self._zero_s = min(self._zero_s, self._clock.now_s() - event.t_s)
            self.lines.append(line)
            self.events.append(event)
            for sink in self._sinks:
                sink(event)
            self._come.set()

    async def _read_errors(self, stderr: asyncio.StreamReader) -> None:
        async for line in stderr:
            self.errors.append(line.decode().rstrip())
            self._come.set()


class Talker:
    """A user: plays lines into the room.

    Args:
        program: Hears it.
        rendered: The lines as sound.
        directory: For the sound files.
    """

    def __init__(self, program: Program, rendered: dict[Line, Rendered], directory: Path) -> None:
        self._program, self._rendered, self._directory = program, rendered, directory
        self._players: list[subprocess.Popen[bytes]] = []

    def perform(self, line: Line) -> UserSound:
        """Begin to play a line; satisfies a Director. When it sounds is not known to the ms: the server has buffers."""
        sound = self._rendered[line]
        path = self._directory / f"{len(self._players)}.wav"
        write_wav(path, sound.samples, MIC_HZ)
        command = ["paplay", "--device=room", "--latency-msec=40", str(path)]
        self._players.append(subprocess.Popen(command, env=self._program.environment))
        now_s = self._program.now_s()
        return UserSound(line, now_s + sound.first / MIC_HZ, now_s + sound.last / MIC_HZ)

    def __enter__(self) -> Talker:
        return self

    def __exit__(self, *_: object) -> None:
        for player in self._players:
            player.kill()
            player.wait()


@contextlib.contextmanager
def awake(server: SoundServer) -> Generator[None]:
    """Somebody listens to the loudspeaker meanwhile: else a null sink needs 2 s to go on after an underrun, which no
    hardware does."""
    command = ["parec", "--device=speaker.monitor", "--latency-msec=20", "--raw"]
    listener = subprocess.Popen(command, env=os.environ | server.environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        listener.kill()
        listener.wait()


def clients(server: SoundServer) -> list[str]:
    """What is connected to the server, by name."""
    listed = subprocess.run(
        ["pactl", "list", "clients"], env=os.environ | server.environment, capture_output=True, text=True, check=True
    )
    named = [line.split("=", 1)[1].strip(' "') for line in listed.stdout.splitlines() if "application.name =" in line]
    return [name for name in named if name != "pactl"]
