"""The facts that the conversation itself decides, each with its reason, and with the scores it rests on.

They are part of the log like all other events; app/events.py gathers both.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from app.fact import Fact

NoteKind = Literal["backchannel", "stop", "wait", "command", "echo", "noise", "dropped"]
"""dropped: a key or a typed turn took the word, or the words were taken back before they were answered."""
Command = Literal["stop", "go_on", "undo", "regenerate", "take_up"]
Mode = Literal["duplex", "headset", "half", "ptt"]
"""duplex: the echo canceller lets the user talk over the reply. headset: there is no echo. half: the microphone is shut
while the loudspeaker plays, and a little longer. ptt: it is open while the talk key is down."""

Scores = dict[str, float]
"""What a decision rests on, by name; the unit is part of the name where there is one."""


class TurnCommitted(Fact, frozen=True, tag=True, kw_only=True):
    """The user has finished a turn."""

    turn: int
    branch: int
    text: str
    speech_start_s: float
    speech_end_s: float
    reason: str
    scores: Scores = msgspec.field(default_factory=dict[str, float])


class TurnReopened(Fact, frozen=True, tag=True, kw_only=True):
    """The user went on before the reply had really begun: the same turn goes on, the reply never was."""

    turn: int
    branch: int
    reason: str


class EndScored(Fact, frozen=True, tag=True, kw_only=True):
    """How likely it is that the user has finished, and how long to wait for more because of it."""

    utterance: int
    request: int
    probability: float
    wait_ms: int
    """Silence that ends the turn, counted from the end of speech."""
    reason: str
    scores: Scores = msgspec.field(default_factory=dict[str, float])


class PauseLearned(Fact, frozen=True, tag=True, kw_only=True):
    """The user's own pauses moved the shortest silence that ends a turn."""

    floor_ms: float
    reason: str


class UserNoted(Fact, frozen=True, tag=True, kw_only=True):
    """Words of the user that are on record and in no turn."""

    utterance: int
    kind: NoteKind
    text: str
    reason: str


class OverlapStarted(Fact, frozen=True, tag=True, kw_only=True):
    """The user may be talking over a reply. Ducked, not yet held."""

    branch: int
    onset_s: float


class OverlapJudged(Fact, frozen=True, tag=True, kw_only=True):
    """What the overlap was, and why we think so."""

    branch: int
    onset_s: float
    verdict: Literal["turn", "stop", "backchannel", "echo", "noise"]
    reason: str
    scores: Scores = msgspec.field(default_factory=dict[str, float])


class CommandTaken(Fact, frozen=True, tag=True, kw_only=True):
    """A command of the user, spoken or by key, is carried out."""

    command: Command
    reason: str


class CommandRefused(Fact, frozen=True, tag=True, kw_only=True):
    """A command can't be carried out now; nothing changed."""

    command: Command
    reason: str


class CheckedIn(Fact, frozen=True, tag=True, kw_only=True):
    """Nobody said anything for long, so the agent asks. A turn without words of the user."""

    turn: int
    branch: int
    text: str
    reason: str


class TailForgotten(Fact, frozen=True, tag=True, kw_only=True):
    """The unheard rest of a reply can't be asked for any more."""

    branch: int
    reason: str


class ModeChanged(Fact, frozen=True, tag=True, kw_only=True):
    """How microphone and loudspeaker share the air from now on."""

    mode: Mode
    reason: str
    scores: Scores = msgspec.field(default_factory=dict[str, float])


class StuckRecovered(Fact, frozen=True, tag=True, kw_only=True):
    """Nothing moved for too long: the region was put back to rest, and the conversation goes on."""

    region: Literal["user", "agent"]
    phase: str
    waited_ms: int
