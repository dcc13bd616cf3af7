"""What the conversation's decisions depend on: two regions, user and agent. Values only; app/turns.py moves them.

user    SILENT ─▶ ONSET ─▶ SPEAKING ◀─▶ PAUSE ─▶ SILENT (committed, or it was nothing)
agent   IDLE ─▶ PREPARING ─▶ SPEAKING ◀─▶ DUCKED ─▶ HELD ─▶ SPEAKING (it was nothing) | IDLE (cut off)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from app import events as fact
from app import overlap


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
    SPEAKING = "speaking"
    DUCKED = "ducked"
    HELD = "held"
    """The gate is shut until it is clear whether the user interrupts."""


@dataclass(frozen=True, slots=True)
class User:
    """The user's region. An utterance is all sound from an onset to its commit; times in s on the session clock."""

    phase: UserPhase = UserPhase.SILENT
    utterance: int = 0
    talking: bool = False
    onset_s: float = 0.0
    run_since_s: float = 0.0
    spoken_s: float = 0.0
    """Speech in the finished runs of this utterance."""
    silent_since_s: float = 0.0
    request: int = 0
    """The newest Transcribe; the answer to an older one says nothing about where the user stopped."""
    text: str | None = None
    """The final transcript up to `silent_since_s`; None while it is not there."""
    interrupting: bool = False
    """This utterance cut a reply off."""
    reopened: str = ""
    """Text of the turn that this utterance continues."""
    turn_start_s: float | None = None
    """Onset of the turn that this utterance continues."""


@dataclass(frozen=True, slots=True)
class Agent:
    """The agent's region: at most one reply is live."""

    phase: AgentPhase = AgentPhase.IDLE
    branch: int = 0
    turn: int = 0
    turn_text: str = ""
    turn_start_s: float = 0.0
    audible: bool = False
    words: int = 0
    """Words heard."""
    held_words: int | None = None
    """Words heard when the gate shut; None until the loudspeaker has told."""
    verdict: overlap.Verdict | None = None
    """The overlap is judged, and only the loudspeaker's word count is awaited."""
    overlap_s: float = 0.0
    """When the overlap began."""
    finished: bool = False
    """The last sample left the loudspeaker although the gate was to be shut."""


@dataclass(frozen=True, slots=True)
class State:
    """All that decisions depend on."""

    user: User = User()
    agent: Agent = Agent()
    turns: int = 0
    branches: int = 0
    serial: int = 0
    timers: dict[str, int] = field(default_factory=dict[str, int])
    """Armed timers and the serial each must come back with. Never changed in place."""
    typed: fact.TextTyped | None = None
    """A typed turn that waits for the reply to end."""
