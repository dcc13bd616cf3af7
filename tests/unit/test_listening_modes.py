"""LiveEars in their four modes, on scripted sound: which sound reaches the voice activity, and which the recogniser."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pytest

from app import events
from app.decisions import Mode
from app.listening import LiveEars
from app.ports import Listened
from app.replay.room import ROOMS, Echo
from app.sound_ports import CardStats, EchoCanceller, Samples, TurnEnd
from audio.echo import WebRtcCanceller
from audio.frame import FRAME_SAMPLES, MIC_HZ, Frame
from audio.linear_echo import LinearCanceller
from audio.probe import speech_like

Steps = Mapping[int, Callable[[LiveEars], Any]]
"""What happens at a frame."""


def seconds(count: float) -> int:
    return round(count * MIC_HZ)


class Read(NamedTuple):
    text: str


class Loudest:
    """A recogniser that tells how many whole 20 ms of its sound are not silent."""

    def transcribe(self, samples: Samples) -> Read:
        whole = samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        return Read(str(int((np.abs(whole).max(axis=1) > 0.02).sum())))


class LevelActivity:
    """Speech where the sound is up. Keeps what it was given."""

    def __init__(self) -> None:
        self.windows: list[Samples] = []
        self.resets = 0

    def score(self, window: Samples) -> float:
        self.windows.append(window.copy())
        return 0.9 if np.abs(window).max() > 0.02 else 0.1

    def reset(self) -> None:
        self.resets += 1


class Gain:
    """A canceller that can be told from others, and counts what is asked of it."""

    def __init__(self, gain: float) -> None:
        self.gain = np.float32(gain)
        self.pairs: list[tuple[Samples, Samples]] = []
        self.resets = 0

    def process(self, near: Samples, far: Samples) -> Samples:
        self.pairs.append((near, far))
        return near * self.gain

    def reset(self) -> None:
        self.resets += 1


class Air:
    """A card: what the microphone hears, what the loudspeaker plays, and what happens at a frame.

    Sessions begin at 0, and `far` is told as it is played, 40 ms and more ahead.
    """

    def __init__(self, near: Samples, far: Samples, steps: Steps | None = None) -> None:
        self.ears: LiveEars
        self.near, self.far, self.steps = near, np.append(far, np.zeros(MIC_HZ, np.float32)), dict(steps or {})
        self.log: list[events.Event] = []
        self.lost: set[int] = set()
        self.frame = 0
        self.activity = LevelActivity()

    async def frames(self) -> AsyncIterator[Frame]:
        for at in range(0, self.near.size - FRAME_SAMPLES + 1, FRAME_SAMPLES):
            self.frame = at // FRAME_SAMPLES
            if self.frame in self.steps:
                done = self.steps[self.frame](self.ears)
                if isinstance(done, Awaitable):
                    await done
            if self.frame not in self.lost:
                yield Frame(self.near[at : at + FRAME_SAMPLES], at)
            await asyncio.sleep(0)

    def time_of_sample(self, sample: int) -> float:
        return sample / MIC_HZ

    def reference(self, at_s: float, count: int) -> Samples:
        start = round(at_s * MIC_HZ)
        return self.far[start : start + count]

    def stats(self) -> CardStats:
        return CardStats(0, 0)

    def run(
        self,
        mode: Mode | None = None,
        canceller: EchoCanceller | None = None,
        gentle: EchoCanceller | None = None,
        turn_end: TurnEnd | None = None,
    ) -> None:
        """Listen to all of it."""

        async def main() -> None:
            with ThreadPoolExecutor(1) as worker:
                self.ears = LiveEars(
                    self,
                    self.activity,
                    Loudest(),
                    canceller=canceller,
                    gentle=gentle,
                    turn_end=turn_end,
                    worker=worker,
                )
                if mode:
                    self.ears.set_mode(mode)
                await self.ears.run(self.log.append)

        asyncio.run(main())

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.log if isinstance(event, kind)]

    def edges(self) -> list[tuple[str, float]]:
        kinds = (events.SpeechStarted, events.SpeechStopped)
        return [(type(event).__name__[6:], event.at_s) for event in self.log if isinstance(event, kinds)]


def tone(length_s: float, at: list[tuple[float, float]], level: float = 0.1) -> Samples:
    """Noise of a level in the given spans, silence elsewhere."""
    sound = np.zeros(seconds(length_s), np.float32)
    noise = np.random.default_rng(0).uniform(-level, level, sound.size).astype(np.float32)
    for start, end in at:
        sound[seconds(start) : seconds(end)] = noise[seconds(start) : seconds(end)]
    return sound


def test_in_duplex_the_activity_hears_the_one_path_and_the_recogniser_reads_the_other() -> None:
    told: list[Listened] = []

    async def ask(ears: LiveEars) -> None:
        told.append(await ears.transcribe(1, 1.8))

    near = tone(2.0, [(0.5, 1.5)])
    far = tone(2.0, [(0.5, 1.5)])
    air = Air(near, far, {40: lambda ears: ears.start_utterance(1, 0.4), 92: ask})
    canceller, gentle = Gain(0.5), Gain(0.4)
    air.run(None, canceller, gentle)
    assert np.abs(air.activity.windows[20]).max() == pytest.approx(0.05, abs=0.001)
    assert told[0].text == "50", "what the recogniser reads is up for a second"
    assert [kind for kind, _ in air.edges()] == ["Started", "Stopped"]
    assert len(canceller.pairs) == len(gentle.pairs) == 100


def test_the_reference_is_read_forty_milliseconds_ahead() -> None:
    far = np.arange(seconds(3.0), dtype=np.float32) / 1e5
    air, gentle = Air(tone(2.0, []), far), Gain(1.0)
    air.lost = {30, 31}
    air.run(None, None, gentle)
    starts = [round(float(pair[1][0]) * 1e5) for pair in gentle.pairs]
    assert starts[:2] == [640, 960]
    assert starts[30] == 32 * FRAME_SAMPLES + 640, "by time, so lost frames shift nothing"


def test_in_headset_nothing_is_taken_away() -> None:
    canceller, gentle = Gain(0.0), Gain(0.0)
    air = Air(tone(2.0, [(0.5, 1.5)]), tone(2.0, [(0.0, 2.0)]))
    air.run("headset", canceller, gentle)
    assert len(air.edges()) == 2
    assert canceller.pairs == gentle.pairs == []


def test_in_half_the_microphone_is_shut_while_the_loudspeaker_sounds_and_a_quarter_of_a_second_more() -> None:
    near = tone(4.0, [(0.0, 4.0)])
    air = Air(near, tone(4.0, [(1.0, 2.0)]))
    air.run("half", Gain(1.0), Gain(1.0))
    shut = [place * 0.032 for place, window in enumerate(air.activity.windows) if not window.any()]
    assert shut[0] == pytest.approx(1.0, abs=0.08)
    assert shut[-1] + 0.032 == pytest.approx(2.25, abs=0.06)
    assert [kind for kind, _ in air.edges()] == ["Started", "Stopped", "Started"]
    assert np.diff([at_s for _, at_s in air.edges()])[1] == pytest.approx(1.25, abs=0.1)


def test_in_half_what_is_kept_for_the_recogniser_is_shut_too() -> None:
    told: list[Listened] = []

    async def ask(ears: LiveEars) -> None:
        told.append(await ears.transcribe(1, 3.9))

    steps: Steps = {10: lambda ears: ears.start_utterance(1, 0.0), 196: ask}
    Air(tone(4.0, [(0.0, 4.0)]), tone(4.0, [(1.0, 2.0)]), steps).run("half")
    assert int(told[0].text) == pytest.approx((3.9 - 1.25) * 50, abs=5)


def test_half_that_is_chosen_while_the_room_still_sounds_waits_for_its_end() -> None:
    air = Air(tone(4.0, [(0.0, 4.0)]), tone(4.0, [(0.5, 1.5)]), {80: lambda ears: ears.set_mode("half")})
    air.run("duplex", Gain(1.0), Gain(1.0))
    shut = [place * 0.032 for place, window in enumerate(air.activity.windows) if not window.any()]
    assert (shut[0], shut[-1] + 0.032) == (pytest.approx(1.6, abs=0.06), pytest.approx(1.75, abs=0.06))


def test_with_the_talk_key_down_a_loss_of_sound_ends_nothing_and_the_release_does() -> None:
    steps: Steps = {50: lambda ears: ears.set_talk_key(True), 170: lambda ears: ears.set_talk_key(False)}
    air = Air(tone(5.0, [(0.0, 5.0)]), tone(5.0, []), steps)
    air.lost = set(range(80, 150))
    air.run("ptt")
    assert air.edges() == [("Started", 1.0), ("Stopped", 3.4)]
    assert not np.concatenate(air.activity.windows)[-seconds(1.0) :].any(), "and the microphone is shut again"


def test_with_the_talk_key_speech_is_what_lies_between_press_and_release() -> None:
    told: list[Listened] = []
    tasks: list[asyncio.Task[None]] = []

    async def ask(ears: LiveEars) -> None:
        told.append(await ears.transcribe(1, 2.0))

    def release(ears: LiveEars) -> None:
        ears.set_talk_key(False)
        ears.set_talk_key(False)
        tasks.append(asyncio.get_running_loop().create_task(ask(ears)))

    def press(ears: LiveEars) -> None:
        ears.set_talk_key(True)
        ears.start_utterance(1, 0.5)

    air = Air(tone(4.0, [(0.0, 4.0)]), tone(4.0, []), {50: press, 100: release, 150: lambda _: tasks[0]})
    air.run("ptt")
    assert air.edges() == [("Started", 1.0), ("Stopped", 2.0)]
    assert int(told[0].text) == 55, "the last 100 ms were still on their way from the microphone"
    heard = [place * 0.032 for place, window in enumerate(air.activity.windows) if window.any()]
    assert (heard[0], heard[-1]) == (pytest.approx(1.0, abs=0.033), pytest.approx(2.1, abs=0.033))


def test_the_talk_key_does_nothing_in_other_modes() -> None:
    air = Air(tone(2.0, []), tone(2.0, []), {50: lambda ears: ears.set_talk_key(True)})
    air.run("duplex")
    assert air.edges() == []


def test_a_change_of_mode_ends_speech_and_learns_afresh() -> None:
    canceller, gentle = Gain(1.0), Gain(1.0)
    air = Air(tone(3.0, [(0.5, 2.5)]), tone(3.0, []), {75: lambda ears: ears.set_mode("half")})
    air.run("duplex", canceller, gentle)
    stopped = next(at_s for kind, at_s in air.edges() if kind == "Stopped")
    assert stopped == pytest.approx(1.5)
    assert [kind for kind, _ in air.edges()] == ["Started", "Stopped"] * 2, "and what goes on is speech again"
    assert canceller.resets == gentle.resets == 2
    assert air.activity.resets == 2


def test_a_long_gap_makes_the_cancellers_learn_afresh_and_a_short_one_does_not() -> None:
    for frames, resets in ((10, 0), (60, 1)):
        canceller, gentle = Gain(1.0), Gain(1.0)
        air = Air(tone(4.0, []), tone(4.0, []))
        air.lost = set(range(50, 50 + frames))
        air.run(None, canceller, gentle)
        assert (canceller.resets, gentle.resets) == (resets, resets)


class Listener:
    """Hears ends of turns: tells how much sound it was given, and on which thread."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def listen(self, samples: Samples) -> Mapping[str, float]:
        self.threads.append(threading.get_ident())
        return {"seconds": samples.size / MIC_HZ}


def test_the_end_of_a_turn_is_heard_in_its_last_eight_seconds_off_the_loop() -> None:
    told: list[Listened] = []

    def ask(until_s: float) -> Callable[[LiveEars], Any]:
        async def step(ears: LiveEars) -> None:
            told.append(await ears.transcribe(1, until_s))

        return step

    steps: Steps = {10: lambda ears: ears.start_utterance(1, 0.1), 150: ask(2.5), 600: ask(11.9)}
    listener = Listener()
    Air(tone(12.5, [(0.0, 12.5)]), tone(12.5, []), steps).run(None, turn_end=listener)
    assert [round(one.acoustic["seconds"], 2) for one in told] == [2.5, 8.0]
    assert threading.get_ident() not in listener.threads
    assert told[0].text


@pytest.fixture(scope="module")
def spoken() -> tuple[Samples, Samples]:
    """What is played for 13 s, and its echo in a room, over a floor of noise."""
    far = speech_like(MIC_HZ, 13.0)
    room = Echo(ROOMS["laptop"], FRAME_SAMPLES)
    blocks = [room.process(far[at : at + FRAME_SAMPLES]) for at in range(0, far.size, FRAME_SAMPLES)]
    floor = np.random.default_rng(5).normal(0, 10 ** (-65 / 20), far.size)
    return far, (np.concatenate(blocks) + floor).astype(np.float32)


def test_the_echo_is_measured_every_five_seconds_of_playback(spoken: tuple[Samples, Samples]) -> None:
    far, near = spoken
    air = Air(near, far)
    air.run("duplex", WebRtcCanceller(), LinearCanceller())
    _, second = air.of(events.EchoMeasured)
    assert second.erle_db > 25
    assert second.residual_share == 0
    # The room says how late its loudspeaker is; the way through the air adds half a millisecond or so.
    assert second.delay_ms == pytest.approx(1000 * ROOMS["laptop"].late_s, abs=3)
    assert air.edges() == []


def test_an_echo_that_nobody_takes_away_is_told_as_such(spoken: tuple[Samples, Samples]) -> None:
    far, near = spoken
    air = Air(near, far)
    air.run("duplex", Gain(1.0), LinearCanceller())
    measures = air.of(events.EchoMeasured)
    assert measures[-1].residual_share > 0.05
    assert air.edges()


def test_once_the_room_is_known_a_user_gets_through_an_echo_that_is_louder(
    spoken: tuple[Samples, Samples],
) -> None:
    far, near = spoken
    user = np.zeros_like(near)
    user[seconds(9) : seconds(10)] = 0.7 * speech_like(MIC_HZ, 2.0, seed=4)[: seconds(1)]
    lost_db: dict[str, float] = {}
    gentle: dict[str, EchoCanceller | None] = {"with the gentle one before it": LinearCanceller(), "alone": None}
    for name, before in gentle.items():
        air = Air(3 * near + user, far)
        air.run("duplex", WebRtcCanceller(), before)
        heard = np.concatenate(air.activity.windows)[seconds(9) : seconds(10)]
        power = np.sum(user[seconds(9) : seconds(10)] ** 2)
        lost_db[name] = float(10 * np.log10(power / np.sum(heard**2)))
    assert lost_db["with the gentle one before it"] < lost_db["alone"] - 3
    assert lost_db["with the gentle one before it"] < 4
