"""Dialogue scripts: what the user does and when, and what must come of it. YAML in, frozen values out.

Nothing is guessed: an unknown key, a cue that can't come, a missing file is refused with its line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

import yaml

from app import commands, config
from app.decisions import Mode
from app.errors import BacktalkError, ScriptError
from app.events import Event
from app.replay import cues, expectations
from app.replay.cues import AfterHeard as AfterHeard
from app.replay.cues import AfterReply as AfterReply
from app.replay.cues import AfterTurn as AfterTurn
from app.replay.cues import At as At
from app.replay.cues import Before
from app.replay.cues import Cue as Cue
from app.replay.expectations import Expectation
from app.replay.nodes import Nodes, line_of

_MAX_BYTES = 1 << 20

NoiseKind = Literal["cough", "babble", "white"]
NOISE_KINDS: tuple[NoiseKind, ...] = ("cough", "babble", "white")
FaultKind = Literal["device", "frames"]

KEYS: Mapping[str, Event] = {
    "stop": commands.StopPressed(),
    "go_on": commands.GoOnPressed(),
    "undo": commands.UndoPressed(),
    "regenerate": commands.RegeneratePressed(),
    "talk_down": commands.TalkPressed(),
    "talk_up": commands.TalkReleased(),
}
_ANSWERED = (commands.GoOnPressed, commands.RegeneratePressed, commands.TextTyped)
"""What brings a reply without a word being said."""


class Noise(NamedTuple):
    """Sound that is no speech of the user."""

    kind: NoiseKind
    db: float
    """RMS level relative to full scale."""
    seconds: float


class Fault(NamedTuple):
    """Something that breaks for a while. Scripted parts only."""

    kind: FaultKind
    """device: the sound card is gone. frames: microphone sound is lost."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the user does, or that befalls the sound."""

    cue: Cue
    source: str
    """Where it stands, for messages: `line 7`."""
    say: str | None = None
    audio: Path | None = None
    noise: Noise | None = None
    hears: str | None = None
    """What the scripted recogniser makes of it."""
    echo: bool = False
    """A noise in which the scripted recogniser hears what the agent has just said."""
    seconds: float | None = None
    """How long it takes on the virtual clock; None: as long as its words or its file."""
    smart_turn: float | None = None
    """How finished the end of it sounds to the scripted ears, 0..1; None: as finished as its text looks."""
    ask: Event | None = None
    """What is asked for by key or by text."""
    take_up: int | None = None
    """The reply at whose end the conversation goes on."""
    fault: Fault | None = None

    @property
    def is_speech(self) -> bool:
        return self.say is not None or self.audio is not None

    @property
    def is_sound(self) -> bool:
        return self.is_speech or self.noise is not None

    @property
    def brings_reply(self) -> bool:
        return self.is_speech or isinstance(self.ask, _ANSWERED)

    @property
    def name(self) -> str:
        """For messages."""
        if self.is_speech:
            what = self.say or (self.audio and self.audio.name)
        elif self.noise or self.fault:
            what = f"{self.noise.kind} noise" if self.noise else f"{self.fault and self.fault.kind} lost"
        else:
            what = type(self.ask).__name__ if self.ask else "take up"
        return f'{self.source}, "{what}"'


@dataclass(frozen=True, slots=True)
class Script:
    """A whole script."""

    path: Path
    title: str
    voice: str | None
    seed: int | None
    overrides: Mapping[str, Any]
    """Sections and keys of the configuration."""
    lines: tuple[Line, ...]
    replies: tuple[tuple[str, ...], ...]
    """What the scripted model answers, turn by turn: the first answer, and those it gives when another is asked for.
    The last turn's serve all further turns."""
    expectations: tuple[Expectation, ...]

    def speech(self) -> list[Line]:
        """The user's lines of speech: the n-th is what `after: {turn: n}` means."""
        return [line for line in self.lines if line.is_speech]


def read(path: Path) -> Script:
    """Read a script.

    Raises:
        ScriptError: It can't be used; the error names the line.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ScriptError(f"the script {path} can't be read", f"it has more than {_MAX_BYTES} bytes", "split it")
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"the script {path} can't be read", str(error), "check its path") from error
    return parse(text, path)


def parse(text: str, path: Path) -> Script:
    """Like `read`, for text that is here already; `path` is named in errors, and audio files lie beside it."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ScriptError(f"{path}, line {line}: not YAML", error.problem or "it can't be parsed", "mend it") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ScriptError(f"the script {path} can't be read", str(error), "save it as plain UTF-8 text") from error
    if root is None:
        raise ScriptError(f"the script {path} can't be used", "it is empty", "it needs at least a title and user lines")
    return _script(Nodes(path), root)


def _script(nodes: Nodes, root: yaml.Node) -> Script:
    fields = nodes.table(root, ("title", "voice", "seed", "config", "user", "replies", "expect"))
    for name in ("title", "user"):
        if name not in fields:
            raise nodes.refusal(root, f"`{name}` is missing", f"add it: {name}: ...")
    lines: list[Line] = []
    for node in nodes.items(fields["user"]):
        lines.append(_line(nodes, node, lines))
    wanted = nodes.items(fields["expect"]) if "expect" in fields else []
    return Script(
        path=nodes.path,
        title=nodes.text(fields["title"]),
        voice=nodes.text(fields["voice"]) if "voice" in fields else None,
        seed=nodes.whole(fields["seed"]) if "seed" in fields else None,
        overrides=_overrides(nodes, fields["config"]) if "config" in fields else {},
        lines=tuple(lines),
        replies=tuple(_answers(nodes, node) for node in nodes.items(fields["replies"])) if "replies" in fields else (),
        expectations=tuple(expectations.read(nodes, node, _before(lines)) for node in wanted),
    )


def _answers(nodes: Nodes, node: yaml.Node) -> tuple[str, ...]:
    """What is answered to one turn: a text, or a list of them. Nothing is an answer too."""
    several = nodes.items(node) if isinstance(node, yaml.SequenceNode) else [node]
    if not several:
        raise nodes.refusal(node, "a turn needs an answer", 'write "" for an empty one')
    return tuple(nodes.text(one, empty=True) for one in several)


def _overrides(nodes: Nodes, node: yaml.Node) -> Mapping[str, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise nodes.refusal(node, "`config` has no sections", "write: config: {turns: {hold_after_ms: 200}}")
    try:
        table = cast("dict[str, Any]", yaml.SafeLoader("").construct_document(node))
    except (yaml.YAMLError, ValueError) as error:
        raise nodes.refusal(node, getattr(error, "problem", None) or str(error), "write texts and numbers") from None
    try:
        config.parse(table, str(nodes.path))
    except BacktalkError as error:
        raise nodes.refusal(node, error.why, error.fix) from None
    return table


_DOES = ("say", "audio", "noise", "key", "type", "mode", "take_up", "fault")


def _line(nodes: Nodes, node: yaml.Node, before: Sequence[Line]) -> Line:
    fields = nodes.table(node, (*_DOES, "at", "after", "hears", "echo", "seconds", "smart_turn"))
    what = nodes.one_of(node, fields, _DOES)
    when = nodes.one_of(node, fields, ("at", "after"))
    bounds = _before(before)
    return Line(
        cue=At(nodes.seconds(fields["at"])) if when == "at" else cues.after(nodes, fields["after"], bounds),
        source=f"line {line_of(node)}",
        say=nodes.text(fields["say"]) if what == "say" else None,
        audio=nodes.file(fields["audio"]) if what == "audio" else None,
        noise=_noise(nodes, fields["noise"]) if what == "noise" else None,
        hears=nodes.text(fields["hears"], empty=True) if "hears" in fields else None,
        echo=nodes.flag(fields["echo"]) if "echo" in fields else False,
        seconds=nodes.seconds(fields["seconds"], least=0.05) if "seconds" in fields else None,
        smart_turn=nodes.share(fields["smart_turn"]) if "smart_turn" in fields else None,
        ask=_ask(nodes, what, fields[what]),
        take_up=nodes.count(fields["take_up"]) if what == "take_up" else None,
        fault=_fault(nodes, fields["fault"]) if what == "fault" else None,
    )


def _before(lines: Sequence[Line]) -> Before:
    return Before(sum(line.is_speech for line in lines), sum(line.brings_reply for line in lines))


def _ask(nodes: Nodes, what: str, node: yaml.Node) -> Event | None:
    match what:
        case "key":
            return KEYS[nodes.choice(node, KEYS)]
        case "type":
            return commands.TextTyped(text=nodes.text(node))
        case "mode":
            return commands.ModeChosen(mode=cast(Mode, nodes.choice(node, get_args(Mode))))
        case _:
            return None


def _noise(nodes: Nodes, node: yaml.Node) -> Noise:
    fields = nodes.all_of(node, ("kind", "db", "seconds"), "{kind: cough, db: -30, seconds: 0.8}")
    kind = cast(NoiseKind, nodes.choice(fields["kind"], NOISE_KINDS))
    return Noise(kind, nodes.number(fields["db"], -90, 0), nodes.seconds(fields["seconds"], least=0.02))


def _fault(nodes: Nodes, node: yaml.Node) -> Fault:
    fields = nodes.all_of(node, ("kind", "seconds"), "{kind: device, seconds: 1.5}")
    kind = cast(FaultKind, nodes.choice(fields["kind"], get_args(FaultKind)))
    return Fault(kind, nodes.seconds(fields["seconds"], least=0.02))
