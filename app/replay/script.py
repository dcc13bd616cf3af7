"""Dialogue scripts: what the user says and when, and what must come of it. YAML in, frozen values out.

Nothing is guessed: an unknown key, a cue that can't come, a missing file is refused with its line.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import yaml

from app import config
from app.errors import BacktalkError, ScriptError

_MAX_BYTES = 1 << 20
_MAX_LINES = 2000
_MAX_SECONDS = 3600.0

NoiseKind = Literal["cough", "babble", "white"]
NOISE_KINDS: tuple[NoiseKind, ...] = ("cough", "babble", "white")
VERDICTS = ("turn", "stop", "backchannel", "echo", "noise")


class Noise(NamedTuple):
    """Sound that is no speech."""

    kind: NoiseKind
    db: float
    """RMS level relative to full scale."""
    seconds: float


class At(NamedTuple):
    """At a time on the session clock."""

    at_s: float


class AfterHeard(NamedTuple):
    """When so many words of a reply have been heard; 0: when its first sample leaves the loudspeaker."""

    reply: int
    words: int


class AfterReply(NamedTuple):
    """So long after the last sample of a reply, whether it was heard to its end or cut off."""

    reply: int
    end_s: float


class AfterTurn(NamedTuple):
    """So long after the end of the user's n-th line of speech."""

    turn: int
    end_s: float


Cue = At | AfterHeard | AfterReply | AfterTurn


@dataclass(frozen=True, slots=True)
class Line:
    """One sound of the user: exactly one of `say`, `audio`, `noise` is there."""

    cue: Cue
    source: str
    """Where it stands, for messages: `line 7`."""
    say: str | None = None
    audio: Path | None = None
    noise: Noise | None = None
    hears: str | None = None
    """What the scripted recogniser makes of it."""
    seconds: float | None = None
    """How long it takes on the virtual clock; None: as long as its words or its file."""

    @property
    def is_speech(self) -> bool:
        return self.noise is None

    @property
    def name(self) -> str:
        """For messages."""
        what = self.say or (self.audio and self.audio.name) or (self.noise and f"{self.noise.kind} noise")
        return f'{self.source}, "{what}"'


Subject = Literal["turn", "reply", "overlap", "dialogue"]


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold of one turn, reply or overlap (counted from 1), or of the dialogue."""

    subject: Subject
    number: int
    checks: Mapping[str, Any]
    """Key of the check to the value wanted."""
    clock: Literal["wall", "virtual"] | None
    """Where it is checked; None: everywhere."""


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
    replies: tuple[str, ...]
    """What the scripted model answers, turn by turn; the last one serves all further turns."""
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
    return _Reader(path).script(root)


Check = Callable[["_Reader", yaml.Node], Any]


class _Reader:
    """Nodes to values. Each method refuses what it can't use, with the node's line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    # ---- the script ----

    def script(self, root: yaml.Node) -> Script:
        fields = self.table(root, ("title", "voice", "seed", "config", "user", "replies", "expect"))
        for name in ("title", "user"):
            if name not in fields:
                raise self.refusal(root, f"`{name}` is missing", f"add it: {name}: ...")
        lines: list[Line] = []
        for node in self.items(fields["user"], _MAX_LINES):
            lines.append(self.line(node, lines))
        return Script(
            path=self.path,
            title=self.text(fields["title"]),
            voice=self.text(fields["voice"]) if "voice" in fields else None,
            seed=self.count(fields["seed"], least=0) if "seed" in fields else None,
            overrides=self.overrides(fields["config"]) if "config" in fields else {},
            lines=tuple(lines),
            replies=tuple(self.texts(fields["replies"])) if "replies" in fields else (),
            expectations=tuple(self.expectation(node) for node in self.items(fields["expect"], _MAX_LINES))
            if "expect" in fields
            else (),
        )

    def overrides(self, node: yaml.Node) -> Mapping[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise self.refusal(node, "`config` has no sections", "write: config: {turns: {hold_after_ms: 200}}")
        table = cast("dict[str, Any]", yaml.SafeLoader("").construct_document(node))
        try:
            config.parse(table, str(self.path))
        except BacktalkError as error:
            raise self.refusal(node, error.why, error.fix) from None
        return table

    def line(self, node: yaml.Node, before: list[Line]) -> Line:
        fields = self.table(node, ("say", "audio", "noise", "at", "after", "hears", "seconds"))
        sound = self.one_of(node, fields, ("say", "audio", "noise"))
        when = self.one_of(node, fields, ("at", "after"))
        cue = At(self.seconds(fields["at"])) if when == "at" else self.cue(fields["after"], before)
        return Line(
            cue=cue,
            source=f"line {_line(node)}",
            say=self.text(fields["say"]) if sound == "say" else None,
            audio=self.file(fields["audio"]) if sound == "audio" else None,
            noise=self.noise(fields["noise"]) if sound == "noise" else None,
            hears=self.text(fields["hears"], empty=True) if "hears" in fields else None,
            seconds=self.seconds(fields["seconds"], least=0.05) if "seconds" in fields else None,
        )

    def cue(self, node: yaml.Node, before: list[Line]) -> Cue:
        fields = self.table(node, ("reply", "turn", "heard_words", "end"))
        spoken = sum(line.is_speech for line in before)
        if self.one_of(node, fields, ("reply", "turn")) == "turn":
            turn = self.count(fields["turn"])
            if "heard_words" in fields or "end" not in fields:
                raise self.refusal(node, "a cue after a turn needs its `end`, and nothing else", "{turn: 1, end: 0.5}")
            if turn > spoken:
                raise self.refusal(
                    fields["turn"], f"{spoken} lines of speech stand before this one", "count them from 1"
                )
            return AfterTurn(turn, self.seconds(fields["end"]))
        reply = self.count(fields["reply"])
        if reply > spoken:
            raise self.refusal(fields["reply"], f"{spoken} lines of speech before it bring no more replies", "lower it")
        if self.one_of(node, fields, ("heard_words", "end")) == "heard_words":
            return AfterHeard(reply, self.count(fields["heard_words"], least=0))
        return AfterReply(reply, self.seconds(fields["end"]))

    def noise(self, node: yaml.Node) -> Noise:
        fields = self.table(node, ("kind", "db", "seconds"))
        for name in ("kind", "db", "seconds"):
            if name not in fields:
                raise self.refusal(node, f"`{name}` is missing", "{kind: cough, db: -30, seconds: 0.8}")
        kind = cast(NoiseKind, self.choice(fields["kind"], NOISE_KINDS))
        return Noise(kind, self.number(fields["db"], -90, 0), self.seconds(fields["seconds"], least=0.02))

    def file(self, node: yaml.Node) -> Path:
        path = self.path.parent / self.text(node)
        if not path.is_file():
            near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob("*")], n=1)
            raise self.refusal(
                node, f"there is no file {path}", f"did you mean {near[0]}?" if near else "check its path"
            )
        return path

    def expectation(self, node: yaml.Node) -> Expectation:
        names = {*_SUBJECTS, "clock", *(name for checks in _CHECKS.values() for name in checks)}
        fields = self.table(node, sorted(names))
        named = [name for name in _SUBJECTS if name in fields]
        if len(named) > 1:
            raise self.refusal(node, f"it speaks of a {' and a '.join(named)}", "make two of it")
        subject: Subject = cast(Subject, named[0]) if named else "dialogue"
        number = self.count(fields.pop(named[0])) if named else 1
        clock = (
            cast(Literal["wall", "virtual"], self.choice(fields.pop("clock"), ("wall", "virtual")))
            if "clock" in fields
            else None
        )
        known = _CHECKS[subject]
        for name in fields:
            if name not in known:
                raise self.refusal(
                    fields[name], f"`{name}` says nothing of a {subject}", f"of a {subject}: {', '.join(known)}"
                )
        if not fields:
            raise self.refusal(node, "it expects nothing", f"add one of: {', '.join(known)}")
        return Expectation(subject, number, {name: known[name](self, value) for name, value in fields.items()}, clock)

    # ---- kinds of nodes ----

    def refusal(self, node: yaml.Node, why: str, fix: str) -> ScriptError:
        return ScriptError(f"{self.path}, line {_line(node)}: the script can't be used", why, fix)

    def table(self, node: yaml.Node, known: Collection[str]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.refusal(node, "here should stand keys with values", f"keys are: {', '.join(known)}")
        fields: dict[str, yaml.Node] = {}
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            name = str(key.value)
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"keys are: {', '.join(known)}"
                raise self.refusal(key, f"unknown key `{name}`", hint)
            if name in fields:
                raise self.refusal(key, f"`{name}` stands here twice", "remove one")
            fields[name] = value
        return fields

    def one_of(self, node: yaml.Node, fields: Mapping[str, yaml.Node], names: tuple[str, ...]) -> str:
        found = [name for name in names if name in fields]
        if len(found) != 1:
            got = " and ".join(f"`{name}`" for name in found) or "none"
            raise self.refusal(node, f"exactly one of {', '.join(names)} is needed, got {got}", "write one of them")
        return found[0]

    def items(self, node: yaml.Node, most: int) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.refusal(node, "here should stand a list", "begin each item with a dash")
        if len(node.value) > most:
            raise self.refusal(node, f"{len(node.value)} items, the limit is {most}", "split the script")
        return cast("list[yaml.Node]", node.value)

    def text(self, node: yaml.Node, *, empty: bool = False) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self.refusal(node, "here should stand text", "put it in quotes")
        if not node.value.strip() and not empty:
            raise self.refusal(node, "the text is empty", "write something, or remove it")
        return str(node.value)

    def texts(self, node: yaml.Node) -> list[str]:
        return [self.text(item) for item in self.items(node, _MAX_LINES)]

    def number(self, node: yaml.Node, least: float, most: float) -> float:
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.refusal(node, f"{node.value!r} is no number from {least:g} to {most:g}", "change it")
        return float(value)

    def seconds(self, node: yaml.Node, least: float = 0.0) -> float:
        return self.number(node, least, _MAX_SECONDS)

    def count(self, node: yaml.Node, least: int = 1) -> int:
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
            raise self.refusal(node, f"{node.value!r} is no whole number from {least} on", "change it")
        return value

    def flag(self, node: yaml.Node) -> bool:
        value = self._scalar(node)
        if not isinstance(value, bool):
            raise self.refusal(node, f"{node.value!r} is neither true nor false", "write one of them")
        return value

    def choice(self, node: yaml.Node, names: Collection[str]) -> str:
        value = self.text(node)
        if value not in names:
            near = difflib.get_close_matches(value, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
            raise self.refusal(node, f"unknown value {value!r}", hint)
        return value

    def span(self, node: yaml.Node) -> tuple[int, int]:
        ends = [self.count(item, least=0) for item in self.items(node, 2)]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise self.refusal(node, "here should stand a least and a most", "for example: [3, 9]")
        return ends[0], ends[1]

    def _scalar(self, node: yaml.Node) -> object:
        if not isinstance(node, yaml.ScalarNode):
            raise self.refusal(node, "here should stand one value", "change it")
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return None


def _milliseconds(reader: _Reader, node: yaml.Node) -> float:
    return reader.number(node, 0, 1e6)


def _share(reader: _Reader, node: yaml.Node) -> float:
    return reader.number(node, 0, 1)


def _whole(reader: _Reader, node: yaml.Node) -> int:
    return reader.count(node, least=0)


_SUBJECTS = ("turn", "reply", "overlap")
_CHECKS: dict[Subject, dict[str, Check]] = {
    "turn": {
        "user_contains": _Reader.texts,
        "user_is": _Reader.text,
        "word_error_max": _share,
        "voice_to_voice_ms_max": _milliseconds,
        "interrupted": _Reader.flag,
        "reply_contains": _Reader.texts,
        "heard_is": _Reader.text,
    },
    "reply": {
        "interrupted": _Reader.flag,
        "stop_ms_max": _milliseconds,
        "heard_words": _Reader.span,
        "verdict": lambda reader, node: reader.choice(node, VERDICTS),
        "reply_contains": _Reader.texts,
    },
    "overlap": {
        "verdict": lambda reader, node: reader.choice(node, VERDICTS),
        "resumed": _Reader.flag,
    },
    "dialogue": {"replies": _whole, "turns": _whole, "overlaps": _whole, "dropped_frames": _whole, "xruns": _whole},
}


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
