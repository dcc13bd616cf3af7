"""What a script expects: of one turn, reply, overlap, note or command, of the dialogue, or of a stretch of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import yaml

from app.decisions import Command, NoteKind
from app.events import ClockName
from app.replay import cues
from app.replay.cues import Before, Cue
from app.replay.nodes import Nodes

VERDICTS = ("turn", "stop", "backchannel", "echo", "noise")
ABSENT = ("sound", "reply", "turn")

Subject = Literal["turn", "reply", "overlap", "note", "command", "dialogue", "absent"]


class Stretch(NamedTuple):
    """From one moment to another."""

    begin: Cue
    end: Cue


@dataclass(frozen=True, slots=True)
class Expectation:
    """What must hold of a subject (counted from 1 where there are several)."""

    subject: Subject
    number: int
    checks: Mapping[str, Any]
    """Key of the check to the value wanted. Of `absent`: what must not be, sound, reply or turn, to its Stretch."""
    clock: Literal["wall", "virtual"] | None
    """Where it is checked. wall: with the real models, so on the stopped clock too. None: everywhere."""

    def counts_on(self, clock: ClockName) -> bool:
        """Whether it is checked in a dialogue on this clock."""
        return self.clock in (None, "wall" if clock == "stopped" else clock)


Check = Callable[[Nodes, yaml.Node], Any]


def _choice(*names: str) -> Check:
    return lambda nodes, node: nodes.choice(node, names)


_COUNTED: tuple[Subject, ...] = ("turn", "reply", "overlap", "note", "command")
_CHECKS: dict[Subject, dict[str, Check]] = {
    "turn": {
        "user_contains": Nodes.texts,
        "user_is": Nodes.text,
        "word_error_max": Nodes.share,
        "voice_to_voice_ms_max": Nodes.milliseconds,
        "interrupted": Nodes.flag,
        "reply_contains": Nodes.texts,
        "heard_is": Nodes.text,
    },
    "reply": {
        "interrupted": Nodes.flag,
        "stop_ms_max": Nodes.milliseconds,
        "duck_ms_max": Nodes.milliseconds,
        "heard_words": Nodes.span,
        "heard_is": Nodes.text,
        "verdict": _choice(*VERDICTS),
        "reply_contains": Nodes.texts,
    },
    "overlap": {"verdict": _choice(*VERDICTS), "resumed": Nodes.flag, "hole_ms_max": Nodes.milliseconds},
    "note": {"kind": _choice(*get_args(NoteKind)), "text_contains": Nodes.texts},
    "command": {"name": _choice(*get_args(Command)), "taken": Nodes.flag},
    "absent": {},
    "dialogue": dict.fromkeys(
        ("replies", "turns", "overlaps", "notes", "commands", "recoveries", "dropped_frames", "xruns"), Nodes.whole
    ),
}


def read(nodes: Nodes, node: yaml.Node, before: Before) -> Expectation:
    """One item of `expect`.

    Raises:
        ScriptError: It can't be used; the error names the line.
    """
    names = {*_COUNTED, "absent", "from", "until", "clock", *(name for checks in _CHECKS.values() for name in checks)}
    fields = nodes.table(node, sorted(names))
    clock = None
    if "clock" in fields:
        clock = cast(Literal["wall", "virtual"], nodes.choice(fields.pop("clock"), ("wall", "virtual")))
    if "absent" in fields:
        return Expectation("absent", 1, _absence(nodes, node, fields, before), clock)
    named = [name for name in _COUNTED if name in fields]
    if len(named) > 1:
        raise nodes.refusal(node, f"it speaks of a {' and a '.join(named)}", "make two of it")
    subject = cast(Subject, named[0]) if named else "dialogue"
    number = nodes.count(fields.pop(subject)) if named else 1
    known = _CHECKS[subject]
    for name in fields:
        if name not in known:
            raise nodes.refusal(
                fields[name], f"`{name}` says nothing of a {subject}", f"of a {subject}: {', '.join(known)}"
            )
    if not fields:
        raise nodes.refusal(node, "it expects nothing", f"add one of: {', '.join(known)}")
    return Expectation(subject, number, {name: known[name](nodes, value) for name, value in fields.items()}, clock)


def _absence(nodes: Nodes, node: yaml.Node, fields: Mapping[str, yaml.Node], before: Before) -> Mapping[str, Stretch]:
    if set(fields) != {"absent", "from", "until"}:
        example = "{absent: sound, from: {turn: 2, end: 0.5}, until: {turn: 2, end: 3.0}}"
        raise nodes.refusal(node, "what is absent is so `from` a moment `until` another, and nothing else", example)
    begin, end = (cues.moment(nodes, fields[name], before) for name in ("from", "until"))
    return {nodes.choice(fields["absent"], ABSENT): Stretch(begin, end)}
