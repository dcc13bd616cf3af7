"""What the conversation needs from the world, as protocols. Parts satisfy them by shape; nothing inherits.

The session talks to three composite ports: `Ears` (microphone, voice activity, recogniser), `Brain` (the language
model) and `Mouth` (voice and loudspeaker). Live parts build these from the smaller ports further down, which the
classes of `audio` and `engine` satisfy; scripted ones (app/replay/) are pure coroutines on a virtual clock.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from app.events import Event

Samples = NDArray[np.float32]
"""Mono sound, -1..1."""

Emit = Callable[[Event], None]
"""Puts an event into the log and before the reducer. Call it on the event loop's thread only."""


class Clock(Protocol):
    """Session time. Only app/clock.py and audio/ read a real one."""

    def now_s(self) -> float:
        """Seconds since the session began."""
        ...

    async def sleep_until(self, at_s: float) -> None:
        """Return at `at_s`; at once if it has passed."""
        ...


class Ears(Protocol):
    """Microphone, voice activity and recogniser."""

    async def run(self, emit: Emit) -> None:
        """Listen until cancelled.

        Emits SpeechStarted, SpeechStopped, PartialTranscribed, LevelsMeasured, SoundTroubled, DeviceLost, DeviceOpened.
        """
        ...

    def start_utterance(self, utterance: int, from_s: float) -> None:
        """Collect sound from `from_s` on and send partials; ends the utterance before it."""
        ...

    async def transcribe(self, utterance: int, until_s: float) -> str:
        """The text of all sound of the utterance up to `until_s`; empty if it was not speech."""
        ...

    def end_utterance(self, utterance: int) -> None:
        """Forget the utterance's sound."""
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


class Brain(Protocol):
    """The language model's live state, moved along by one caller at a time."""

    async def open(self) -> BoundaryMark:
        """Read the persona. The boundary A0."""
        ...

    async def read_user(self, text: str) -> BoundaryMark:
        """Append the user's turn and the header of the reply. The boundary U."""
        ...

    def reply(self, turn: int) -> AsyncGenerator[str, None]:
        """Pieces of text, one a token, never splitting a character; ends at the end of the reply.

        When a piece is yielded, the state holds all pieces before it and not yet the piece itself. Closing the iterator
        between two pieces leaves the state at such a point.
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

    def stop(self, branch: int) -> None:
        """Throw away what is queued of this branch. Silent within one block."""
        ...


class Parts(NamedTuple):
    """What a session is made of."""

    clock: Clock
    ears: Ears
    brain: Brain
    mouth: Mouth


# ---- the smaller ports of the live parts ----


class FrameLike(Protocol):
    """20 ms of microphone sound."""

    @property
    def samples(self) -> Samples:
        """float32[320] at 16 kHz."""
        ...

    @property
    def first_sample(self) -> int:
        """Index at 16 kHz since the card was opened; a gap is lost sound."""
        ...


class CardStats(NamedTuple):
    """Counters of the sound path since it was opened."""

    xruns: int
    dropped_frames: int


class CardStatsLike(Protocol):
    """`CardStats` of a card that knows nothing of this file."""

    @property
    def xruns(self) -> int: ...

    @property
    def dropped_frames(self) -> int: ...


class SoundCard(Protocol):
    """Microphone and loudspeaker on one sample clock: audio/duplex.py live, app/replay/card.py without hardware."""

    def frames(self) -> AsyncIterator[FrameLike]:
        """Microphone frames in order, each once it is complete, until the card is closed."""
        ...

    def time_of_sample(self, sample: int) -> float:
        """Session time in s at which microphone sample `sample` (16 kHz index) was captured."""
        ...

    def stats(self) -> CardStatsLike:
        """Counters since the card was opened."""
        ...


class PlayheadLike(Protocol):
    """What the loudspeaker has done with one branch so far."""

    @property
    def branch(self) -> int: ...

    @property
    def heard_samples(self) -> int:
        """Samples of the branch's stream that have left the loudspeaker (48 kHz)."""
        ...

    @property
    def started_at_s(self) -> float | None:
        """Session time of the stream's first audible sample."""
        ...

    @property
    def last_at_s(self) -> float | None:
        """Session time of the newest audible sample."""
        ...

    @property
    def held(self) -> bool:
        """The gate is shut and the last block from before has left the loudspeaker."""
        ...

    @property
    def done(self) -> bool:
        """`finish` was called and every sample has left the loudspeaker."""
        ...


class PlayoutBuffer(Protocol):
    """Sound that waits for the loudspeaker: audio/playout.py."""

    def begin(self, branch: int) -> None: ...

    def room_samples(self) -> int: ...

    def enqueue(self, branch: int, samples: Samples) -> int | None:
        """Offset of the first sample in the branch's stream; None if the branch is dead."""
        ...

    def finish(self, branch: int) -> None: ...

    def duck(self) -> None: ...

    def unduck(self) -> None: ...

    def hold(self) -> None: ...

    def resume(self, from_sample: int) -> None: ...

    def stop(self, branch: int) -> None: ...

    def playhead(self, now_s: float) -> PlayheadLike | None: ...

    @property
    def level_dbfs(self) -> float:
        """Level of what was handed to the loudspeaker last."""
        ...


class WordSpan(Protocol):
    """Where a word lies in a clip."""

    @property
    def text(self) -> str: ...

    @property
    def start(self) -> int:
        """First sample, 48 kHz, from the start of the clip."""
        ...

    @property
    def end(self) -> int:
        """Sample after the last."""
        ...


class ClipLike(Protocol):
    """A spoken clause."""

    @property
    def samples(self) -> Samples:
        """float32[n] at 48 kHz."""
        ...

    @property
    def words(self) -> Sequence[WordSpan]:
        """One span for each word of `text.split()`, in order, not overlapping."""
        ...


class Voice(Protocol):
    """Text to speech: audio/tts.py. Called on one worker thread."""

    def synthesise(self, text: str) -> ClipLike: ...


class VoiceActivity(Protocol):
    """Probability of speech: audio/vad.py. Streaming: windows come in order."""

    def score(self, window: Samples) -> float:
        """float32[512] at 16 kHz (32 ms) -> 0..1."""
        ...

    def reset(self) -> None: ...


class TranscriptLike(Protocol):
    """One decode of the recogniser."""

    @property
    def text(self) -> str:
        """Stripped; empty where the sound was not speech."""
        ...


class Recogniser(Protocol):
    """Speech to text: audio/asr.py. Called on worker threads, by two at once."""

    def transcribe(self, samples: Samples) -> TranscriptLike:
        """float32[n] at 16 kHz, at most 28 s."""
        ...
