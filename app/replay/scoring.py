"""Scores of a dialogue from its recording alone: left the user, right the assistant, whoever made it.

No log is looked at, so no program can flatter itself. A side speaks while it is louder than its noise; pauses up to
0.6 s of the user and 0.5 s of the assistant are part of speech, and an overlap is as long as both speak
(Full-Duplex-Bench v1.5). The assistant has given way if it is silent within 2 s, and what is shorter than 1 s may be a
backchannel, over which it should go on (tau-voice). Sound alone can't tell a reply that goes on from another reply:
silence after a short overlap is called a hole, after a long one a stop.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.errors import WavError

_FRAME_HZ = 100
_QUIETEST_DB = -55.0
_BELOW_LOUD_DB = 38.0
_OVER_NOISE_DB = 12.0
_LEAST_S = 0.06
_USER_PAUSE_S, _AGENT_PAUSE_S = 0.6, 0.5
_GAP_S = 0.25
"""A shorter silence of the assistant is the pause between two clauses."""
_YIELD_S = 2.0
_SHORT_S = 1.0
_EDGE_S = 0.05
"""What begins so little before something else begins together with it."""

Span = tuple[float, float]


class Overlap(NamedTuple):
    """The user spoke up while the assistant spoke. Times in ms."""

    onset_s: float
    user_ms: float
    """How long the user spoke."""
    both_ms: float
    """How long both spoke."""
    stop_ms: float | None
    """From the user's onset until the assistant was silent; None if it spoke on for more than 2 s."""
    hole_ms: float | None
    """Of a user's sound shorter than 1 s: for how long the assistant fell silent until it spoke again; 0 if it did not,
    None if it never spoke again."""


class Scores(NamedTuple):
    """What a recording says."""

    user: list[Span]
    """Speech, in s."""
    agent: list[Span]
    responses_ms: list[float]
    """From the end of the user's speech to the assistant's, where the assistant speaks before the user does again."""
    overlaps: list[Overlap]
    unanswered: int
    """Speech of the user, not over the assistant, that nothing followed before the user spoke again."""
    interruptions: int
    """How often the assistant began while the user spoke."""

    def told(self) -> dict[str, Any]:
        """As an object for JSON, with medians."""
        stops = [one.stop_ms for one in self.overlaps if one.stop_ms is not None]
        holes = [one.hole_ms for one in self.overlaps if one.hole_ms is not None]
        return {
            "user_s": self.user,
            "agent_s": self.agent,
            "response_ms": self.responses_ms,
            "overlaps": [one._asdict() for one in self.overlaps],
            "unanswered": self.unanswered,
            "agent_interrupts_user": self.interruptions,
            "response_p50_ms": _median(self.responses_ms),
            "stop_p50_ms": _median(stops),
            "hole_p50_ms": _median(holes),
        }


def score(path: Path) -> Scores:
    """The scores of a recording: a stereo WAV file of 16 bits, of any length.

    Raises:
        WavError: It is not such a file.
    """
    levels_db, frame_s = _levels(path)
    user, agent = (
        _speech(side, frame_s, pause_s) for side, pause_s in zip(levels_db.T, (_USER_PAUSE_S, _GAP_S), strict=True)
    )
    return score_spans(user, agent)


def score_spans(user: list[Span], agent: list[Span]) -> Scores:
    """The scores of speech that was found already.

    Args:
        user: Speech of the user, its pauses closed.
        agent: Speech of the assistant, only pauses between clauses closed.
    """
    whole = joined(agent, _AGENT_PAUSE_S)
    overlaps: list[Overlap] = []
    responses_ms: list[float] = []
    unanswered = 0
    for number, (start_s, end_s) in enumerate(user):
        over = next((span for span in whole if span[0] < start_s - _EDGE_S and span[1] > start_s), None)
        if over is not None:
            overlaps.append(_overlap((start_s, end_s), over, agent))
        next_s = user[number + 1][0] if number + 1 < len(user) else float("inf")
        answer_s = next((begin_s for begin_s, _ in whole if begin_s >= end_s - _EDGE_S), None)
        if answer_s is not None and answer_s < next_s:
            responses_ms.append(_ms(max(0.0, answer_s - end_s)))
        elif over is None:
            unanswered += 1
    interruptions = sum(any(a + _EDGE_S < begin_s < b - _EDGE_S for a, b in user) for begin_s, _ in whole)
    return Scores(user, whole, responses_ms, overlaps, unanswered, interruptions)


def joined(spans: list[Span], pause_s: float) -> list[Span]:
    """Spans with pauses of up to `pause_s` closed."""
    found: list[Span] = []
    for start_s, end_s in spans:
        if found and start_s - found[-1][1] <= pause_s + 1e-6:
            found[-1] = (found[-1][0], end_s)
        else:
            found.append((start_s, end_s))
    return found


def _overlap(user: Span, over: Span, agent: list[Span]) -> Overlap:
    """What came of speaking over `over`; `agent` has the same with its gaps."""
    start_s, end_s = user
    stop_s = over[1] - start_s
    stops = [stop for _, stop in agent if start_s <= stop <= start_s + _YIELD_S]
    hole_ms = None
    if end_s - start_s < _SHORT_S:
        silent_s = stops[0] if stops else None
        back_s = next((begin for begin, _ in agent if silent_s is not None and begin > silent_s), None)
        if silent_s is None:
            hole_ms = 0.0
        elif back_s is not None:
            hole_ms = _ms(back_s - silent_s)
    return Overlap(
        start_s,
        _ms(end_s - start_s),
        _ms(sum(max(0.0, min(end_s, stop) - max(start_s, begin)) for begin, stop in agent)),
        _ms(stop_s) if stop_s <= _YIELD_S else None,
        hole_ms,
    )


def _levels(path: Path) -> tuple[NDArray[np.float64], float]:
    """Level of both sides in dB, float64[frames, 2], and the length of a frame in s: 10 ms, in whole samples."""
    try:
        with wave.open(str(path), "rb") as file:
            if (file.getnchannels(), file.getsampwidth()) != (2, 2):
                raise wave.Error(f"it has {file.getnchannels()} channels of {8 * file.getsampwidth()} bits")
            if (size := file.getframerate() // _FRAME_HZ) == 0:
                raise wave.Error(f"its rate is {file.getframerate()} Hz")
            frame_s = size / file.getframerate()
            frames: list[NDArray[np.float64]] = [np.zeros((0, 2))]
            while raw := file.readframes(_FRAME_HZ * size):  # a second at a time
                sound = np.frombuffer(raw[: len(raw) // (4 * size) * 4 * size], "<i2").astype(np.float64) / 32768
                frames.append(np.square(sound).reshape(-1, size, 2).mean(axis=1))
    except (
        OSError,
        EOFError,
        RuntimeError,
        wave.Error,
    ) as error:  # a chunk that ends behind the file's end is the third
        raise WavError(
            f"{path} can't be scored", str(error) or "it is cut short", "name a stereo recording of 16 bits"
        ) from error
    return 10 * np.log10(np.concatenate(frames) + 1e-12), frame_s


def _speech(levels_db: NDArray[np.float64], frame_s: float, pause_s: float) -> list[Span]:
    """When a side speaks, in s: louder than silence, than its noise, and than 38 dB under its loudest."""
    if not levels_db.size:
        return []
    loud_db, noise_db = float(np.percentile(levels_db, 99)), float(np.percentile(levels_db, 10))
    noise_db = min(noise_db, loud_db - 2 * _OVER_NOISE_DB)  # who never pauses has no noise to be told from
    least_db = max(_QUIETEST_DB, loud_db - _BELOW_LOUD_DB, noise_db + _OVER_NOISE_DB)
    places = np.flatnonzero(levels_db > least_db)
    spans = joined([(round(at * frame_s, 3), round((at + 1) * frame_s, 3)) for at in places.tolist()], pause_s)
    return [span for span in spans if span[1] - span[0] >= _LEAST_S]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _median(values: list[float]) -> float | None:
    return round(float(np.median(values)), 3) if values else None
