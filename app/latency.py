"""Where the time of a turn goes: a fold of events into spans that add up to the voice-to-voice latency.

The spans are stretches of the critical path, from the end of the user's speech to the first sample of the reply:

    endpoint     silence that the turn's end was waited for
    asr          the recogniser, and the model's reading ahead, as far as they were waited for; 0 while their work is
                 hidden under that silence
    append       the model reads the user's turn
    first_token  the first token of the reply
    clause       the rest of the first clause
    tts          the voice makes the first clause
    device       until its first sample leaves the loudspeaker

Each span ends where the next begins and all are whole microseconds, so their sum is exact. A transcript counts as
waited for if the turn was committed as soon as it, or what the model made of it, came: then the path leads through the
recogniser, from the moment it was asked. Another answer to the same turn is counted from when it was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from app import events as ev

SPANS = ("endpoint", "asr", "append", "first_token", "clause", "tts", "device")

# A commit this soon after the transcript was waiting for it; a timer's own lateness is shorter.
_AT_ONCE_S = 0.005


@dataclass(slots=True)
class _Path:
    """Milestones of one branch, s on the session clock; None where they are not reached."""

    told_end_s: float
    """End of the user's speech as voice activity told it."""
    begins_s: float
    """The same, or when another answer was asked for."""
    asked_s: float
    committed_s: float
    appended_s: float | None = None
    first_token_s: float | None = None
    clause_s: float | None = None
    spoken_s: float | None = None
    audible_s: float | None = None

    def begins(self, speech_end_s: float | None) -> float:
        """Where the path begins if the user's speech really ended at `speech_end_s`."""
        return self.begins_s if speech_end_s is None or self.begins_s != self.told_end_s else speech_end_s


class Latency:
    """Feed it every event; ask it for turns."""

    def __init__(self, keep: int | None = None) -> None:
        """
        Args:
            keep: How many of the newest commits are remembered; None: all.
        """
        self._keep = keep
        self._branches: dict[int, _Path] = {}
        self._turns: dict[int, int] = {}
        self._final: ev.FinalTranscribed | None = None
        self._told_s = 0.0
        """When the newest transcript, or what the model made of it, came."""

    def feed(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        match event:
            case ev.SessionOpened():
                self._branches, self._turns, self._final = {}, {}, None
            case ev.FinalTranscribed():
                self._final, self._told_s = event, event.t_s
            case ev.UserTextRead():
                self._told_s = event.t_s
            case ev.TurnCommitted():
                self._commit(event)
            case ev.TurnReopened() | ev.CheckedIn():
                self._turns.pop(event.turn, None)
            case ev.Moved():
                self._turns = {turn: branch for turn, branch in self._turns.items() if turn <= event.turn}
            case ev.UserTurnAppended():
                self._reach(event.branch, "appended_s", event.t_s)
            case ev.FirstTokenDecoded():
                self._reach(event.branch, "first_token_s", event.t_s)
            case ev.ClauseDecoded(clause=0):
                self._reach(event.branch, "clause_s", event.t_s)
            case ev.ClauseSynthesised(clause=0):
                self._reach(event.branch, "spoken_s", event.t_s)
            case ev.PlayoutStarted():
                self._reach(event.branch, "audible_s", event.at_s)
            case _:
                pass

    def turn_spans(self, turn: int, speech_end_s: float | None = None) -> dict[str, float] | None:
        """The spans of a turn in ms, in order.

        Args:
            turn: The turn; if it was reopened and committed again, the last commit counts.
            speech_end_s: When the user's speech really ended, where that is known; else what voice activity told.

        Returns:
            None while its reply is not audible.
        """
        path = self._branches.get(self._turns.get(turn, -1))
        if path is None or path.audible_s is None:
            return None
        end_s = path.begins(speech_end_s)
        marks = [path.asked_s, path.committed_s, path.appended_s, path.first_token_s, path.clause_s, path.spoken_s]
        audible_us, at_us = _microseconds(path.audible_s), _microseconds(end_s)
        spans: dict[str, float] = {}
        for name, mark_s in zip(SPANS, [*marks, path.audible_s], strict=True):
            reached_us = at_us if mark_s is None else min(max(at_us, _microseconds(mark_s)), max(at_us, audible_us))
            if name == "device":
                reached_us = audible_us  # a reply may start before the user's last sound has ended
            spans[name] = (reached_us - at_us) / 1000
            at_us = reached_us
        return spans

    def voice_to_voice_ms(self, turn: int, speech_end_s: float | None = None) -> float | None:
        """End of the user's speech to the first sample of the reply; None while the reply is not audible."""
        path = self._branches.get(self._turns.get(turn, -1))
        if path is None or path.audible_s is None:
            return None
        end_s = path.begins(speech_end_s)
        return (_microseconds(path.audible_s) - _microseconds(end_s)) / 1000

    def turns(self) -> list[int]:
        """Turns with an audible reply."""
        return [turn for turn, branch in self._turns.items() if self._branches[branch].audible_s is not None]

    def _commit(self, event: ev.TurnCommitted) -> None:
        final, asked_s = self._final, event.t_s
        if final is not None and final.t_s >= event.speech_end_s and event.t_s - self._told_s < _AT_ONCE_S:
            asked_s = max(event.speech_end_s, final.t_s - final.took_ms / 1000)
        begins_s = event.t_s if event.turn in self._turns else event.speech_end_s
        self._branches[event.branch] = _Path(event.speech_end_s, begins_s, max(asked_s, begins_s), event.t_s)
        self._turns[event.turn] = event.branch
        if self._keep is not None and len(self._branches) > self._keep:
            oldest = next(iter(self._branches))
            del self._branches[oldest]
            self._turns = {turn: branch for turn, branch in self._turns.items() if branch != oldest}

    def _reach(self, branch: int, milestone: str, at_s: float) -> None:
        path = self._branches.get(branch)
        if path is not None and getattr(path, milestone) is None:
            setattr(path, milestone, at_s)


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear interpolation between closest ranks (Hyndman and Fan's type 7, the default of numpy). Needs a value."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    return ordered[low] + (ordered[math.ceil(rank)] - ordered[low]) * (rank - low)


def _microseconds(at_s: float) -> int:
    return round(at_s * 1_000_000)
