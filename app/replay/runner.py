"""Runs dialogue scripts: with the real models, on the wall clock or on one that stands still while they compute, or
with scripted parts on virtual time.

The ways differ only in the parts; the session, the director that gives the user's side its cues, and what is made of
the event log are the same.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from app import config as configuration
from app.config import Config
from app.errors import ConfigError, ScriptError
from app.events import ClockName, Event
from app.journal import Journal
from app.lines import LineView, has_colour
from app.ports import Brain, Parts
from app.replay import recording, room, scripted, stopped, virtual
from app.replay import script as scripts_format
from app.replay.director import Director, Perform
from app.replay.report import Report, machine_facts, write
from app.replay.script import Script
from app.replay.scripted import ScriptedBrain, Times
from app.session import Session, Sink
from app.state import AgentPhase, UserPhase

if TYPE_CHECKING:
    from app.replay.wall import Models, Way

PerformScript = Callable[[Script, Config, Sequence[Sink], Path | None], "Run"]
"""Takes a script, its settings (see `settled`), sinks that get every event, and where the sound goes."""

SCRIPTED_MODELS = {"llm": "scripted", "asr": "scripted", "tts": "scripted", "vad": "scripted"}


@dataclass(slots=True)
class Run:
    """A dialogue that was performed."""

    script: Script
    report: Report
    director: Director
    session: Session
    brain: Brain
    """Its state is what the dialogue left."""
    events: list[Event] = field(default_factory=list[Event])
    """Kept on virtual time only, where a recording is drawn from them."""

    def told(self, machine: dict[str, Any]) -> dict[str, Any]:
        """The report's object."""
        troubles = [
            (f"the cue of {line.name}", "it never came, the dialogue was over") for line in self.director.unspoken
        ]
        if self.director.hung:
            troubles.append(("an end of the dialogue", "it went on until the time was up"))
        standing = [boundary.serial for boundary in self.session.tree.live]
        return self.report.build(
            self.script, self.director.sounds, machine=machine, capsules=standing, troubles=troubles
        )


def replay(
    scripts: Sequence[Path],
    *,
    clock: ClockName,
    report: Path | None,
    events: Path | None,
    record: Path | None,
    seed: int | None,
    config: Config,
    compute: stopped.Compute | None = None,
    room_name: str | None = None,
    echo_db: float | None = None,
    out: TextIO | None = None,
) -> int:
    """Perform scripts and check what they expect.

    Args:
        scripts: The files.
        clock: wall: real models at the speed of speech. stopped: real models, as fast as they are. virtual: scripted
            parts, in no time.
        report: Where the reports go: one object, or a list of them for several scripts.
        events: Where the logs go, one event a line, one log after the other.
        record: Where the sound goes; of several scripts each one's name is put behind it.
        seed: Instead of the scripts' own.
        config: What the scripts' own settings are laid over.
        compute: On the stopped clock: what computing costs there; None: nothing.
        room_name: The room around microphone and loudspeaker; None: none, and no echo.
        echo_db: Level of its echo; None: the room's.
        out: Where the dialogue is printed; None: stdout.

    Returns:
        0 if all expectations hold, else 1.

    Raises:
        BacktalkError: A script, model or file can't be used.
    """
    _check_options(clock, compute, room_name, echo_db)
    read = [scripts_format.read(path) for path in scripts]
    if clock == "virtual":
        for script in read:
            _check_virtual(script)
    view = LineView(out or sys.stdout, colour=has_colour(out or sys.stdout))
    runs: list[Run] = []
    with ExitStack() as stack:
        kept: list[Sink] = [stack.enter_context(Journal(events))] if events else []
        perform: PerformScript = _virtually
        if clock != "virtual":
            from app.replay.wall import Way

            box = room.find(room_name) if room_name else None
            perform = with_models(Way(clock, compute or "free", box, echo_db))
        for script in read:
            if len(read) > 1:
                print(f"=== {script.title}", file=out, flush=True)
            settings = settled(script, config, seed)
            sound = _record_path(record, script, len(read))
            runs.append(perform(script, settings, [view.show, *kept], sound))
            for failure in runs[-1].told({})["failures"]:
                print(f"FAILED {script.path}: expected {failure['expect']}; got {failure['got']}", file=sys.stderr)
    machine = machine_facts() if report else {}
    told = [run.told(machine) for run in runs]
    if report:
        write(report, told)
    return 0 if all(one["passed"] for one in told) else 1


def demo(*, record: Path | None, report: Path | None, config: Config) -> int:
    """Perform the packaged dialogue with the real models, and say what it is and what it wrote. Else like `replay`."""
    print("A scripted user talks to the real models, and talks over the answer. ~~Struck~~ words were never heard.")
    if config.models.llm == Config().models.llm:
        print(f"({config.models.llm} exercises the pipeline and is no assistant: expect wrong facts from it.)")
    with resources.as_file(resources.files("app.replay") / "demo.yaml") as path:
        status = replay([path], clock="wall", report=report, events=None, record=record, seed=None, config=config)
    for written, what in ((record, "the sound: left the user, right the assistant"), (report, "the report")):
        if written:
            print(f"{written}  {what}")
    return status


def run_virtual(
    script: Script, config: Config, sinks: Sequence[Sink] = (), *, jitter: float = 0.0, times: Times | None = None
) -> tuple[Run, ScriptedBrain]:
    """Perform a script with scripted parts on virtual time.

    Args:
        script: It has `replies`.
        config: Its settings, the script's own included.
        sinks: Get every event.
        jitter: Up to this share of it is added to each time, drawn from the seed.
        times: How long things take, and how often they go wrong.

    Returns:
        The dialogue, and the brain with what its state holds at the end.
    """

    async def main() -> tuple[Run, ScriptedBrain]:
        parts, ears, brain = scripted.stage(virtual.VirtualClock(), script, config, times or Times(), jitter)
        run = await _converse(script, config, parts, ears.perform, sinks, "virtual", SCRIPTED_MODELS)
        return run, brain

    return virtual.run(main())


async def _converse(
    script: Script,
    config: Config,
    parts: Parts,
    perform: Perform,
    sinks: Sequence[Sink],
    clock: ClockName,
    models: dict[str, str],
    *,
    parrots_notes: bool = False,
) -> Run:
    """One session with the director as the user, from its first event to its last."""
    stop = asyncio.Event()
    director = Director(script, parts.clock, perform, lambda: _idle(session), lambda event: session.emit(event))
    report = Report()
    events: list[Event] = []
    everyone = [director, report, *([events.append] if clock == "virtual" else []), *sinks]
    session = Session(
        parts,
        config,
        sinks=everyone,
        seed=config.seed,
        clock_name=clock,
        models=models,
        parrots_notes=parrots_notes,
    )

    async def direct() -> None:
        try:
            await director.run()
        finally:
            stop.set()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run(stop))
            group.create_task(direct())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return Run(script, report, director, session, parts.brain, events)


def _idle(session: Session) -> bool:
    state = session.state
    return state.user.phase is UserPhase.SILENT and state.agent.phase is AgentPhase.IDLE and state.wish is None


def settled(script: Script, config: Config, seed: int | None = None) -> Config:
    """The configuration with the script's own settings laid over it, and a seed over those."""
    settings = configuration.parse(dict(script.overrides), str(script.path), config)
    chosen = seed if seed is not None else script.seed
    return settings if chosen is None else msgspec.structs.replace(settings, seed=chosen)


def _record_path(record: Path | None, script: Script, scripts: int) -> Path | None:
    if record is None or scripts == 1:
        return record
    return record.with_name(f"{record.stem}-{script.path.stem}{record.suffix}")


def _check_virtual(script: Script) -> None:
    """Scripted parts need to be told what the real ones would find out."""
    if not script.replies:
        raise ScriptError(
            f"{script.path} can't run on the virtual clock", "it has no `replies`", "add them, or use --clock wall"
        )
    for line in script.lines:
        if line.audio and (line.hears is None or line.seconds is None):
            raise ScriptError(
                f"{script.path}, {line.source}: the recording can't be played on the virtual clock",
                "nothing listens to sound there",
                "say what it `hears` and how many `seconds` it takes",
            )


def _check_options(
    clock: ClockName, compute: stopped.Compute | None, room_name: str | None, echo_db: float | None
) -> None:
    """Nothing that was typed is passed over in silence."""
    if compute and clock != "stopped":
        raise ConfigError(
            f"--compute {compute} can't be used", f"with --clock {clock} computing takes its time", "--clock stopped"
        )
    if room_name and clock == "virtual":
        raise ConfigError("--room can't be used", "scripted parts hear no sound", "--clock stopped")
    if echo_db is not None and not room_name:
        raise ConfigError("--echo-db can't be used", "without a room there is no echo", "--room living")


def on_the_wall(models: Models | None = None) -> PerformScript:
    """Performs scripts with the real models at the speed of speech: see `with_models`."""
    from app.replay.wall import Way

    return with_models(Way(), models)


def with_models(way: Way, models: Models | None = None) -> PerformScript:
    """Performs scripts with the real models, which stay loaded from one script to the next.

    Args:
        way: On which clock, and in which room.
        models: Loads them, where the caller wants to look at them too.
    """
    from app.replay import wall

    models = models or wall.Models()

    def perform(script: Script, config: Config, sinks: Sequence[Sink], record: Path | None) -> Run:
        loaded, lines = models.prepare(script, config, way)
        with ExitStack() as stack:
            sound = stack.enter_context(recording.Recording(record)) if record else None
            stage = stack.enter_context(wall.LiveStage(loaded, lines, config, way, sound))
            dialogue = _converse(
                script,
                config,
                stage.parts,
                stage.perform,
                sinks,
                way.clock,
                loaded.names,
                parrots_notes=loaded.parrots_notes,
            )
            return asyncio.run(dialogue) if way.clock == "wall" else stopped.run(dialogue, way.compute)

    return perform


def _virtually(script: Script, config: Config, sinks: Sequence[Sink], record: Path | None) -> Run:
    run, _ = run_virtual(script, config, sinks)
    if record:
        recording.draw(record, run.events, run.director.sounds)
    return run
