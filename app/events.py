"""Every fact of a conversation: frozen, tagged, past tense. Nothing else.

The log of these events is the spine: the screen, the journal, the report, replay and the latency figures are folds of
it. `t_s` is when the event entered the log and `*_at_s`/`at_s` when the fact was true, both in seconds on the session
clock. A `branch` names one attempt at a reply; results for a dead branch are dropped where they arrive. Turns and
replies count from 1, clauses and words of a reply from 0; word counts are counts.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Fact(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The root of all events.

    Attributes:
        t_s: When the event entered the log, s on the session clock. Stamped by the session, so 0 until then.
    """

    t_s: float = 0.0


# ---- the session ----


class SessionOpened(Fact, frozen=True, tag=True, kw_only=True):
    """The conversation can begin: models are loaded and sound flows."""

    clock: Literal["wall", "virtual"]
    seed: int
    models: dict[str, str]
    """Kind of model (llm, asr, tts, vad) to its name."""


class SessionClosed(Fact, frozen=True, tag=True, kw_only=True):
    """The last event of every log."""

    reason: str


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


class TimerFired(Fact, frozen=True, tag=True, kw_only=True):
    """A timer that a decision asked for came due."""

    name: str
    serial: int


class TextTyped(Fact, frozen=True, tag=True, kw_only=True):
    """The user typed a turn instead of saying it."""

    text: str


class StopPressed(Fact, frozen=True, tag=True, kw_only=True):
    """The user pressed the stop key: be quiet now, and wait."""


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


class DeadBranchDropped(Fact, frozen=True, tag=True, kw_only=True):
    """A result came for a branch that is no more, and was dropped."""

    branch: int
    what: str


# ---- decisions, each with its reason ----


class TurnCommitted(Fact, frozen=True, tag=True, kw_only=True):
    """The user has finished a turn."""

    turn: int
    branch: int
    text: str
    speech_start_s: float
    speech_end_s: float
    reason: str


class TurnReopened(Fact, frozen=True, tag=True, kw_only=True):
    """The user went on before a word of the reply was heard: the same turn goes on, the reply never was."""

    turn: int
    branch: int
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


class ReplyCommitted(Fact, frozen=True, tag=True, kw_only=True):
    """The agent's turn as it was heard, to the word, is in the model's state."""

    turn: int
    branch: int
    heard: str
    words: int
    interrupted: bool


Event = (
    SessionOpened
    | SessionClosed
    | DeviceLost
    | DeviceOpened
    | SoundTroubled
    | LevelsMeasured
    | SpeechStarted
    | SpeechStopped
    | PartialTranscribed
    | FinalTranscribed
    | TimerFired
    | TextTyped
    | StopPressed
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
    | DeadBranchDropped
    | TurnCommitted
    | TurnReopened
    | OverlapStarted
    | OverlapJudged
    | ReplyCommitted
)
