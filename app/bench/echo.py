"""Does the assistant hear itself, and does it still hear the user? Simulated rooms, the real ears, no waiting.

The assistant's voice is played in each room of app/replay/room.py, half the time with the echo softer than a user would
be and half the time louder; then somebody talks over it every few seconds. What the ears take for speech counts as the
conversation would count it.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.bench.echo_room import REPLY_DBFS, USER_DBFS, Material, RoomCard, levelled, trimmed
from app.bench.report import Report, Row, publish, row, tell
from app.bench.texts import BREAD, LIGHTHOUSE
from app.config import Config
from app.events import Event, SpeechStarted, SpeechStopped
from app.listening import LiveEars
from app.replay.report import machine_facts
from app.replay.room import ROOMS, Box
from app.sound_ports import Samples, TranscriptLike
from app.timing import Turns
from audio.echo import WebRtcCanceller
from audio.frame import FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ
from audio.linear_echo import LinearCanceller
from audio.vad import SileroVad

SECONDS = 1800
"""Playback in each room."""
_GOOD_ERLE_DB = 25.0
_ECHOES_DB = {"softer": -6.0, "louder": 6.0}  # against the user
_INTERRUPTIONS = (
    "Wait, I did not mean that.",
    "Can you tell me something else?",
    "No, stop, that is enough for now.",
    "How long does it have to stay in the oven?",
    "And who was the man in the tower?",
)
_HIGHER = 1.15  # the user is the assistant's voice, faster and higher: another talker, hard to tell apart
_FRAMES_A_SECOND = MIC_HZ // FRAME_SAMPLES
_WITHIN_S = 2.0  # an interruption that is heard later was missed


class Case(NamedTuple):
    """One room with one loudness of the echo, and what happened there."""

    name: str
    erle_db: list[float]
    """A value for each second of playback, from the very first."""
    windows: int
    false_windows: int
    """Windows of the voice activity that looked like speech while nobody spoke."""
    self_interruptions: int
    holds_ms: list[float]
    """From the true onset of each interruption that was heard until the reply would have been held."""
    missed: int
    frame_us: list[float]
    """Time of the ears for a frame, a mean for each second."""


def run(config: Config, path: Path | None, seconds: int = SECONDS) -> int:
    """Measure all rooms, print the table, and write the report.

    Args:
        config: The voice, and the times of a conversation.
        path: Where the report goes; None: nowhere.
        seconds: Playback in each room.

    Returns:
        0 if the assistant never interrupted itself, else 1.
    """
    material = speak(config)
    wanted = list(product(ROOMS.items(), _ECHOES_DB.items()))
    with ThreadPoolExecutor(2) as pool:
        jobs = [
            pool.submit(measure, f"{room} {loudness}", box, db, material, seconds / 2, config.turns, number)
            for number, ((room, box), (loudness, db)) in enumerate(wanted)
        ]
        cases: list[Case] = []
        for job in jobs:
            cases.append(job.result())
            tell(f"{cases[-1].name}: {len(cases)} of {len(jobs)}")
    tell("")
    found = Report(
        bench="echo",
        machine=machine_facts(),
        model="WebRTC AEC3, Silero VAD",
        device="cpu",
        dtype="float32",
        rows=[one for case in cases for one in rows(case)],
    )
    publish(found, path)
    played_s = sum(len(case.erle_db) for case in cases)
    failed = [case for case in cases if case.self_interruptions]
    for case in failed:
        print(f"FAILED: {case.name}: interrupted itself {case.self_interruptions} times", file=sys.stderr)
    slow = [f"{case.name} ({early_db(case):.0f} dB)" for case in cases if early_db(case) < _GOOD_ERLE_DB]
    print(f"{sum(case.self_interruptions for case in cases)} self-interruptions in {played_s} s of playback")
    print(f"ERLE under {_GOOD_ERLE_DB:.0f} dB in the third second: {', '.join(slow) or 'nowhere'}")
    return 1 if failed else 0


def speak(config: Config) -> Material:
    """The material in the configured voice."""
    import soxr

    from app import models, wiring

    voice = wiring.load_voice(models.resolve(config.models.voice, "voice", offline=config.offline))
    texts = [text.strip() + "." for text in " ".join((LIGHTHOUSE, BREAD)).replace("\n", " ").split(".") if text.strip()]

    def said(text: str, to_hz: float, dbfs: float) -> Samples:
        tell(f"saying: {text}")
        return levelled(soxr.resample(voice.synthesise(text).samples, SPEAKER_HZ, to_hz), dbfs)

    return Material(
        [said(text, MIC_HZ, REPLY_DBFS) for text in texts],
        [trimmed(said(text, MIC_HZ / _HIGHER, USER_DBFS)) for text in _INTERRUPTIONS],
    )


def measure(name: str, box: Box, echo_db: float, material: Material, seconds: float, turns: Turns, seed: int) -> Case:
    """Play and listen in one room.

    Args:
        name: Names the case.
        box: The room.
        echo_db: Level of the echo against the user's.
        material: What is said.
        seconds: Playback before anybody interrupts.
        turns: When speech holds a reply.
        seed: For the order of the sentences, the noise and the times of the interruptions.
    """
    room = RoomCard(box, echo_db, material, round(seconds), seed)
    canceller, activity = MeasuredCanceller(), CountingActivity(round(seconds * MIC_HZ))
    ears = LiveEars(room, activity, NoWords(), canceller=canceller, gentle=LinearCanceller())
    watch = Watch(room, turns)
    asyncio.run(ears.run(watch))
    watch.close()
    holds_ms = [watch.hold_after(onset, onset + _WITHIN_S) for onset in room.onsets_s]
    heard = [hold_ms for hold_ms in holds_ms if hold_ms is not None]
    pairs = list(zip(room.powers, canceller.powers, strict=True))[: round(seconds)]
    return Case(
        name,
        [10 * math.log10((before + 1e-12) / (after + 1e-12)) for before, after in pairs],
        activity.windows,
        activity.false_windows,
        sum(held_s < seconds for held_s in watch.held_at_s),
        heard,
        len(holds_ms) - len(heard),
        room.frame_us,
    )


def early_db(case: Case) -> float:
    """ERLE over the second that follows the first two."""
    return case.erle_db[2]


def rows(case: Case) -> list[Row]:
    """What a case adds to the report."""
    share = case.false_windows / max(1, case.windows)
    spoken = len(case.holds_ms) + case.missed
    return [
        row(f"{case.name}: erle_after_2s", {}, "dB", [early_db(case)]),
        row(f"{case.name}: erle", {"from_s": 3}, "dB", case.erle_db[3:]),
        row(f"{case.name}: self_interruptions", {"seconds": len(case.erle_db)}, "", [case.self_interruptions]),
        row(f"{case.name}: false_speech", {"windows": case.windows}, "%", [100 * share]),
        row(f"{case.name}: onset_to_hold", {"missed": case.missed, "of": spoken}, "ms", case.holds_ms or [0.0]),
        row(f"{case.name}: ears", {}, "us/frame", case.frame_us),
    ]


class Watch:
    """Takes the ears' events, and notes when a reply would have been held.

    Args:
        card: Knows the time.
        turns: When speech holds a reply.
    """

    def __init__(self, card: RoomCard, turns: Turns) -> None:
        self._card, self._turns = card, turns
        self._since_s: float | None = None
        self.held_at_s: list[float] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, SpeechStarted):
            self._since_s = event.at_s
        elif isinstance(event, SpeechStopped):
            self.close()

    def close(self) -> None:
        """Speech has ended, or the recording."""
        if self._since_s is not None:
            warm = self._since_s > self._turns.warm_up_ms / 1000
            due_s = self._since_s + (self._turns.hold_after_ms if warm else self._turns.warm_up_hold_ms) / 1000
            if due_s < self._card.now_s:
                self.held_at_s.append(due_s)
        self._since_s = None

    def hold_after(self, onset_s: float, until_s: float) -> float | None:
        """How long after an onset the reply was held, ms; None: not in time."""
        return next((1000 * (held_s - onset_s) for held_s in self.held_at_s if onset_s < held_s < until_s), None)


class MeasuredCanceller:
    """The canceller of the live ears, with the power of what it leaves in each second."""

    def __init__(self) -> None:
        self._canceller = WebRtcCanceller()
        self._frame_powers: list[float] = []

    @property
    def powers(self) -> Sequence[float]:
        """A mean square for each second."""
        whole = len(self._frame_powers) // _FRAMES_A_SECOND
        return np.reshape(self._frame_powers[: whole * _FRAMES_A_SECOND], (whole, _FRAMES_A_SECOND)).mean(1).tolist()

    def process(self, near: Samples, far: Samples) -> Samples:
        left = self._canceller.process(near, far)
        self._frame_powers.append(float(np.dot(left, left)) / left.size)
        return left

    def reset(self) -> None:
        self._canceller.reset()


class CountingActivity:
    """The voice activity of the live ears, which counts up to a sample what looks like speech."""

    def __init__(self, until: int) -> None:
        self._activity, self._until = SileroVad(), until
        self.windows = self.false_windows = 0

    def score(self, window: Samples) -> float:
        score = self._activity.score(window)
        if (self.windows + 1) * window.size <= self._until:
            self.windows += 1
            self.false_windows += score >= 0.5
        return score

    def reset(self) -> None:
        self._activity.reset()


class NoWords:
    """No utterance is ever begun, so nothing is decoded."""

    def transcribe(self, samples: Samples) -> TranscriptLike:
        raise NotImplementedError
