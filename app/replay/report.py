"""What came of a dialogue: a fold of its events, and the script's expectations checked against it.

Keys and meanings are a format that others read. Where the script knows when the user really spoke, latencies start
there and not where voice activity placed it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app import events as ev
from app.errors import MachineError
from app.latency import Latency
from app.replay.check import Facts, check
from app.replay.cues import Cue
from app.replay.lineage import Lineage
from app.replay.moments import Moments, UserSound
from app.replay.recording import loudspeaker_spans
from app.replay.script import Script

# How far voice activity may place a sound from where it really was.
_VAD_ERROR_S = 0.3


@dataclass(slots=True)
class _Branch:
    """One attempt at a reply."""

    turn: int
    user_text: str
    speech_start_s: float
    speech_end_s: float
    committed_s: float
    clauses: list[str] = field(default_factory=list[str])
    written: str | None = None
    heard: str | None = None
    heard_words: int = 0
    interrupted: bool = False
    unheard: bool = False
    """It was taken back before it had really begun."""
    tail: str | None = None
    """What was not heard of it, and could be asked for."""
    first_audio_s: float | None = None
    last_audio_s: float | None = None
    ducked_s: float | None = None
    held: ev.OutputHeld | None = None
    judged: ev.OverlapJudged | None = None
    rolled_back: ev.RolledBack | None = None

    @property
    def text(self) -> str:
        """All that was generated."""
        return (self.written if self.written is not None else "".join(self.clauses)).strip()


class Report:
    """A sink that gathers; `build` tells."""

    def __init__(self) -> None:
        self._latency = Latency()
        self._lineage = Lineage()
        self._moments = Moments()
        self._opened: ev.SessionOpened | None = None
        self._branches: dict[int, _Branch] = {}
        self._audible: list[_Branch] = []
        self._played: list[ev.Event] = []
        self._overlaps: list[dict[str, Any]] = []
        self._notes: list[dict[str, Any]] = []
        self._commands: list[dict[str, Any]] = []
        self._capsules: dict[int, int] = {}
        self._xruns = self._dropped_frames = self._dead_drops = self._recoveries = 0

    def __call__(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        for fold in (self._latency, self._lineage, self._moments):
            fold.feed(event)
        branch = self._branches.get(getattr(event, "branch", -1))
        if branch is not None:
            self._of_branch(branch, event)
        match event:
            case ev.SessionOpened():
                self._opened = event
            case ev.TurnCommitted():
                self._branches[event.branch] = _Branch(
                    event.turn, event.text, event.speech_start_s, event.speech_end_s, event.t_s
                )
            case ev.CheckedIn():
                self._branches[event.branch] = _Branch(event.turn, "", event.t_s, event.t_s, event.t_s)
            case ev.UserNoted():
                self._notes.append(_told(event, "kind", "text", "reason"))
            case ev.CommandTaken() | ev.CommandRefused():
                taken = isinstance(event, ev.CommandTaken)
                self._commands.append({"name": event.command, "taken": taken, **_told(event, "reason")})
            case ev.BoundaryTaken():
                self._capsules[event.boundary] = event.capsule_bytes
            case ev.SoundTroubled():
                self._xruns, self._dropped_frames = event.xruns, event.dropped_frames
            case ev.DeadBranchDropped():
                self._dead_drops += 1
            case ev.StuckRecovered():
                self._recoveries += 1
            case _:
                pass

    def _of_branch(self, branch: _Branch, event: ev.Event) -> None:
        match event:
            case ev.ClauseDecoded():
                branch.clauses.append(event.text)
            case ev.ReplyDecoded():
                branch.written = event.text
            case ev.PlayoutStarted():
                branch.first_audio_s = event.at_s
                self._audible.append(branch)
                self._played.append(event)
            case ev.WordHeard():
                branch.last_audio_s = event.at_s
            case ev.PlayoutFinished():
                branch.last_audio_s = event.at_s
                self._played.append(event)
            case ev.OverlapStarted():
                branch.ducked_s = event.t_s
            case ev.OutputHeld():
                branch.held = event
                self._played.append(event)
                if branch.first_audio_s is not None:
                    branch.last_audio_s = event.at_s
            case ev.OverlapJudged():
                self._judge(branch, event)
            case ev.OutputResumed():
                self._resume(branch, event)
            case ev.RolledBack():
                branch.rolled_back = event
                branch.unheard = event.boundary.startswith("A")
            case ev.ReplyCommitted():
                branch.heard, branch.heard_words, branch.interrupted = event.heard, event.words, event.interrupted
            case ev.TailKept():
                branch.tail = event.text
            case _:
                pass

    def _judge(self, branch: _Branch, event: ev.OverlapJudged) -> None:
        branch.judged = event
        overlap = {"onset_s": event.onset_s, "verdict": event.verdict, "resumed_s": None, "hole_ms": None}
        self._overlaps.append({**overlap, **_told(event, "reason", "scores")})

    def _resume(self, branch: _Branch, event: ev.OutputResumed) -> None:
        self._played.append(event)
        overlap = self._overlaps[-1] if self._overlaps else {}
        if branch.judged and overlap.get("onset_s") == branch.judged.onset_s:
            overlap["resumed_s"] = event.at_s
            if branch.held and branch.first_audio_s is not None:
                overlap["hole_ms"] = round((event.at_s - branch.held.at_s) * 1000, 3)
        branch.ducked_s = branch.held = branch.judged = None

    def build(
        self,
        script: Script,
        sounds: Sequence[UserSound],
        *,
        machine: dict[str, Any],
        capsules: Collection[int],
        troubles: Sequence[tuple[str, str]] = (),
    ) -> dict[str, Any]:
        """The report.

        Args:
            script: What was performed; its expectations are checked.
            sounds: When the user really made a sound.
            machine: Facts about this machine.
            capsules: Serial numbers of the boundaries that still stand.
            troubles: What else went wrong, as (expected, got).
        """
        assert self._opened is not None, "a log begins with SessionOpened"
        turns = [self._turn(self._branches[branch], sounds) for branch in self._lineage.turns.values()]
        left = [b for branch, b in self._branches.items() if b.heard is not None and not self._stands(branch)]
        report: dict[str, Any] = {
            "title": script.title,
            "script": str(script.path),
            "passed": True,
            "failures": [],
            "clock": self._opened.clock,
            "seed": self._opened.seed,
            "machine": machine,
            "models": self._opened.models,
            "turns": turns,
            "overlaps": self._overlaps,
            "notes": self._notes,
            "commands": self._commands,
            "abandoned": [{"turn": b.turn, "user_text": b.user_text, "reply_heard": b.heard} for b in left],
            "totals": {
                "xruns": self._xruns,
                "dropped_frames": self._dropped_frames,
                "dead_branch_drops": self._dead_drops,
                "recoveries": self._recoveries,
                "forks": 0,
                "adoptions": sum(turn["adopted"] for turn in turns),
                "capsules_live": len(capsules),
                "capsule_bytes": sum(self._capsules[serial] for serial in capsules),
            },
        }
        replies = [self._turn(branch, sounds) for branch in self._audible]
        speech = script.speech()

        def moment(cue: Cue) -> float | None:
            return self._moments.of(cue, speech, sounds)

        facts = Facts(report, replies, sounds, self._happened(), moment)
        failures = [{"expect": wanted, "got": got} for wanted, got in troubles]
        for expectation in script.expectations:
            if expectation.counts_on(self._opened.clock):
                failures += check(facts, expectation)
        report["failures"] = failures
        report["passed"] = not failures
        return report

    def _stands(self, branch: int) -> bool:
        """Whether a branch is the reply to a turn that stands."""
        return self._lineage.turns.get(self._branches[branch].turn) == branch

    def _happened(self) -> dict[str, list[tuple[float, float]]]:
        commits = [branch.committed_s for branch in self._branches.values()]
        starts = [event.at_s for event in self._played if isinstance(event, ev.PlayoutStarted)]
        return {
            "sound": loudspeaker_spans(self._played),
            "reply": [(at_s, at_s) for at_s in starts],
            "turn": [(at_s, at_s) for at_s in commits],
        }

    def _turn(self, branch: _Branch, sounds: Sequence[UserSound]) -> dict[str, Any]:
        said = [sound for sound in sounds if sound.line.is_speech and _within(sound, branch)]
        start_s = min((sound.start_s for sound in said), default=branch.speech_start_s)
        end_s = max((sound.end_s for sound in said), default=branch.speech_end_s)
        live = self._branches.get(self._lineage.turns.get(branch.turn, -1)) is branch
        spans = self._latency.turn_spans(branch.turn, end_s) if live else None
        return {
            "turn": branch.turn,
            "user_text": branch.user_text,
            "user_start_s": start_s,
            "user_end_s": end_s,
            "committed_s": branch.committed_s,
            "reply_text": branch.text,
            "reply_heard": branch.heard,
            "reply_words": len(branch.text.split()),
            "heard_words": branch.heard_words,
            "interrupted": branch.interrupted,
            "tail": branch.tail,
            "first_audio_s": branch.first_audio_s,
            "last_audio_s": branch.last_audio_s,
            "voice_to_voice_ms": self._latency.voice_to_voice_ms(branch.turn, end_s) if live else None,
            "adopted": False,
            "spans_ms": spans,
            "barge_in": self._barge_in(branch, sounds),
        }

    def _barge_in(self, branch: _Branch, sounds: Sequence[UserSound]) -> dict[str, Any] | None:
        judged = branch.judged
        if judged is None or not (branch.interrupted or branch.unheard):
            return None
        onset_s = min(
            (sound.start_s for sound in sounds if abs(sound.start_s - judged.onset_s) < _VAD_ERROR_S),
            key=lambda start_s: abs(start_s - judged.onset_s),
            default=judged.onset_s,
        )
        stopped_s, held, back = branch.last_audio_s, branch.held, branch.rolled_back
        ducked_s = branch.ducked_s if branch.ducked_s is not None and branch.ducked_s >= judged.onset_s else None
        return {
            "onset_s": onset_s,
            "ducked_s": ducked_s,
            "held_s": held and (held.at_s if held.asked_s is None else held.asked_s),
            "stopped_s": stopped_s,
            "verdict": judged.verdict,
            "duck_ms": None if ducked_s is None else round((ducked_s - onset_s) * 1000, 3),
            "stop_ms": None if stopped_s is None else round((stopped_s - onset_s) * 1000, 3),
            "rollback_us": back.rollback_us if back else None,
            "boundary": back.boundary if back else None,
            "refed_tokens": back.refed_tokens if back else None,
        }


def write(path: Path, reports: Sequence[dict[str, Any]]) -> None:
    """Write one report as an object, several as a list of objects. The file appears when it is whole.

    Raises:
        MachineError: It can't be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(reports[0] if len(reports) == 1 else reports, file, ensure_ascii=False, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise MachineError(f"the report {path} can't be written", str(error), "choose another place") from error


def machine_facts() -> dict[str, Any]:
    """What a report says about this machine. Imports torch, which alone knows the GPUs."""
    from app import machine

    found = machine.describe()
    return {name: getattr(found, name) for name in ("cpu", "cores", "gpu", "os", "python", "torch")}


def _within(sound: UserSound, branch: _Branch) -> bool:
    return sound.start_s <= branch.speech_end_s and sound.end_s >= branch.speech_start_s


def _told(event: ev.Event, *names: str) -> dict[str, Any]:
    """When an event was, and some of its fields."""
    return {"at_s": event.t_s, **{name: getattr(event, name) for name in names}}
