"""Packaged dialogues, performed with the real models: what `turn` and `barge-in` measure."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.bench.report import Report, Row
from app.config import Config
from app.errors import MachineError
from app.events import Event
from app.replay import runner
from app.replay import script as scripts_format
from app.replay.moments import UserSound
from app.replay.report import machine_facts
from app.replay.script import Script

if TYPE_CHECKING:
    from app.replay.wall import Way
    from app.wiring import Loaded
    from engine.chat import Example


@dataclass(frozen=True, slots=True)
class Talk:
    """A dialogue that was performed."""

    told: dict[str, Any]
    """Its report, as `backtalk replay --report` writes it."""
    in_state: Sequence[Example]
    """The turns in the model's state at its end."""
    events: Sequence[Event] = ()
    sounds: Sequence[UserSound] = ()
    """What the user's side really said, and when."""
    recording: Path | None = None
    """Its sound, where that was asked for."""

    @property
    def turns(self) -> list[dict[str, Any]]:
        """The report's turns that were answered aloud."""
        return [turn for turn in self.told["turns"] if turn["voice_to_voice_ms"] is not None]


@dataclass(frozen=True, slots=True)
class Talks:
    """Several of them, with one set of models."""

    talks: list[Talk]
    loaded: Loaded
    config: Config

    @property
    def passed(self) -> bool:
        """Whether every dialogue went as its script expects."""
        return all(talk.told["passed"] for talk in self.talks)

    def report(self, bench: str, rows: list[Row], scores: dict[str, float] | None = None) -> Report:
        """A benchmark's report on these dialogues."""
        return Report(
            bench=bench,
            machine=machine_facts(),
            model=self.config.models.llm,
            device="cpu",
            dtype=self.loaded.engine.weight_format,
            rows=rows,
            scores=scores or {},
        )


def scripts(name: str) -> list[Script]:
    """The packaged dialogues of a folder: `turn`."""
    folder = resources.files("app.bench") / "dialogues" / name
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return [scripts_format.parse(file.read_text("utf-8"), Path(name) / file.name) for file in files]


def perform(wanted: Sequence[Script], config: Config, way: Way | None = None, record: Path | None = None) -> Talks:
    """Perform dialogues, with a line on stderr for each.

    Args:
        wanted: The dialogues.
        config: What their own settings are laid over.
        way: On which clock; None: at the speed of speech.
        record: A directory for their sound; None: it is not kept.

    Raises:
        BacktalkError, EngineError, AudioError: A model can't be had or used.
        MachineError: No turn of them was answered.
    """
    from app.brain import LaneBrain
    from app.replay.wall import Models, Way

    models = Models()
    performed = runner.with_models(way or Way(), models)
    talks: list[Talk] = []
    for number, script in enumerate(wanted, 1):
        events: list[Event] = []
        sound = record / f"{number}.wav" if record else None
        run = performed(script, runner.settled(script, config), (events.append,), sound)
        assert isinstance(run.brain, LaneBrain), "here the model is real"
        talk = Talk(run.told({}), tuple(run.brain.turns), events, run.director.sounds, sound)
        talks.append(talk)
        latencies = " ".join(f"{turn['voice_to_voice_ms']:.0f}" for turn in talk.turns)
        print(f"{number}/{len(wanted)} {script.title}: voice to voice {latencies} ms", file=sys.stderr, flush=True)
        for failure in talk.told["failures"]:
            print(f"FAILED {script.path}: expected {failure['expect']}; got {failure['got']}", file=sys.stderr)
    if not any(talk.turns for talk in talks):
        raise MachineError(
            "nothing was measured", "no turn of the dialogues was answered", "see what works: backtalk doctor"
        )
    assert models.loaded is not None, "a dialogue was performed"
    return Talks(talks, models.loaded, config)
