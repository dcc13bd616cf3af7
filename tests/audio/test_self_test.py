"""`backtalk doctor --sound`: the test in simulated rooms, as fast as it computes, and on the sound server."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import doctor, self_test
from app.config import Audio, Config
from app.echo_guard import EchoGuard
from app.replay.card import SimulatedCard
from app.replay.room import ROOMS, Echo
from app.self_test import Trial
from app.sound_ports import Samples
from audio.echo import WebRtcCanceller
from audio.errors import DeviceError
from audio.frame import FRAME_SAMPLES, Frame
from audio.linear_echo import LinearCanceller
from audio.playout import Playout
from audio.probe import Heard
from audio.vad import SileroVad
from tests.soundserver import SoundServer, require_pulseaudio


class FastCard(SimulatedCard):
    """The simulated card without a clock: a block is over when the next is asked for."""

    def __init__(self, playout: Playout, echo: Echo | None, blocks: int = 1000) -> None:
        super().__init__(playout, self, seed=1, echo=echo)
        self._most = blocks

    def now_s(self) -> float:
        return self._due_s()

    async def sleep_until(self, at_s: float) -> None:
        raise NotImplementedError

    async def frames(self) -> AsyncGenerator[Frame, None]:
        for _ in range(self._most):
            yield self._turn()


def tried(echo: Echo | None, blocks: int = 1000, guard: EchoGuard | None = None) -> Trial:
    playout = Playout()
    card = FastCard(playout, echo, blocks)
    guard = guard or EchoGuard(WebRtcCanceller(), LinearCanceller())
    return asyncio.run(self_test.perform(card, playout, card.now_s, guard, SileroVad()))


class Idle:
    """Takes nothing away."""

    def process(self, near: Samples, far: Samples) -> Samples:
        return near

    def reset(self) -> None: ...


@pytest.mark.parametrize("room", list(ROOMS))
def test_in_a_room_it_tells_delay_level_and_erle(room: str) -> None:
    box = ROOMS[room]
    found = tried(Echo(box, FRAME_SAMPLES))
    assert found.heard.echo
    metres = sum((a - b) ** 2 for a, b in zip(box.loudspeaker, box.microphone, strict=True)) ** 0.5
    assert found.heard.delay_s - 0.04 == pytest.approx(box.late_s + metres / 343, abs=0.002)
    assert found.heard.echo_db == pytest.approx(box.echo_db, abs=2)
    assert found.heard.erle_db > 15
    assert self_test.told(found, Config()).state == "good"


def test_without_an_echo_it_says_headset_and_that_the_canceller_does_no_harm() -> None:
    found = tried(None)
    assert not found.heard.echo
    told = self_test.told(found, Config())
    assert (told.state, "headset" in told.found, '"headset"' in told.fix) == ("good", True, True)


def test_a_canceller_that_fails_makes_it_propose_half() -> None:
    found = tried(Echo(ROOMS["laptop"], FRAME_SAMPLES), guard=EchoGuard(Idle(), Idle()))
    told = self_test.told(found, Config())
    assert found.residual_share > 0.3
    assert (told.state, '"half"' in told.fix) == ("warning", True)


class Bursting(Idle):
    """Takes everything away, but for 0.4 s after 7 s of playback."""

    def __init__(self) -> None:
        self.frames = 0

    def process(self, near: Samples, far: Samples) -> Samples:
        self.frames += bool(self.frames or far.any())
        return near if 350 <= self.frames < 370 else np.zeros_like(near)


def test_one_burst_is_no_canceller_that_fails() -> None:
    found = tried(Echo(ROOMS["laptop"], FRAME_SAMPLES), guard=EchoGuard(Bursting(), Idle()))
    assert self_test.told(found, Config()).state == "good", found


@pytest.mark.parametrize(
    ("mode", "echo", "residual", "state", "fits"),
    [
        ("duplex", True, 0.0, "good", "duplex"),
        ("half", True, 0.0, "good", "duplex"),
        ("headset", True, 0.0, "warning", "duplex"),
        ("headset", False, 0.0, "good", "headset"),
        ("duplex", True, 0.2, "warning", "half"),
        ("headset", True, 0.2, "warning", "half"),
        ("half", True, 0.2, "good", "half"),
        ("ptt", True, 0.2, "good", "half"),
    ],
)
def test_what_it_means_for_each_mode(mode: Any, echo: bool, residual: float, state: str, fits: str) -> None:
    told = self_test.told(Trial(Heard(-30, echo, 0.1, -6, 30), residual), Config(audio=Audio(mode=mode)))
    assert told.state == state
    assert f"mode {fits} fits" in told.found
    assert bool(told.fix) == (fits != mode)


def test_a_dead_microphone_is_told_as_such() -> None:
    told = self_test.told(Trial(Heard(-120, False, 0, 0, 0), 0), Config())
    assert (told.state, told.found) == ("warning", "the microphone hears nothing at all")
    assert told.fix


def test_a_microphone_that_ends_is_an_error_in_three_parts() -> None:
    with pytest.raises(DeviceError) as caught:
        tried(None, blocks=100)
    assert caught.value.fix


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    require_pulseaudio()
    server = SoundServer(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()


def examined(sound: bool) -> list[dict[str, str]]:
    out = io.StringIO()
    doctor.main(Config(), out, as_json=True, sound=sound)
    return json.loads(out.getvalue())


@pytest.mark.soundserver
def test_on_a_sound_server_whose_monitor_is_the_microphone(server: SoundServer) -> None:
    found = {finding["subject"]: finding for finding in examined(sound=True)}
    assert "16 48" in found["microphone rates"]["found"]
    assert "48 is used" in found["loudspeaker rates"]["found"]
    echo = found["echo"]
    assert echo["state"] == "good", echo
    assert "mode duplex fits" in echo["found"]
    assert "+0 dB" in echo["found"] or "-0 dB" in echo["found"]


@pytest.mark.soundserver
def test_without_a_sound_server_it_is_told_and_asked_for_only_on_request(server: SoundServer) -> None:
    server.stop()
    assert "sound test" not in {finding["subject"] for finding in examined(sound=False)}
    (found,) = [finding for finding in examined(sound=True) if finding["subject"] == "sound test"]
    assert found["state"] == "bad"
    assert found["fix"]
