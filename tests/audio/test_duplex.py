"""The real PortAudio path against a private PulseAudio. The only tests that wait for real time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from app import devices as devices_command
from app.clock import WallClock
from audio import devices
from audio.duplex import DuplexCard, News, Stats
from audio.echo_meter import delay_s
from audio.errors import DeviceError
from audio.frame import FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ, Frame
from audio.linear_echo import LinearCanceller
from audio.playout import Playout
from audio.reference import AHEAD_S
from tests.soundserver import SoundServer, require_pulseaudio

pytestmark = pytest.mark.soundserver

now_s = WallClock().now_s


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoundServer]:
    require_pulseaudio()
    server = SoundServer(tmp_path)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    yield server
    server.stop()


class Ear:
    """Collects the card's frames, and lets a test wait for something."""

    def __init__(self, card: DuplexCard) -> None:
        self.card = card
        self.frames: list[Frame] = []
        self._more = asyncio.Event()

    async def listen(self) -> None:
        async with aclosing(self.card.frames()) as frames:
            async for frame in frames:
                self.frames.append(frame)
                self._more.set()

    async def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Wait for frames until `done`."""
        async with asyncio.timeout(seconds):
            while not done():
                self._more.clear()
                await self._more.wait()

    def sound(self) -> tuple[int, NDArray[np.float32]]:
        """Index of the first sample, and all sound."""
        return self.frames[0].first_sample, np.concatenate([frame.samples for frame in self.frames])


@asynccontextmanager
async def listening(playout: Playout) -> AsyncIterator[tuple[DuplexCard, Ear]]:
    """An open card whose microphone already hears: a null sink takes up to 2 s to wake."""
    with DuplexCard(playout, now_s) as card:
        ear = Ear(card)
        task = asyncio.create_task(ear.listen())
        await ear.until(lambda: len(ear.frames) > 25, 10)
        yield card, ear
    await asyncio.wait_for(task, 2)
    assert not [thread for thread in threading.enumerate() if thread.name == "sound card"]


def chirp(seconds: float) -> NDArray[np.float32]:
    at_s = np.arange(round(seconds * SPEAKER_HZ)) / SPEAKER_HZ
    sound = 0.3 * np.sin(2 * np.pi * (200 * at_s + 600 * at_s**2))
    return sound.astype(np.float32)


def find(sound: NDArray[np.float32], needle: NDArray[np.float32]) -> tuple[int, float]:
    """Where `needle` lies in `sound`, and how alike they are there (normalised correlation, 1 is equal)."""
    products = np.correlate(sound, needle, "valid")
    at = int(np.argmax(products))
    there = sound[at : at + needle.size]
    return at, float(products[at] / np.sqrt(np.sum(there**2) * np.sum(needle**2)))


class Heard(NamedTuple):
    """What came back of a chirp that was played."""

    alike: float
    audible_s: float
    captured_s: float
    stats: Stats
    firsts: list[int]
    """First samples of all frames."""


def play_and_hear() -> Heard:
    """Play a chirp and hear it. Up to three times: a machine that stalls for 40 ms has an xrun, whoever plays."""
    said = chirp(1.5)
    playout = Playout()

    async def main() -> Heard:
        async with listening(playout) as (card, ear):
            playout.begin(1)
            playout.enqueue(1, said)
            playout.finish(1)
            await ear.until(lambda: (head := playout.playhead(now_s())) is not None and head.done, 10)
            more = len(ear.frames) + 15
            await ear.until(lambda: len(ear.frames) > more, 5)
            head = playout.playhead(now_s())
            assert head is not None
            assert head.heard_samples == said.size
            assert head.started_at_s is not None
            first, sound = ear.sound()
            at, alike = find(sound, soxr.resample(said, SPEAKER_HZ, MIC_HZ))
            firsts = [frame.first_sample for frame in ear.frames]
            return Heard(alike, head.started_at_s, card.time_of_sample(first + at), card.stats(), firsts)

    heard = asyncio.run(main())
    for _ in range(2):
        if heard.stats.xruns:
            heard = asyncio.run(main())
    return heard


def test_what_is_played_is_heard_whole_and_when_the_playhead_says(server: SoundServer) -> None:
    heard = play_and_hear()
    assert heard.stats == (0, 0), "no xrun, no frame dropped"
    assert set(np.diff(heard.firsts)) == {FRAME_SAMPLES}
    assert heard.alike > 0.999, "a lost or repeated block would show"
    assert heard.captured_s == pytest.approx(heard.audible_s, abs=0.08), "both sides keep one clock"


def erle_and_delay(said: NDArray[np.float32]) -> tuple[float, float]:
    """How much of the last second the gentle canceller takes away, in dB, and how long after its reference it comes."""
    playout, near, far = Playout(), list[NDArray[np.float32]](), list[NDArray[np.float32]]()

    async def main() -> None:
        async with listening(playout) as (card, ear):
            await ear.until(lambda: len(ear.frames) > 200, 10)  # the server's own clocks settle for some seconds
            first = len(ear.frames)
            playout.begin(1)
            playout.enqueue(1, said)
            playout.finish(1)
            await ear.until(lambda: (head := playout.playhead(now_s())) is not None and head.done, 15)
            for frame in ear.frames[first:]:
                near.append(frame.samples)
                far.append(card.reference(card.time_of_sample(frame.first_sample) + AHEAD_S, FRAME_SAMPLES))

    asyncio.run(main())
    canceller = LinearCanceller()
    left = np.concatenate([canceller.process(*pair) for pair in zip(near, far, strict=True)])
    echo, played = np.concatenate(near), np.concatenate(far)
    part = slice(4 * MIC_HZ, 5 * MIC_HZ)
    erle_db = 10 * np.log10(np.sum(echo[part] ** 2) / np.sum(left[part] ** 2))
    return float(erle_db), delay_s(echo[part], played[part])


def test_the_reference_is_what_comes_back_and_never_later(server: SoundServer) -> None:
    """With noise, in which every sample counts. Up to three times: a machine that stalls loses sound."""
    said = np.random.default_rng(0).normal(0, 0.1, 6 * SPEAKER_HZ).astype(np.float32)
    for _ in range(3):
        erle_db, late_s = erle_and_delay(said)
        if erle_db > 15:
            break
    assert erle_db > 15
    assert 0.0 < late_s < 0.3


def test_a_lost_block_would_show() -> None:
    said = soxr.resample(chirp(1.5), SPEAKER_HZ, MIC_HZ)
    broken = np.concatenate([np.zeros(5000, np.float32), said[:8000], said[8320:], np.zeros(5000, np.float32)])
    assert find(broken, said)[1] < 0.9


def test_a_device_with_other_rates_is_resampled(server: SoundServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_RATES_HZ", {"input": (44_100,), "output": (44_100,)})
    heard = play_and_hear()
    assert heard.stats == (0, 0)
    assert set(np.diff(heard.firsts)) == {FRAME_SAMPLES}
    assert heard.alike > 0.99
    assert heard.captured_s == pytest.approx(heard.audible_s, abs=0.1)


def test_a_server_that_dies_is_told_and_the_card_comes_back(server: SoundServer) -> None:
    playout = Playout()
    told: list[News] = []

    async def main() -> float:
        async with listening(playout) as (card, ear), aclosing(card.news()) as news, asyncio.timeout(25):
            playout.begin(1)
            playout.enqueue(1, chirp(10.0))
            before = ear.frames[-1].first_sample
            await asyncio.to_thread(server.kill)
            told.append(await anext(news))
            count = len(ear.frames)
            await asyncio.to_thread(server.start)
            back_s = now_s()
            told.extend([await anext(news), await anext(news)])
            await ear.until(lambda: len(ear.frames) > count, 10)
            took_s = now_s() - back_s
            await ear.until(lambda: len(ear.frames) > count + 25, 5)
            after = ear.frames[count]
            assert after.first_sample > before + FRAME_SAMPLES, "the lost sound is a gap"
            assert card.time_of_sample(after.first_sample) == pytest.approx(back_s + took_s, abs=0.3)
            stood = heard_samples(playout)
            assert 0 < stood < 10 * SPEAKER_HZ
            await ear.until(lambda: heard_samples(playout) > stood, 5)
            return took_s

    took_s = asyncio.run(main())
    assert [item.lost is None for item in told] == [False, True, True]
    assert took_s < 3.0


def heard_samples(playout: Playout) -> int:
    head = playout.playhead(now_s())
    assert head is not None
    return head.heard_samples


async def until(done: Callable[[], bool], seconds: float) -> None:
    """Wait where no frame can wake us: the card is dead."""
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110  # nothing signals it
            await asyncio.sleep(0.01)


def test_a_consumer_that_sleeps_loses_the_oldest_frames_and_they_are_counted(
    server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audio.duplex._FRAMES_KEPT", 10)

    async def main() -> None:
        with DuplexCard(Playout(), now_s) as card:
            await until(lambda: card.stats().dropped_frames >= 5, 10)
            async with aclosing(card.frames()) as frames:
                first = await anext(frames)
            assert first.first_sample >= 5 * FRAME_SAMPLES
        assert [frame async for frame in card.frames()] == [], "a closed card gives nothing"
        card.close()

    asyncio.run(main())


def test_a_card_without_a_device_says_so_and_leaves_nothing_open(server: SoundServer) -> None:
    with pytest.raises(DeviceError, match='no loudspeaker "no such thing"'):
        DuplexCard(Playout(), now_s, output_device="no such thing")
    server.stop()
    with pytest.raises(DeviceError):
        DuplexCard(Playout(), now_s)
    server.start()
    DuplexCard(Playout(), now_s).close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sound card"]


def test_what_ends_the_thread_reaches_whoever_takes_the_frames(
    server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        with DuplexCard(Playout(), now_s) as card:

            def fail(_: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(card, "_carry", fail)
            async with asyncio.timeout(5):
                with pytest.raises(ZeroDivisionError):
                    _ = [frame async for frame in card.frames()]
                assert [item async for item in card.news()] == []

    asyncio.run(main())
    assert not [thread for thread in threading.enumerate() if thread.name == "sound card"]


def test_the_command_lists_the_devices_and_hears_its_own_chirp(
    server: SoundServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert devices_command.print_devices(test=False) == 0
    listed = capsys.readouterr().out
    assert listed.count(" * default  (ALSA") == 2
    assert "16 48 44.1 32 kHz" in listed
    levels: list[float] = []
    listener = threading.Thread(target=lambda: levels.extend(devices.levels(devices.find("input", ""), 5.0)))
    listener.start()
    while listener.is_alive():
        devices.play_chirp(devices.find("output", ""))
    assert max(levels) > -20.0
