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
from app.replay.director import UserSound
from app.replay.script import Expectation, Script

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
    """It was taken back before a word of it was heard."""
    first_audio_s: float | None = None
    last_audio_s: float | None = None
    ducked_s: float | None = None
    held_s: float | None = None
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
        self._opened: ev.SessionOpened | None = None
        self._branches: dict[int, _Branch] = {}
        self._turns: dict[int, _Branch] = {}
        self._audible: list[_Branch] = []
        self._overlaps: list[dict[str, Any]] = []
        self._capsules: dict[int, int] = {}
        self._xruns = self._dropped_frames = self._dead_drops = 0

    def __call__(self, event: ev.Event) -> None:
        """Take the next event of the log."""
        self._latency.feed(event)
        branch = self._branches.get(getattr(event, "branch", -1))
        if branch is not None:
            self._of_branch(branch, event)
        match event:
            case ev.SessionOpened():
                self._opened = event
            case ev.TurnCommitted():
                new = _Branch(event.turn, event.text, event.speech_start_s, event.speech_end_s, event.t_s)
                self._branches[event.branch] = self._turns[event.turn] = new
            case ev.BoundaryTaken():
                self._capsules[event.boundary] = event.capsule_bytes
            case ev.SoundTroubled():
                self._xruns, self._dropped_frames = event.xruns, event.dropped_frames
            case ev.DeadBranchDropped():
                self._dead_drops += 1
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
            case ev.WordHeard() | ev.PlayoutFinished():
                branch.last_audio_s = event.at_s
            case ev.OverlapStarted():
                branch.ducked_s = event.t_s
            case ev.OutputHeld():
                branch.held_s = event.at_s
                if branch.first_audio_s is not None:
                    branch.last_audio_s = event.at_s
            case ev.OverlapJudged():
                branch.judged = event
                self._overlaps.append({"onset_s": event.onset_s, "verdict": event.verdict, "resumed_s": None})
            case ev.OutputResumed():
                branch.ducked_s = branch.held_s = branch.judged = None
                if self._overlaps:
                    self._overlaps[-1]["resumed_s"] = event.at_s
            case ev.RolledBack():
                branch.rolled_back = event
                branch.unheard = event.boundary.startswith("A")
            case ev.ReplyCommitted():
                branch.heard, branch.heard_words, branch.interrupted = event.heard, event.words, event.interrupted
            case ev.TurnReopened():
                if self._turns.get(event.turn) is branch:
                    del self._turns[event.turn]
            case _:
                pass

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
        turns = [self._turn(branch, sounds) for _, branch in sorted(self._turns.items())]
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
            "totals": {
                "xruns": self._xruns,
                "dropped_frames": self._dropped_frames,
                "dead_branch_drops": self._dead_drops,
                "forks": 0,
                "adoptions": sum(turn["adopted"] for turn in turns),
                "capsules_live": len(capsules),
                "capsule_bytes": sum(self._capsules[serial] for serial in capsules),
            },
        }
        replies = [self._turn(branch, sounds) for branch in self._audible]
        checker = _Checker(report, replies, sounds)
        failures = [{"expect": wanted, "got": got} for wanted, got in troubles]
        for expectation in script.expectations:
            if expectation.clock in (None, self._opened.clock):
                failures += checker.check(expectation)
        report["failures"] = failures
        report["passed"] = not failures
        return report

    def _turn(self, branch: _Branch, sounds: Sequence[UserSound]) -> dict[str, Any]:
        said = [sound for sound in sounds if sound.line.is_speech and _within(sound, branch)]
        start_s = min((sound.start_s for sound in said), default=branch.speech_start_s)
        end_s = max((sound.end_s for sound in said), default=branch.speech_end_s)
        live = self._turns.get(branch.turn) is branch
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
        stopped_s, back = branch.last_audio_s, branch.rolled_back
        return {
            "onset_s": onset_s,
            "ducked_s": branch.ducked_s,
            "held_s": branch.held_s,
            "stopped_s": stopped_s,
            "verdict": judged.verdict,
            "stop_ms": None if stopped_s is None else round((stopped_s - onset_s) * 1000, 3),
            "rollback_us": back.rollback_us if back else None,
            "boundary": back.boundary if back else None,
            "refed_tokens": back.refed_tokens if back else None,
        }


class _Checker:
    """Compares expectations with a report."""

    def __init__(self, report: dict[str, Any], replies: list[dict[str, Any]], sounds: Sequence[UserSound]) -> None:
        self._report, self._sounds = report, sounds
        self._subjects = {"turn": report["turns"], "reply": replies, "overlap": report["overlaps"]}

    def check(self, expectation: Expectation) -> list[dict[str, str]]:
        """What does not hold."""
        subject: dict[str, Any] = {}
        name = expectation.subject
        if name != "dialogue":
            there = self._subjects[name]
            if expectation.number > len(there):
                return [{"expect": f"{name} {expectation.number}", "got": f"{len(there)} in all"}]
            subject, name = there[expectation.number - 1], f"{name} {expectation.number}"
        failures: list[dict[str, str]] = []
        for key, wanted in expectation.checks.items():
            holds, got = self._compare(key, wanted, subject)
            if not holds:
                failures.append({"expect": f"{name}: {key} {wanted}", "got": str(got)})
        return failures

    def _compare(self, key: str, wanted: Any, subject: dict[str, Any]) -> tuple[bool, Any]:
        match key:
            case "user_contains" | "reply_contains":
                got = subject["user_text" if key == "user_contains" else "reply_text"]
                return all(part.lower() in got.lower() for part in wanted), got
            case "user_is" | "heard_is":
                got = subject["user_text" if key == "user_is" else "reply_heard"]
                return got == wanted, got
            case "word_error_max":
                got = self._word_error(subject)
                return got <= wanted, f"{got:.3f} in {subject['user_text']!r}"
            case "voice_to_voice_ms_max":
                got = subject["voice_to_voice_ms"]
                return got is not None and got <= wanted, got
            case "stop_ms_max":
                got = subject["barge_in"] and subject["barge_in"]["stop_ms"]
                return got is not None and got <= wanted, got
            case "heard_words":
                got = subject["heard_words"]
                return wanted[0] <= got <= wanted[1], got
            case "verdict":
                got = (
                    subject["verdict"]
                    if "verdict" in subject
                    else subject["barge_in"] and subject["barge_in"]["verdict"]
                )
                return got == wanted, got
            case "resumed":
                got = subject["resumed_s"] is not None
                return got == wanted, got
            case "replies" | "turns" | "overlaps":
                got = len(self._subjects["reply"]) if key == "replies" else len(self._report[key])
                return got == wanted, got
            case _:
                got = self._report["totals"][key] if key in self._report["totals"] else subject[key]
                return got == wanted, got

    def _word_error(self, turn: dict[str, Any]) -> float:
        said = [s for s in self._sounds if s.line.is_speech and turn["user_start_s"] <= s.start_s <= turn["user_end_s"]]
        wanted = " ".join(sound.line.say or sound.line.hears or "" for sound in said)
        return word_error(wanted, turn["user_text"])


def word_error(wanted: str, got: str) -> float:
    """Word error rate: Levenshtein distance in words, without case and punctuation, over the words wanted."""
    reference, words = _bare(wanted), _bare(got)
    row = list(range(len(words) + 1))
    for i, reference_word in enumerate(reference, 1):
        above, row[0] = row[0], i
        for j, word in enumerate(words, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (reference_word != word))
    return row[-1] / max(1, len(reference))


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


def _bare(text: str) -> list[str]:
    letters = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("’", "'"))
    return letters.split()
