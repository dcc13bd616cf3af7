"""What the conversation's decisions depend on: two regions, user and agent. Values only; app/turns.py moves them.

            confirmed          silence           waited out
user    SILENT ─▶ ONSET ─▶ SPEAKING ◀─▶ PAUSE ─▶ SILENT     a turn, a command, a note, or nothing at all
           ▲        │ blip     ▲ the talk key
           └────────┘          └ skips ONSET

            a turn      sound                   more sound
agent   IDLE ─▶ PREPARING ─▶ SPEAKING ◀─▶ DUCKED ─▶ HELD ─▶ SPEAKING, PREPARING     it was nothing
          ▲▼        └─────────────────────────────▲  └─────▶ IDLE                   cut off, reopened or at its end
        MOVING    to another place of the tree, and back to IDLE

A turn that was committed is reopened if the user goes on before the reply to it has really begun. What is asked for
while the agent is not IDLE (a typed turn, a command by key) is a wish until it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple

from app import overlap
from app.decisions import Command, Mode, Scores


class UserPhase(Enum):
    """What the user is doing."""

    SILENT = "silent"
    ONSET = "onset"
    """Something sounds like speech, not yet for long enough."""
    SPEAKING = "speaking"
    PAUSE = "pause"
    """Silent after speech; the turn may be over."""


class AgentPhase(Enum):
    """What the agent is doing."""

    IDLE = "idle"
    PREPARING = "preparing"
    """Nothing of the reply was heard yet."""
    SPEAKING = "speaking"
    DUCKED = "ducked"
    HELD = "held"
    """The gate is shut until it is clear whether the user interrupts."""
    MOVING = "moving"
    """The model's state is on its way to another boundary."""


class Turn(NamedTuple):
    """A turn of the user, times in s on the session clock. Number 0: before the first."""

    number: int = 0
    text: str = ""
    """Empty: the agent spoke without being asked, or the words are not known here any more."""
    start_s: float = 0.0
    end_s: float = 0.0


NO_TURN = Turn()


class Wait(NamedTuple):
    """How much silence ends the turn, and why."""

    silence_ms: int
    reason: str
    scores: Scores


class Clause(NamedTuple):
    """Where a clause lies in its reply, in words from its start, and whether it wants an answer."""

    first: int
    end: int
    asks: bool


class Wish(NamedTuple):
    """What is carried out as soon as the agent is at rest."""

    kind: Literal["typed"] | Command
    at_s: float
    reason: str
    text: str = ""
    boundary: int = 0


@dataclass(frozen=True, slots=True)
class User:
    """The user's region. An utterance is all sound from an onset to its commit; times in s on the session clock."""

    phase: UserPhase = UserPhase.SILENT
    utterance: int = 0
    talking: bool = False
    """Voice activity, as far as it counts: not once the talk key has come up."""
    onset_s: float = 0.0
    run_since_s: float = 0.0
    spoken_s: float = 0.0
    """Speech in the finished runs of this utterance."""
    silent_since_s: float = 0.0
    over_reply: bool = False
    """It began while a reply was live that was not interrupted since: it may be a murmur, or an echo."""
    request: int = 0
    """The newest Transcribe; the answer to an older one says nothing about where the user stopped."""
    partial: str = ""
    """The newest transcript of this utterance."""
    text: str | None = None
    """The final transcript up to `silent_since_s`; None while it is not there."""
    acoustic: Mapping[str, float] = field(default_factory=dict[str, float])
    """How the end of it sounded."""
    asked_ahead: bool = False
    """The model was asked to read it."""
    wait: Wait | None = None
    due: bool = False
    """The turn is over, and only waits for the agent to be at rest."""
    key_down: bool = False
    key_ended: bool = False
    """The talk key came up: the turn is over as soon as its text is there."""
    reopened: Turn | None = None
    """The turn that goes on with what is said now."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent's region: at most one reply is live."""

    phase: AgentPhase = AgentPhase.IDLE
    branch: int = 0
    turn: Turn = NO_TURN
    """What it answers."""
    waited_ms: float | None = None
    """Silence after which the turn was taken to be over; None if that was not how it ended."""
    audible_s: float | None = None
    """When its first sample left the loudspeaker."""
    words: int = 0
    """Words heard."""
    clauses: tuple[Clause, ...] = ()
    """The newest ones that are written."""
    held_words: int | None = None
    """Words heard when the gate shut; None until the loudspeaker has told."""
    verdict: overlap.Verdict | None = None
    """The overlap is judged, and only the loudspeaker's word count is awaited."""
    overlap_s: float = 0.0
    """When the overlap began."""
    in_vain_s: tuple[float, ...] = ()
    """When its gate was opened again because the overlap was nothing."""
    finished: bool = False
    """The last sample left the loudspeaker although the gate was to be shut."""
    moving: Command | None = None
    """Why the model's state is on its way."""

    @property
    def live(self) -> bool:
        """There is a reply, heard or not, that has not ended."""
        return self.phase not in (AgentPhase.IDLE, AgentPhase.MOVING)


@dataclass(frozen=True, slots=True)
class State:
    """All that decisions depend on."""

    user: User = User()
    agent: Agent = Agent()
    mode: Mode = "duplex"
    last: Turn = NO_TURN
    """The newest turn in the model's state."""
    before: Turn = NO_TURN
    """The one before it."""
    branches: int = 0
    wish: Wish | None = None

    serial: int = 0
    timers: Mapping[str, int] = field(default_factory=dict[str, int])
    """Armed timers and the serial each must come back with. Never changed in place."""
    user_moved_s: float = 0.0
    agent_moved_s: float = 0.0
    """When the regions were last seen to get on."""

    floor_ms: float = 0.0
    """The shortest wait, as learned from the user's pauses; 0 before the first."""
    told_floor_ms: float = 0.0
    """What was last told of it."""

    said: tuple[tuple[float, str], ...] = ()
    """What the agent said in the last seconds: when, and a word of it in lower case."""
    learns_until_s: float = 0.0
    """There is an echo, and until then the canceller may leave too much of it."""
    strikes_s: tuple[float, ...] = ()
    """When the agent was last caught hearing itself."""
    leaks: int = 0
    """Stretches of playback in a row in which much of the echo was left."""

    leaver: int = 0
    """The branch that was cut off last and may have left something unheard; 0: nobody wants that."""
    tail: int | None = None
    """The branch whose unheard rest can be asked for."""
    checked_in: bool = False
    """The agent has asked whether the user is there, and has had no word since."""

    @property
    def turns(self) -> int:
        """Turns in the model's state."""
        return self.last.number
