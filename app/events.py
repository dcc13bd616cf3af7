"""Every fact of a conversation: frozen, tagged, past tense. Nothing else.

The log of these events is the spine: the screen, the journal, the report, replay and the latency figures are folds of
it. `t_s` is when the event entered the log and `*_at_s`/`at_s` when the fact was true, both in seconds on the session
clock. A `branch` names one attempt at a reply; results for a dead branch are dropped where they arrive. Turns and
replies count from 1, clauses and words of a reply from 0; word counts are counts.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from app.commands import BranchChosen as BranchChosen
from app.commands import GoOnPressed as GoOnPressed
from app.commands import ModeChosen as ModeChosen
from app.commands import RegeneratePressed as RegeneratePressed
from app.commands import StopPressed as StopPressed
from app.commands import TalkPressed as TalkPressed
from app.commands import TalkReleased as TalkReleased
from app.commands import TextTyped as TextTyped
from app.commands import UndoPressed as UndoPressed
from app.decisions import CheckedIn as CheckedIn
from app.decisions import CommandRefused as CommandRefused
from app.decisions import CommandTaken as CommandTaken
from app.decisions import EndScored as EndScored
from app.decisions import Mode as Mode
from app.decisions import ModeChanged as ModeChanged
from app.decisions import OverlapJudged as OverlapJudged
from app.decisions import OverlapStarted as OverlapStarted
from app.decisions import PauseLearned as PauseLearned
from app.decisions import StuckRecovered as StuckRecovered
from app.decisions import TailForgotten as TailForgotten
from app.decisions import TurnCommitted as TurnCommitted
from app.decisions import TurnReopened as TurnReopened
from app.decisions import UserNoted as UserNoted
from app.fact import Fact as Fact

ClockName = Literal["wall", "stopped", "virtual"]
"""wall: real time. stopped: real parts, on time that stands still while they compute. virtual: scripted parts."""

# ---- the session ----


class SessionOpened(Fact, frozen=True, tag=True, kw_only=True):
    """The conversation can begin: models are loaded and sound flows."""

    clock: ClockName
    seed: int
    models: dict[str, str]
    """Kind of model (llm, asr, tts, vad) to its name."""
    settings: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """What decisions depend on: the sections of the configuration that a replay of this log needs."""


class SessionClosed(Fact, frozen=True, tag=True, kw_only=True):
    """The last event of every log."""

    reason: str
    tree: str = ""
    """Digest of the committed tree; a replay of the log must come to the same."""


class DeviceLost(Fact, frozen=True, tag=True, kw_only=True):
    """A sound device vanished; the conversation is kept."""

    device: str
    reason: str


class DeviceOpened(Fact, frozen=True, tag=True, kw_only=True):
    """Sound flows (again)."""

    device: str


class SoundTroubled(Fact, frozen=True, tag=True, kw_only=True):
    """Counters of the sound path rose; totals since the session began."""

    xruns: int
    dropped_frames: int


class LevelsMeasured(Fact, frozen=True, tag=True, kw_only=True):
    """Meters, ten times a second. For eyes only: never stored in a journal, never an input of a decision."""

    mic_dbfs: float
    speaker_dbfs: float
    speech: float
    """Probability of speech in the newest window, 0..1."""


class EchoNoticed(Fact, frozen=True, tag=True, kw_only=True):
    """Whether the microphone hears the loudspeaker: told at the first sound, and when that changes."""

    rise_db: float
    """By how much the microphone became louder; 0: there is no echo."""


class EchoMeasured(Fact, frozen=True, tag=True, kw_only=True):
    """What the echo canceller did during the newest stretch of playback."""

    erle_db: float
    """How much weaker the echo became; only of stretches in which the user was silent."""
    delay_ms: float
    residual_share: float
    """Share of the stretch in which what was left of the echo still looked like speech, 0..1."""


# ---- the user ----


class SpeechStarted(Fact, frozen=True, tag=True, kw_only=True):
    """Voice activity rose over its threshold."""

    at_s: float


class SpeechStopped(Fact, frozen=True, tag=True, kw_only=True):
    """Voice activity fell under its threshold."""

    at_s: float


class PartialTranscribed(Fact, frozen=True, tag=True, kw_only=True):
    """What the user seems to be saying while they still talk."""

    utterance: int
    stable: str
    """Words on which two consecutive decodes agree; they never change again within an utterance."""
    unstable: str


class FinalTranscribed(Fact, frozen=True, tag=True, kw_only=True):
    """The answer to `Transcribe`: all that was said in the utterance so far. Empty text: it was not speech."""

    utterance: int
    request: int
    text: str
    took_ms: float
    acoustic: dict[str, float] = msgspec.field(default_factory=dict[str, float])
    """How the end of it sounded, by the names that app/endpoint.py weighs; empty if nobody looked."""


class UserTextRead(Fact, frozen=True, tag=True, kw_only=True):
    """The answer to `ReadAhead`: the model has read what the user said so far."""

    utterance: int
    request: int
    tokens: int
    end_logprob: float | None
    """Natural log of the probability that the user's turn ends there; None if there was no room to read it."""
    took_ms: float


class TimerFired(Fact, frozen=True, tag=True, kw_only=True):
    """A timer that a decision asked for came due."""

    name: str
    serial: int


# ---- the reply ----


class UserTurnAppended(Fact, frozen=True, tag=True, kw_only=True):
    """The model has read the user's turn; boundary U stands."""

    branch: int
    tokens: int
    took_ms: float


class FirstTokenDecoded(Fact, frozen=True, tag=True, kw_only=True):
    """The first token of a reply."""

    branch: int


class ClauseDecoded(Fact, frozen=True, tag=True, kw_only=True):
    """A speakable clause is complete; its boundary W stands right after it."""

    branch: int
    clause: int
    text: str


class ClauseSynthesised(Fact, frozen=True, tag=True, kw_only=True):
    """A clause has become sound and waits for the loudspeaker."""

    branch: int
    clause: int
    words: int
    seconds: float
    took_ms: float


class ReplyDecoded(Fact, frozen=True, tag=True, kw_only=True):
    """The model has finished its reply; some of it may still have to be spoken."""

    branch: int
    text: str
    tokens: int


class ReplyFailed(Fact, frozen=True, tag=True, kw_only=True):
    """The reply could not be made; the conversation goes on without it."""

    branch: int
    what: str
    why: str
    fix: str


class PlayoutStarted(Fact, frozen=True, tag=True, kw_only=True):
    """The first sample of a reply left the loudspeaker."""

    branch: int
    at_s: float


class WordHeard(Fact, frozen=True, tag=True, kw_only=True):
    """One more word of the reply has left the loudspeaker. Says how many have, and the newest."""

    branch: int
    words: int
    text: str
    at_s: float


class PlayoutFinished(Fact, frozen=True, tag=True, kw_only=True):
    """The last sample of a complete reply left the loudspeaker."""

    branch: int
    at_s: float


class OutputHeld(Fact, frozen=True, tag=True, kw_only=True):
    """The gate is shut: the loudspeaker is silent from `at_s`, and what was heard until then is exact."""

    branch: int
    at_s: float
    words: int
    asked_s: float | None = None
    """When it was decided that the gate shuts."""


class OutputResumed(Fact, frozen=True, tag=True, kw_only=True):
    """The gate is open again; the reply goes on from the start of a word."""

    branch: int
    at_s: float
    words: int
    """Words counted as heard where it goes on."""


# ---- the tree ----


class BoundaryTaken(Fact, frozen=True, tag=True, kw_only=True):
    """A capsule of the model's live state stands at a committed boundary."""

    boundary: int
    """Serial number, unique in the session."""
    name: str
    """A (agent's turn as heard), U (user's turn), W (clause), with its number: A1, U2, W3."""
    parent: int | None
    turn: int
    position: int
    """Tokens in the state."""
    capsule_bytes: int
    text: str = ""
    """What was said up to it since the boundary before: the user's turn (U), a clause (W), what was heard (A)."""


class RolledBack(Fact, frozen=True, tag=True, kw_only=True):
    """The model's state went back to a boundary and was fed what was heard after it."""

    branch: int
    boundary: str
    refed_tokens: int
    rollback_us: float


class ContextTrimmed(Fact, frozen=True, tag=True, kw_only=True):
    """The context was full: the oldest turns left the model's state (they stay in the log)."""

    kept_turns: int
    tokens: int


class ReplyCommitted(Fact, frozen=True, tag=True, kw_only=True):
    """The agent's turn as it was heard, to the word, is in the model's state."""

    turn: int
    branch: int
    heard: str
    words: int
    interrupted: bool
    kept: str | None = None
    """What the model's state keeps of it where the policy says other than what was heard."""


class TailKept(Fact, frozen=True, tag=True, kw_only=True):
    """A reply was cut off, and what was not heard of it can be asked for."""

    branch: int
    turn: int
    text: str
    """The unheard rest, as far as the model had written it."""
    complete: bool
    """The model had written all of it."""


class Moved(Fact, frozen=True, tag=True, kw_only=True):
    """The conversation goes on from another boundary; what it left is abandoned and can be taken up again."""

    boundary: int
    name: str
    turn: int
    """The turn after which it goes on."""
    text: str = ""
    """What the user said in that turn; empty if it has no words of the user."""
    left: int
    """Serial number of the boundary it left."""
    rollback_us: float


class MoveRefused(Fact, frozen=True, tag=True, kw_only=True):
    """There is no such boundary any more; the conversation is where it was."""

    what: str
    why: str


class DeadBranchDropped(Fact, frozen=True, tag=True, kw_only=True):
    """A result came for a branch that is no more, and was dropped."""

    branch: int
    what: str


Event = (
    SessionOpened
    | SessionClosed
    | DeviceLost
    | DeviceOpened
    | SoundTroubled
    | LevelsMeasured
    | EchoNoticed
    | EchoMeasured
    | SpeechStarted
    | SpeechStopped
    | PartialTranscribed
    | FinalTranscribed
    | UserTextRead
    | TimerFired
    | TextTyped
    | StopPressed
    | GoOnPressed
    | UndoPressed
    | RegeneratePressed
    | BranchChosen
    | TalkPressed
    | TalkReleased
    | ModeChosen
    | UserTurnAppended
    | FirstTokenDecoded
    | ClauseDecoded
    | ClauseSynthesised
    | ReplyDecoded
    | ReplyFailed
    | PlayoutStarted
    | WordHeard
    | PlayoutFinished
    | OutputHeld
    | OutputResumed
    | BoundaryTaken
    | RolledBack
    | ContextTrimmed
    | ReplyCommitted
    | TailKept
    | Moved
    | MoveRefused
    | DeadBranchDropped
    | TurnCommitted
    | TurnReopened
    | EndScored
    | PauseLearned
    | UserNoted
    | OverlapStarted
    | OverlapJudged
    | CommandTaken
    | CommandRefused
    | CheckedIn
    | TailForgotten
    | ModeChanged
    | StuckRecovered
)
