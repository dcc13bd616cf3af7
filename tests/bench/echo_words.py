"""What should the recogniser read while the assistant is talked over? `python -m tests.bench.echo_words` prints JSON.

Two talkers speak over the assistant's own voice in the rooms of app/replay/room.py, with the echo softer and louder
than they are. The recogniser reads the raw microphone, the canceller that decides barge-in (audio/echo.py), the linear
one (audio/linear_echo.py), and that one with the raw microphone from when playback stopped. In the scene `yields`
playback is ducked and stops as app/turns.py does it; in `goes on` it never stops.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import soxr

from app import models
from app.machine import describe
from app.replay.room import ROOMS, Box, Echo
from app.sound_ports import EchoCanceller, Samples
from audio.asr import Whisper
from audio.echo import WebRtcCanceller
from audio.frame import FRAME_SAMPLES, MIC_HZ, SPEAKER_HZ
from audio.linear_echo import LinearCanceller
from audio.tts import PiperVoice
from audio.wav import read_wav
from tests.bench.asr_window import normalised, word_errors

REPLY = (
    "The moon is the only natural satellite of the earth, and it moves around us once in about twenty seven days.",
    "People have looked at it for as long as there have been people, and it always shows the same face.",
    "It pulls at the sea and makes the tides. Twelve men have walked on it so far, and some more will follow.",
    "Its surface is covered with dust, rocks and craters, and there is no air to breathe, so nothing grows there.",
    "A good soup begins with onions, a little oil and patience. Cut the vegetables small and add salt early.",
    "The railway changed how towns grew, because goods and workers could travel farther in an hour than in a day.",
)
TEXTS = (
    "Wait a moment please, I only wanted to know how far away it is.",
    "Could you tell me something about the city of Paris instead?",
    "No, stop there, that is not the question that I asked you.",
    "What time does the last train to the airport leave tonight?",
    "I think that we should talk about dinner and the weather tomorrow.",
    "Please remind me to call my brother when I get home.",
)
TALKERS = ("slt", "rms")  # flite's
ECHOES_DB = (-6, 6)  # against the user
SCENES = ("yields", "goes on")
USER_DBFS, FLOOR_DBFS = -26.0, -65.0
PERIOD = 8 * MIC_HZ
DUCKED, STOPPED = 110 * MIC_HZ // 1000, 280 * MIC_HZ // 1000
DUCK = 10 ** (-15 / 20)
LEAD = 40 * MIC_HZ // 1000
PREROLL, TAIL = 320 * MIC_HZ // 1000, 100 * MIC_HZ // 1000


class Scene(NamedTuple):
    """What the microphone hears, and what the loudspeaker plays meanwhile."""

    near: Samples
    far: Samples
    spoken: list[tuple[int, int]]
    """Where each text lies."""


def level(samples: Samples, to_dbfs: float) -> Samples:
    """The sound with its loud parts at a level."""
    loud = samples[np.abs(samples) > 0.02 * np.abs(samples).max()]
    return samples * np.float32(10 ** (to_dbfs / 20) / np.sqrt(np.mean(loud**2)))


def talker(name: str) -> list[Samples]:
    """The texts in a voice of flite, at 16 kHz, without silence at the ends."""
    lines: list[Samples] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "line.wav")
        for text in TEXTS:
            subprocess.run(["flite", "-voice", name, "-t", text, "-o", str(path)], check=True)
            sound = level(read_wav(path, MIC_HZ), USER_DBFS)
            loud = np.flatnonzero(np.abs(sound) > 1e-3)
            lines.append(sound[loud[0] : loud[-1]])
    return lines


def scene(reply: Samples, lines: list[Samples], box: Box, echo_db: float, *, yields: bool, seed: int) -> Scene:
    """A talker who speaks a text in each 8 s, over a reply and its echo."""
    far = np.resize(reply, PERIOD * (len(lines) + 1)).copy()
    random = np.random.default_rng(seed)
    user, spoken = np.zeros_like(far), list[tuple[int, int]]()
    for number, line in enumerate(lines, 1):
        start = number * PERIOD - MIC_HZ + int(random.integers(MIC_HZ))
        user[start : start + line.size] = line
        spoken.append((start, start + line.size))
        if yields:
            far[start + DUCKED : start + STOPPED] *= DUCK
            far[start + STOPPED : start + line.size + MIC_HZ // 2] = 0
    room = Echo(box, FRAME_SAMPLES)
    echo = np.concatenate([room.process(block) for block in blocks(far)])
    echo *= 10 ** ((USER_DBFS + echo_db) / 20) / np.sqrt(np.mean(echo[np.abs(echo) > 0.02 * np.abs(echo).max()] ** 2))
    floor = random.standard_normal(far.size) * 10 ** (FLOOR_DBFS / 20)
    return Scene((user + echo + floor).astype(np.float32), far, spoken)


def blocks(sound: Samples) -> list[Samples]:
    return [sound[at : at + FRAME_SAMPLES] for at in range(0, sound.size - FRAME_SAMPLES + 1, FRAME_SAMPLES)]


def cleaned(heard: Scene, canceller: EchoCanceller) -> Samples:
    ahead = np.append(heard.far[LEAD:], np.zeros(LEAD, np.float32))
    return np.concatenate([canceller.process(*pair) for pair in zip(blocks(heard.near), blocks(ahead), strict=True)])


def paths(heard: Scene) -> dict[str, list[Samples]]:
    """Each utterance as it comes out of each way to the recogniser."""
    linear = cleaned(heard, LinearCanceller())
    sounds = {"raw": heard.near, "webrtc": cleaned(heard, WebRtcCanceller()), "linear": linear}
    spans = [(start - PREROLL, end + TAIL) for start, end in heard.spoken]
    cut = {name: [sound[start:end] for start, end in spans] for name, sound in sounds.items()}
    stops = [PREROLL + STOPPED for _ in spans]
    pairs = zip(cut["linear"], cut["raw"], stops, strict=True)
    return cut | {"linear, raw when it stopped": [np.append(one[:stop], raw[stop:]) for one, raw, stop in pairs]}


def errors(whisper: Whisper, sounds: list[Samples]) -> int:
    pairs = zip(TEXTS, (whisper.transcribe(sound).text for sound in sounds), strict=True)
    return sum(word_errors(normalised(said), normalised(heard)) for said, heard in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr", default="whisper-tiny.en")
    parser.add_argument("--voice", default="en_US-joe-medium")
    options = parser.parse_args()
    whisper = Whisper(models.resolve(options.asr, "asr"), 2)
    voice = PiperVoice(models.resolve(options.voice, "voice"))
    clips = [soxr.resample(voice.synthesise(text).samples, SPEAKER_HZ, MIC_HZ) for text in REPLY]
    reply = level(np.concatenate(clips).astype(np.float32), -20.0)
    words = sum(len(normalised(text)) for text in TEXTS)
    rows: list[dict[str, object]] = []
    for name in TALKERS:
        lines = talker(name)
        rows.append({"name": "no echo", "params": {"talker": name}, "errors": errors(whisper, lines), "words": words})
        for room, echo_db, kind in itertools.product(ROOMS, ECHOES_DB, SCENES):
            heard = scene(reply, lines, ROOMS[room], echo_db, yields=kind == "yields", seed=len(rows))
            params = {"talker": name, "room": room, "echo_db": echo_db, "playback": kind}
            for path, sounds in paths(heard).items():
                if kind == "yields" or path != "linear, raw when it stopped":
                    rows.append({"name": path, "params": params, "errors": errors(whisper, sounds), "words": words})
    report = {
        "bench": "echo_words",
        "machine": msgspec.to_builtins(describe()),
        "model": options.asr,
        "device": "cpu",
        "dtype": "int8",
        "rows": rows,
        "totals": totals(rows),
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def totals(rows: list[dict[str, object]]) -> dict[str, float]:
    """Word error rate of each path in each scene."""
    sums: dict[str, list[int]] = {}
    for row in rows:
        params, wrong, of = row["params"], row["errors"], row["words"]
        assert isinstance(params, dict)
        assert isinstance(wrong, int)
        assert isinstance(of, int)
        so_far = sums.setdefault(f"{row['name']}, playback {params.get('playback', 'silent')}", [0, 0])
        so_far[0] += wrong
        so_far[1] += of
    return {name: round(wrong / of, 4) for name, (wrong, of) in sums.items()}


if __name__ == "__main__":
    main()
