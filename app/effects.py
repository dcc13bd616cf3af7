"""Everything the conversation may ask for: frozen, imperative. `turns` names effects, the session carries them out."""

from __future__ import annotations

import msgspec

from app.events import Event, Mode


class Request(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The root of all effects."""


class Announce(Request, frozen=True, tag=True, kw_only=True):
    """Log a decision. It is a fact from now on."""

    fact: Event


class SetTimer(Request, frozen=True, tag=True, kw_only=True):
    """Ask for `TimerFired(name, serial)` at `at_s`. Never cancelled: a stale serial is ignored on arrival."""

    name: str
    serial: int
    at_s: float


class StartUtterance(Request, frozen=True, tag=True, kw_only=True):
    """Collect the user's sound from `from_s` on (a little before the onset) and send partial transcripts."""

    utterance: int
    from_s: float


class Transcribe(Request, frozen=True, tag=True, kw_only=True):
    """Decode all of the utterance up to `until_s`; answered by `FinalTranscribed`."""

    utterance: int
    request: int
    until_s: float


class EndUtterance(Request, frozen=True, tag=True, kw_only=True):
    """The utterance is committed or was nothing: its sound is no longer needed."""

    utterance: int


class ReadAhead(Request, frozen=True, tag=True, kw_only=True):
    """Let the model read what the user said so far, before it is a turn; answered by `UserTextRead`.

    Nothing of it stays unless the turn is committed with a text that begins the same way.
    """

    utterance: int
    request: int
    text: str


class StartReply(Request, frozen=True, tag=True, kw_only=True):
    """Feed the user's turn to the model, decode, speak."""

    branch: int
    turn: int
    text: str
    line: str = ""
    """Say this instead of asking the model."""
    tail_of: int | None = None
    """Begin with the unheard rest of this branch, from the very word, and only then ask the model for more."""
    again: bool = False
    """The turn is in the state already: go back to its end and answer in another way."""


class PrepareLine(Request, frozen=True, tag=True, kw_only=True):
    """Make a line into sound ahead of time, so that saying it costs nothing."""

    text: str


class MoveBack(Request, frozen=True, tag=True, kw_only=True):
    """Go on from before a turn of the user; answered by `Moved` or `MoveRefused`."""

    turn: int


class TakeUp(Request, frozen=True, tag=True, kw_only=True):
    """Go on from a boundary A, be it live or abandoned; answered by `Moved` or `MoveRefused`."""

    boundary: int


class ForgetTail(Request, frozen=True, tag=True, kw_only=True):
    """The unheard rest of a branch will not be asked for any more."""

    branch: int


class SetMode(Request, frozen=True, tag=True, kw_only=True):
    """How microphone and loudspeaker share the air."""

    mode: Mode


class SetTalkKey(Request, frozen=True, tag=True, kw_only=True):
    """The talk key is down or up: in mode ptt the microphone is open while it is down."""

    down: bool


class Duck(Request, frozen=True, tag=True, kw_only=True):
    """Lower the loudspeaker while it is unclear whether the user interrupts."""

    branch: int


class Unduck(Request, frozen=True, tag=True, kw_only=True):
    """Back to full level."""

    branch: int


class Hold(Request, frozen=True, tag=True, kw_only=True):
    """Shut the gate at the next block and freeze the playhead; decoding goes on. Answered by `OutputHeld`."""

    branch: int


class Resume(Request, frozen=True, tag=True, kw_only=True):
    """Open the gate again, from the start of a word a little before the hold. Answered by `OutputResumed`."""

    branch: int


class Yield(Request, frozen=True, tag=True, kw_only=True):
    """End a reply that was cut off: its branch is dead from now on, and what was heard of it becomes the agent's turn.

    No words: the reply failed or was forbidden to begin; the user's turn stays, and the agent's is empty. Answered by
    `RolledBack`, `BoundaryTaken` (A) and `ReplyCommitted`, and by `TailKept` if something is left to be heard.
    """

    branch: int
    turn: int
    words: int


class Abandon(Request, frozen=True, tag=True, kw_only=True):
    """End a reply of which no word was heard: its branch is dead, and the state goes back before the user's turn.

    Answered by `RolledBack`.
    """

    branch: int
    turn: int


class CloseReply(Request, frozen=True, tag=True, kw_only=True):
    """A reply was heard to its end: commit it. Answered by `BoundaryTaken` (A) and `ReplyCommitted`."""

    branch: int
    turn: int


Effect = (
    Announce
    | SetTimer
    | StartUtterance
    | Transcribe
    | EndUtterance
    | ReadAhead
    | StartReply
    | PrepareLine
    | MoveBack
    | TakeUp
    | ForgetTail
    | SetMode
    | SetTalkKey
    | Duck
    | Unduck
    | Hold
    | Resume
    | Yield
    | Abandon
    | CloseReply
)
