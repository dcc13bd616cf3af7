"""What the live parts are made of, as protocols that the classes of `audio` satisfy by shape.

app/ports.py has the ports of the conversation itself; LiveEars and LiveMouth build two of those from these.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Mono sound, -1..1."""


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

    def reference(self, at_s: float, count: int) -> Samples:
        """What the loudspeaker sounds: float32[count] at 16 kHz from session time `at_s` on, zeros where not known.

        For one consumer, who asks for one frame after the other. Known for 40 ms beyond each frame that was given.
        """
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


class EchoCanceller(Protocol):
    """Takes what the loudspeaker plays out of the microphone: audio/echo.py, audio/linear_echo.py. Frames in order."""

    def process(self, near: Samples, far: Samples) -> Samples:
        """float32[320] (20 ms at 16 kHz) of the microphone, and what the loudspeaker plays, never later than its echo.

        Returns:
            float32[320] without the echo.
        """
        ...

    def reset(self) -> None:
        """Sound was lost: learn the echo afresh."""
        ...


class TurnEnd(Protocol):
    """How the end of an utterance sounds: audio/turn_end.py. Called on a worker thread."""

    def listen(self, samples: Samples) -> Mapping[str, float]:
        """float32[n] at 16 kHz, the utterance up to the pause -> features by the names that app/endpoint.py weighs."""
        ...
