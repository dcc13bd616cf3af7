"""What the conversation needs from the world, as protocols. Parts satisfy them by shape; nothing inherits.

The session talks to three composite ports: `Ears` (microphone, voice activity, recogniser), `Brain` (the language
model) and `Mouth` (voice and loudspeaker). Live parts build these from the smaller ports of app/sound_ports.py and the
engine; scripted ones (app/replay/) are pure coroutines on a virtual clock.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from app.decisions import Mode
from app.events import Event

Emit = Callable[[Event], None]
"""Puts an event into the log and before the reducer. Call it on the event loop's thread only."""

Commands = Callable[[Emit], AbstractContextManager[None]]
"""Lets a keyboard or the like ask for things inside a context, which is entered while the session is open."""


class Clock(Protocol):
    """Session time. Only app/clock.py and audio/ read a real one."""

    def now_s(self) -> float:
        """Seconds since the session began."""
        ...

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`; at once if it has passed."""
        ...


class Listened(NamedTuple):
    """What was heard of the user up to a pause."""

    text: str
    """Empty if it was not speech."""
    acoustic: Mapping[str, float]
    """How the end of it sounded, by the names that app/endpoint.py weighs; empty if nobody looked."""


class Ears(Protocol):
    """Microphone, echo canceller, voice activity, recogniser, and the model that hears ends of turns."""

    async def run(self, emit: Emit) -> None:
        """Listen until cancelled.

        Emits SpeechStarted, SpeechStopped, PartialTranscribed, LevelsMeasured, SoundTroubled, EchoMeasured, DeviceLost,
        DeviceOpened.
        """
        ...

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Collect sound from `from_s` on and send partials; ends the utterance before it."""
        ...

    async def transcribe(self, utterance: int, until_s: float) -> Listened:
        """What all sound of the utterance up to `until_s` said, and how its end sounded."""
        ...

    def end_utterance(self, utterance: int) -> None:
        """Forget the utterance's sound."""
        ...

    def set_mode(self, mode: Mode) -> None:
        """How microphone and loudspeaker share the air from now on."""
        ...

    def set_talk_key(self, down: bool) -> None:
        """In mode ptt the microphone is open while the talk key is down: its sound is speech from press to release."""
        ...


class BoundaryMark(NamedTuple):
    """A boundary of the model's state: where it lies and what its capsule weighs."""

    position: int
    """Tokens in the state."""
    capsule_bytes: int
    """0 where the capsule shares its rows with the live state."""
    handle: int
    """Names the capsule to the brain that took it."""


class RollbackReport(NamedTuple):
    """What a rollback took."""

    refed_tokens: int
    rollback_us: float
    mark: BoundaryMark
    """The boundary on which the state now stands."""


class ReadAhead(NamedTuple):
    """What the model makes of a turn that may not be over."""

    tokens: int
    """Read for it, beyond what was read before."""
    end_logprob: float | None
    """Natural log of the probability that the turn ends there; None if there was no room to read it."""


class Brain(Protocol):
    """The language model's live state, moved along by one caller at a time."""

    async def open(self) -> BoundaryMark:
        """Read the persona. The boundary A0."""
        ...

    async def read_ahead(self, text: str, note: str = "") -> ReadAhead:
        """Read what the user said so far; it is no turn yet, and leaves no boundary. Called between turns.

        What the next `read_ahead` or `read_user` shares with it from the start is not read again; whatever else moves
        the state goes back to before it first. Arguments as of `read_user`.
        """
        ...

    async def read_user(self, text: str, note: str = "") -> BoundaryMark:
        """Append the user's turn and the header of the reply. The boundary U.

        Args:
            text: What the user said.
            note: A line for the model that nobody said, put before the text.
        """
        ...

    async def read_line(self, text: str) -> None:
        """Append to the open reply what was not decoded but is to be said: a line, or the rest of an earlier reply."""
        ...

    def reply(self, turn: int, *, again: bool = False) -> AsyncGenerator[str, None]:
        """Pieces of text, one a token, never splitting a character; ends at the end of the reply.

        `again` asks for another reply than the one that was given before. When a piece is yielded, the state holds all
        pieces before it and not yet the piece itself. Closing the iterator between two pieces leaves the state at such
        a point.
        """
        ...

    async def mark_clause(self) -> BoundaryMark:
        """The boundary W just before the newest piece that `reply` yielded (after all of them if it has ended)."""
        ...

    async def roll_back(self, handle: int, heard: str, *, cut: bool) -> RollbackReport:
        """Restore a boundary.

        Args:
            handle: The boundary.
            heard: Text to feed after it, exactly.
            cut: Whether to mark the cut and close the agent's turn (boundary A) after it.
        """
        ...

    async def close_reply(self) -> BoundaryMark:
        """Close the agent's turn as it is in the state. The boundary A."""
        ...

    def forget(self, handles: Sequence[int]) -> None:
        """These boundaries will not be asked for again."""
        ...

    async def make_room(self, text: str) -> tuple[int, BoundaryMark] | None:
        """If the context has no room for another turn, keep the newest turns only. Called between turns.

        All boundaries before it are forgotten then.

        Args:
            text: What the user will say in that turn; empty if that is not known yet.

        Returns:
            The number of turns kept and the boundary A on which the state now stands; None if there was room.
        """
        ...


class Spoken(NamedTuple):
    """A clause that became sound."""

    words: int
    seconds: float
    took_ms: float


class Mouth(Protocol):
    """Voice and loudspeaker."""

    async def run(self, emit: Emit) -> None:
        """Report the playhead until cancelled.

        Emits PlayoutStarted, WordHeard, PlayoutFinished, OutputHeld, OutputResumed.
        """
        ...

    def begin(self, branch: int) -> None:
        """From now on only sound of this branch is played; the gate is open."""
        ...

    async def say(self, branch: int, text: str) -> Spoken | None:
        """Synthesise a clause and queue it behind the branch's others. None: the branch is dead and nothing was queued.

        Waits while the playout buffer is full.
        """
        ...

    async def say_rest(self, branch: int, source: int, clause: int, from_word: int) -> Spoken | None:
        """Queue the kept sound of a clause of an earlier branch, from a word on. None: this branch is dead.

        Args:
            branch: Which speaks now.
            source: Whose sound it is. It was stopped with `keep`.
            clause: Number of the clause in that branch.
            from_word: First word of the clause to be said.
        """
        ...

    async def prepare(self, text: str) -> None:
        """Make a line into sound, so that saying it takes no time; one line is kept."""
        ...

    def finish(self, branch: int) -> None:
        """No more clauses will come; PlayoutFinished follows the last sample."""
        ...

    def duck(self) -> None:
        """Lower the level (a ramp of some ms)."""
        ...

    def unduck(self) -> None:
        """Back to full level."""
        ...

    def hold(self) -> None:
        """Silence from the next block on, playhead frozen. OutputHeld follows. Works before the first sample too."""
        ...

    def resume(self) -> None:
        """Go on from the start of a word, at most 400 ms before the hold. OutputResumed follows."""
        ...

    def stop(self, branch: int, *, keep: bool = False) -> None:
        """Throw away what is queued of this branch. Silent within one block.

        Args:
            branch: The branch.
            keep: Keep its clauses' sound for `say_rest`, until `forget`.
        """
        ...

    def forget(self, branch: int) -> None:
        """The kept sound of a branch is no longer needed."""
        ...


class Parts(NamedTuple):
    """What a session is made of."""

    clock: Clock
    ears: Ears
    brain: Brain
    mouth: Mouth
