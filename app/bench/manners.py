"""The dialogues of the barge-in benchmark, made from a table: what the user does, over which word, and what it is.

An act is one of these:

    ask          a question in silence. A `|` in it is a thinking pause of `gap_s`: both halves are one turn
    interrupt    words over the reply that want another; `words` of it have been heard then
    stop         words over the reply that want silence
    backchannel  words over the reply that want it to go on
    go_on        in silence, after a stop: asks for the rest of the reply
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from app.replay.cues import AfterHeard, AfterReply, AfterTurn, At, Cue
from app.replay.script import Line, Script

Kind = Literal["ask", "interrupt", "stop", "backchannel", "go_on", "rest"]
"""What a line is. `rest`: what comes after a thinking pause."""

_BEGINS_S = 0.5
_AFTER_REPLY_S = 1.5
_BRINGS_REPLY = ("ask", "interrupt", "go_on")
_OVER_REPLY = ("interrupt", "stop", "backchannel")
_PAUSE = "|"


class _Act(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    do: Literal["ask", "interrupt", "stop", "backchannel", "go_on"]
    say: str
    words: Annotated[int, msgspec.Meta(ge=2)] | None = None
    gap_s: Annotated[float, msgspec.Meta(gt=0)] | None = None


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    title: str
    acts: list[_Act]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    persona: str
    max_reply_tokens: int
    dialogues: list[_Row]


class Dialogue(NamedTuple):
    """A script, and what each of its lines is."""

    script: Script
    kinds: dict[Line, Kind]


def dialogues() -> list[Dialogue]:
    """Those that are installed with us."""
    return parse((resources.files("app.bench") / "dialogues" / "barge_in.toml").read_text("utf-8"))


def parse(text: str) -> list[Dialogue]:
    """Make dialogues of a table in TOML.

    Raises:
        ValueError: It can't be used.
    """
    table = msgspec.toml.decode(text, type=_Table)
    overrides = {"llm": {"persona": table.persona, "max_reply_tokens": table.max_reply_tokens}}
    return [_dialogue(row, number, overrides) for number, row in enumerate(table.dialogues, 1)]


def _dialogue(row: _Row, number: int, overrides: Mapping[str, Any]) -> Dialogue:
    kinds: dict[Line, Kind] = {}
    replies = 0
    for act in row.acts:
        if (act.do in _OVER_REPLY) != (act.words is not None) or (_PAUSE in act.say) != (act.gap_s is not None):
            raise ValueError(f"{row.title!r}, {act.say!r}: `words` are for what is said over a reply, `gap_s` for a |")
        if act.do != "ask" and not replies:
            raise ValueError(f"{row.title!r}, {act.say!r}: there is no reply before it")
        begun, _, rest = (part.strip() for part in act.say.partition(_PAUSE))
        kinds[_line(begun, _cue(act, replies), len(kinds))] = act.do
        if act.gap_s is not None:
            kinds[_line(rest, AfterTurn(len(kinds), act.gap_s), len(kinds))] = "rest"
        replies += act.do in _BRINGS_REPLY
    script = Script(Path(f"barge_in-{number}"), row.title, None, None, overrides, tuple(kinds), (), ())
    return Dialogue(script, kinds)


def _line(say: str, cue: Cue, place: int) -> Line:
    return Line(cue, f"act {place + 1}", say)


def _cue(act: _Act, replies: int) -> Cue:
    if act.words is not None:
        return AfterHeard(replies, act.words)
    return AfterReply(replies, _AFTER_REPLY_S) if replies else At(_BEGINS_S)
