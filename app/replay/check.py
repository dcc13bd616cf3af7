"""What a script expects, compared with a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from app.replay.cues import Cue
from app.replay.expectations import Expectation, Stretch
from app.replay.moments import UserSound

Failure = dict[str, str]


class Facts(NamedTuple):
    """What expectations are compared with."""

    report: dict[str, Any]
    replies: list[dict[str, Any]]
    """Every reply that became audible, as the report tells of a turn."""
    sounds: Sequence[UserSound]
    happened: dict[str, list[tuple[float, float]]]
    """sound, reply and turn to when they were, from and until, s on the session clock."""
    moment: Callable[[Cue], float | None]


def check(facts: Facts, expectation: Expectation) -> list[Failure]:
    """What does not hold."""
    if expectation.subject == "absent":
        ((what, stretch),) = expectation.checks.items()
        return _check_absent(facts, what, stretch)
    subject, name = _subject(facts, expectation)
    if subject is None:
        return [{"expect": name, "got": f"{len(_all(facts, expectation.subject))} in all"}]
    failures: list[Failure] = []
    for key, wanted in expectation.checks.items():
        holds, got = _compare(facts, key, wanted, subject)
        if not holds:
            failures.append({"expect": f"{name}: {key} {wanted}", "got": str(got)})
    return failures


def _all(facts: Facts, subject: str) -> list[dict[str, Any]]:
    return facts.replies if subject == "reply" else facts.report[f"{subject}s"]


def _subject(facts: Facts, expectation: Expectation) -> tuple[dict[str, Any] | None, str]:
    if expectation.subject == "dialogue":
        return {}, "dialogue"
    there, name = _all(facts, expectation.subject), f"{expectation.subject} {expectation.number}"
    return (there[expectation.number - 1] if expectation.number <= len(there) else None), name


def _check_absent(facts: Facts, what: str, stretch: Stretch) -> list[Failure]:
    begin_s, end_s = (facts.moment(cue) for cue in stretch)
    name = f"no {what} from {stretch.begin} until {stretch.end}"
    if begin_s is None or end_s is None:
        return [{"expect": name, "got": "one of these moments never came"}]
    found = [
        f"{at_s:.3f} to {until_s:.3f}" for at_s, until_s in facts.happened[what] if at_s < end_s and until_s > begin_s
    ]
    return [{"expect": name, "got": f"{what} at {', '.join(found)}"}] if found else []


def _compare(facts: Facts, key: str, wanted: Any, subject: dict[str, Any]) -> tuple[bool, Any]:
    match key:
        case "user_contains" | "reply_contains" | "text_contains":
            got = subject[{"user_contains": "user_text", "reply_contains": "reply_text"}.get(key, "text")]
            return all(part.lower() in got.lower() for part in wanted), got
        case "user_is" | "heard_is":
            got = subject["user_text" if key == "user_is" else "reply_heard"]
            return got == wanted, got
        case "word_error_max":
            got = _word_error(facts, subject)
            return got <= wanted, f"{got:.3f} in {subject['user_text']!r}"
        case "voice_to_voice_ms_max" | "hole_ms_max":
            got = subject[key.removesuffix("_max")]
            return got is not None and got <= wanted, got
        case "stop_ms_max" | "duck_ms_max":
            got = subject["barge_in"] and subject["barge_in"][key.removesuffix("_max")]
            return got is not None and got <= wanted, got
        case "heard_words":
            got = subject["heard_words"]
            return wanted[0] <= got <= wanted[1], got
        case "verdict":
            got = subject["verdict"] if "verdict" in subject else subject["barge_in"] and subject["barge_in"]["verdict"]
            return got == wanted, got
        case "resumed":
            got = subject["resumed_s"] is not None
            return got == wanted, got
        case "replies" | "turns" | "overlaps" | "notes" | "commands":
            got = len(_all(facts, "reply")) if key == "replies" else len(facts.report[key])
            return got == wanted, got
        case _:
            got = facts.report["totals"][key] if key in facts.report["totals"] else subject[key]
            return got == wanted, got


def _word_error(facts: Facts, turn: dict[str, Any]) -> float:
    said = [
        sound
        for sound in facts.sounds
        if sound.line.is_speech and turn["user_start_s"] <= sound.start_s <= turn["user_end_s"]
    ]
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


def _bare(text: str) -> list[str]:
    letters = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("’", "'"))
    return letters.split()
