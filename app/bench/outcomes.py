"""What came of each thing that the user said over a reply, from the event log and the true edges of the sound. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from app import events as ev
from app.bench.manners import Kind
from app.replay.moments import UserSound

AFTERWARDS_S = 1.0
"""So long after a sound the gate may shut because of it."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a reply was cut off."""

    begins_s: float
    """When the reply began to sound, and its last sample:"""
    silent_s: float
    text: str
    """All that was written of it."""
    words: int
    """Words that are said to have been heard."""
    ducked_s: float | None
    """Since when it was lowered; None if it was not."""


@dataclass(slots=True)
class Outcome:
    """What came of something that was said. Times in ms after its first sample, None for what did not happen."""

    kind: Kind
    said: str
    start_s: float
    end_s: float
    verdict: str = "none"
    reason: str = "it was not judged"
    duck_ms: float | None = None
    """When it was decided to lower the reply; the loudspeaker follows with its next block."""
    hold_ms: float | None = None
    """When it was decided to shut the gate."""
    cut: Cut | None = None
    """The reply that it ended."""
    silence_ms: float | None = None
    """When that reply's last sample left the loudspeaker."""
    rollback_us: float | None = None
    refed_tokens: int | None = None
    holes_ms: list[float] = field(default_factory=list[float])
    """For how long the reply was silent, each time that it was held and went on."""
    lost_words: int = 0
    """Words that were passed over where it went on."""
    next_ms: float | None = None
    """From the end of the sound to the first sample of the next reply."""
    next_text: str = ""
    """All that was written of that one."""


def outcomes(events: Sequence[ev.Event], sounds: Sequence[UserSound], kinds: Sequence[Kind]) -> list[Outcome]:
    """One for each sound; what happens up to the next sound came of it.

    Args:
        events: The log of the dialogue.
        sounds: What the user said, in order.
        kinds: What each of it is.
    """
    found: list[Outcome] = []
    for place, (sound, kind) in enumerate(zip(sounds, kinds, strict=True)):
        until_s = sounds[place + 1].start_s if place + 1 < len(sounds) else float("inf")
        outcome = Outcome(kind, sound.line.say or "", sound.start_s, sound.end_s)
        fold = _Fold(events, outcome)
        for event in events:
            if sound.start_s <= event.t_s < until_s:
                fold.feed(event)
        found.append(outcome)
    return found


class _Fold:
    """Takes the events from one sound to the next."""

    def __init__(self, events: Sequence[ev.Event], outcome: Outcome) -> None:
        self._events, self._outcome = events, outcome
        begun = [event for event in events if isinstance(event, ev.PlayoutStarted) and event.at_s < outcome.start_s]
        self._reply = begun[-1] if begun else None
        self._held: ev.OutputHeld | None = None
        self._ducked_s: float | None = None

    def feed(self, event: ev.Event) -> None:
        """Take the next event."""
        if isinstance(event, ev.PlayoutStarted):
            self._begin(event)
        elif self._reply is not None and getattr(event, "branch", None) == self._reply.branch:
            self._of_reply(event, self._reply)

    def _begin(self, event: ev.PlayoutStarted) -> None:
        outcome = self._outcome
        if outcome.next_ms is None and (self._reply is None or event.branch != self._reply.branch):
            outcome.next_ms = _ms(event.at_s - outcome.end_s)
            outcome.next_text = written(self._events, event.branch)

    def _of_reply(self, event: ev.Event, reply: ev.PlayoutStarted) -> None:
        outcome = self._outcome
        match event:
            case ev.OverlapStarted():
                self._ducked_s = event.t_s
                if outcome.duck_ms is None:
                    outcome.duck_ms = _ms(event.t_s - outcome.start_s)
            case ev.OutputHeld():
                self._held = event
                if outcome.hold_ms is None:
                    asked_s = event.at_s if event.asked_s is None else event.asked_s
                    outcome.hold_ms = _ms(asked_s - outcome.start_s)
            case ev.OutputResumed() if self._held is not None:
                outcome.holes_ms.append(_ms(event.at_s - self._held.at_s))
                outcome.lost_words += max(0, event.words - self._held.words)
                self._held = self._ducked_s = None
            case ev.OverlapJudged():
                outcome.verdict, outcome.reason = event.verdict, event.reason
            case ev.RolledBack():
                outcome.rollback_us, outcome.refed_tokens = event.rollback_us, event.refed_tokens
            case ev.ReplyCommitted(interrupted=True) if self._held is not None:
                self._cut_off(event.words, reply, self._held)
            case ev.TurnReopened() if self._held is not None:
                self._cut_off(self._held.words, reply, self._held)
            case _:
                pass

    def _cut_off(self, words: int, reply: ev.PlayoutStarted, held: ev.OutputHeld) -> None:
        self._outcome.cut = Cut(reply.at_s, held.at_s, written(self._events, reply.branch), words, self._ducked_s)
        self._outcome.silence_ms = _ms(held.at_s - self._outcome.start_s)


def written(events: Sequence[ev.Event], branch: int) -> str:
    """All that was written of a reply."""
    return "".join(event.text for event in events if isinstance(event, ev.ClauseDecoded) and event.branch == branch)


def self_interruptions(events: Sequence[ev.Event], sounds: Sequence[UserSound]) -> int:
    """How often the gate shut while, and shortly after, the user made no sound."""
    held_s = [event.asked_s or event.at_s for event in events if isinstance(event, ev.OutputHeld)]
    return sum(all(not s.start_s <= at_s <= s.end_s + AFTERWARDS_S for s in sounds) for at_s in held_s)


def false_cutoffs(events: Sequence[ev.Event], found: Sequence[Outcome]) -> list[bool]:
    """Of each thinking pause whether a reply began in it, or in what the user then said."""
    starts_s = [event.at_s for event in events if isinstance(event, ev.PlayoutStarted)]
    pauses = [(before, after) for before, after in pairwise(found) if after.kind == "rest"]
    return [any(before.end_s <= at_s < after.end_s for at_s in starts_s) for before, after in pauses]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
