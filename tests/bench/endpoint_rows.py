"""What the real models make of the clips: the committed features that tests/bench/fit_endpoint.py fits."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app import models
from app.brain import LaneBrain
from app.clock import WallClock
from app.config import Llm
from app.endpoint import open_ended, signs
from app.language import Language
from audio.asr import Whisper
from audio.turn_end import SmartTurn
from engine.session import Engine
from tests.bench.endpoint_clips import HUMAN_VOICE, Clip, clips, human, texts, voices

FEATURES = Path(__file__).with_name("endpoint_features.csv")
_ACOUSTIC = ("smart_turn", "speech_s", "pitch_slope", "energy_slope")
_COLUMNS = ("test", "voice", "text", "finished", "heard", "end_logprob", *_ACOUSTIC)


class Row(NamedTuple):
    """A clip as the application saw it."""

    test: bool
    """Voice and text are both kept from the fit."""
    voice: str
    text: str
    finished: bool
    heard: str
    """The recogniser's text."""
    end_logprob: float
    """From `Brain.read_ahead` of the text without its last marks."""
    acoustic: dict[str, float]
    """From `SmartTurn.listen`; of espeak-ng only `speech_s`."""

    @property
    def human(self) -> bool:
        return self.voice == HUMAN_VOICE


def make() -> list[Row]:
    """Speak everything and listen to it. Takes ten minutes of two cores; one that was not understood at all is left."""
    whisper = Whisper(models.resolve("whisper-tiny.en", "asr"))
    smart_turn = SmartTurn(models.resolve("smart-turn-v3.2", "turn"))
    heard = [
        (test, clip, whisper.transcribe(clip.sound).text, smart_turn.listen(clip.sound)) for test, clip in _spoken()
    ]
    heard = [row for row in heard if row[2]]
    logprobs = asyncio.run(end_logprobs({text for _, _, text, _ in heard}))
    return [
        Row(test, clip.voice, clip.text, clip.finished, text, logprobs[text], _believed(clip, acoustic))
        for test, clip, text, acoustic in heard
    ]


def _believed(clip: Clip, acoustic: dict[str, float]) -> dict[str, float]:
    """espeak-ng's melody is no person's: Smart Turn ranks its ends below its pauses. Only what it says counts."""
    return {"speech_s": acoustic["speech_s"]} if clip.voice.startswith("espeak") else acoustic


def _spoken() -> Iterator[tuple[bool, Clip]]:
    """Every clip, and whether it is for the test."""
    for clip in human():
        yield True, clip
    piper = models.resolve("en_US-joe-medium", "voice")
    for test in (True, False):
        for name, speak in voices(piper, test):
            for clip in clips(name, speak, texts(test)):
                yield test, clip


async def end_logprobs(said: Iterable[str]) -> dict[str, float]:
    """For each text how likely it ends the user's turn, to the default model after the built-in opening."""
    engine = Engine.load(models.resolve("smollm2-135m", "llm"))
    try:
        brain = LaneBrain(engine, Llm(), clock=WallClock(), seed=0)
        await brain.open()
        found = {text: (await brain.read_ahead(open_ended(text))).end_logprob for text in sorted(said)}
        return {text: value for text, value in found.items() if value is not None}
    finally:
        engine.close()


def write(rows: Iterable[Row], path: Path = FEATURES) -> None:
    """Write rows as CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for row in rows:
            sound = [f"{row.acoustic[name]:.5g}" if name in row.acoustic else "" for name in _ACOUSTIC]
            flags = (int(row.test), row.voice, row.text, int(row.finished), row.heard)
            table.writerow([*flags, f"{row.end_logprob:.4f}", *sound])


def read(path: Path = FEATURES) -> list[Row]:
    """Read what `write` wrote."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(
                line["test"] == "1",
                line["voice"],
                line["text"],
                line["finished"] == "1",
                line["heard"],
                float(line["end_logprob"]),
                {name: float(line[name]) for name in _ACOUSTIC if line[name]},
            )
            for line in csv.DictReader(file)
        ]


def table(rows: Iterable[Row], language: Language, names: Iterable[str]) -> NDArray[np.float64]:
    """The signs of app/endpoint.py, float64[rows, names]; nan where one is missing."""
    listed = tuple(names)
    found = [signs(row.heard, row.acoustic, row.end_logprob, language) for row in rows]
    return np.array([[one.get(name, np.nan) for name in listed] for one in found])
