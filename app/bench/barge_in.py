"""Manners: how soon the assistant gives way when it is talked over, whether it goes on where it should, and whether it
knows what was heard of it.

`heard_error` has a witness of its own, which app/bench/reading.py describes; all other figures are from the event log
and from the true edges of the user's sound.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from app.bench import manners, outcomes, reading, talks
from app.bench.manners import Dialogue, Kind
from app.bench.outcomes import Cut, Outcome
from app.bench.report import Row, publish, row
from app.bench.talks import Talk
from app.config import Config
from app.replay import room as rooms
from app.sound_ports import Recogniser

YIELD_MS = 2000
"""Who is silent so soon has given way (Full-Duplex-Bench v1.5, tau-voice)."""


Pace = Literal["wall", "stopped"]
"""At the speed of speech, or as fast as the models are, which then take no time."""


class Agreement(NamedTuple):
    """Words of an interrupted reply: what the user heard against what stands in the model's state."""

    heard: int
    lost: int
    """Heard, but not in the state."""
    unheard: int
    """In the state, but never heard."""


class Measured(NamedTuple):
    """What came of one dialogue."""

    title: str
    outcomes: list[Outcome]
    agreements: list[Agreement]
    errors: list[int]
    """Of each reply that was cut off: words said to have been heard, less those that the witness heard."""
    cut_offs: list[bool]
    """Of each thinking pause: whether a reply began in it."""
    self_interruptions: int
    unspoken: int
    """Acts that did not happen: the reply was over before."""


def run(config: Config, path: Path | None, room: str | None = None) -> int:
    """Perform the dialogues, print the table, and write the report.

    Args:
        config: The models, and how they run.
        path: Where the report goes; None: nowhere.
        room: In which the microphone hears the loudspeaker, a name of app/replay/room.py; None: over headphones.

    Returns:
        0 if every interruption cut its reply and the state holds what was heard, to the word; else 1.

    Raises:
        ConfigError: There is no such room.
    """
    return perform(manners.dialogues(), config, path, room=room)


def perform(
    wanted: Sequence[Dialogue], config: Config, path: Path | None, clock: Pace = "wall", room: str | None = None
) -> int:
    """`run`, for some dialogues, and at a pace of choice."""
    from app.replay.wall import Way

    way = Way(clock, room=rooms.find(room) if room else None)
    with TemporaryDirectory(prefix="backtalk") as folder:
        performed = talks.perform([dialogue.script for dialogue in wanted], config, way, Path(folder))
        pairs = zip(wanted, performed.talks, strict=True)
        found = [measure(dialogue, talk, performed.loaded.recogniser, config.audio.duck_db) for dialogue, talk in pairs]
    publish(performed.report("barge-in", rows(found, room or "headphones"), scores(found)), path)
    wrong = [f"{one.title}: {text}" for one in found for text in troubles(one)]
    for text in wrong:
        print(f"FAILED {text}", file=sys.stderr)
    for text in (f"{one.title}: {text}" for one in found for text in misses(one)):
        print(f"missed {text}", file=sys.stderr)
    return 1 if wrong else 0


def measure(dialogue: Dialogue, talk: Talk, recogniser: Recogniser, duck_db: float) -> Measured:
    """What came of a dialogue; the recogniser reads its recording, if there is one."""
    kinds: list[Kind] = [dialogue.kinds[sound.line] for sound in talk.sounds]
    found = outcomes.outcomes(talk.events, talk.sounds, kinds)
    cuts = [outcome.cut for outcome in found if outcome.cut]
    return Measured(
        dialogue.script.title,
        found,
        agreements_of(talk),
        [error for cut in cuts if (error := _heard_error(cut, talk.recording, recogniser, duck_db)) is not None],
        outcomes.false_cutoffs(talk.events, found),
        outcomes.self_interruptions(talk.events, talk.sounds),
        len(dialogue.kinds) - len(kinds),
    )


def rows(found: Sequence[Measured], where: str) -> list[Row]:
    """Percentiles, with where it was measured, over all interruptions, backchannels and questions for the rest."""
    said = [outcome for one in found for outcome in one.outcomes]
    cuts = [outcome for outcome in said if _wants_silence(outcome)]
    agreements = [agreement for one in found for agreement in one.agreements]
    samples: dict[tuple[str, str], list[float | None]] = {
        ("onset_to_duck", "ms"): [outcome.duck_ms for outcome in cuts],
        ("onset_to_hold", "ms"): [outcome.hold_ms for outcome in cuts],
        ("onset_to_silence", "ms"): [outcome.silence_ms for outcome in cuts],
        ("rollback", "us"): [outcome.rollback_us for outcome in cuts],
        ("refed", "tokens"): [outcome.refed_tokens for outcome in cuts],
        ("next_first_audio", "ms"): [outcome.next_ms for outcome in cuts if outcome.kind == "interrupt"],
        ("go_on_first_audio", "ms"): [outcome.next_ms for outcome in said if outcome.kind == "go_on"],
        ("hole", "ms"): [hole_ms for outcome in said for hole_ms in outcome.holes_ms],
        ("lost_at_resumption", "words"): [outcome.lost_words for outcome in said if outcome.holes_ms],
        ("heard", "words"): [agreement.heard for agreement in agreements],
        ("heard_not_in_state", "words"): [agreement.lost for agreement in agreements],
        ("in_state_not_heard", "words"): [agreement.unheard for agreement in agreements],
        ("heard_error", "words"): [abs(error) for one in found for error in one.errors],
    }
    known = {key: [value for value in values if value is not None] for key, values in samples.items()}
    return [row(name, {"room": where}, unit, values) for (name, unit), values in known.items() if values]


def scores(found: Sequence[Measured]) -> dict[str, float]:
    """Rates, and how many cases each is of; a rate of nothing is left out."""
    said = [outcome for one in found for outcome in one.outcomes]
    cases: dict[str, tuple[str, list[bool]]] = {
        "yield_rate": ("interruptions", [_yielded(outcome) for outcome in said if _wants_silence(outcome)]),
        "backchannel_continue_rate": (
            "backchannels",
            [outcome.cut is None for outcome in said if outcome.kind == "backchannel"],
        ),
        "go_on_rate": ("go_ons", [_went_on(*pair) for one in found for pair in _go_ons(one.outcomes)]),
        "false_cutoff_rate": ("thinking_pauses", [cut_off for one in found for cut_off in one.cut_offs]),
        "heard_within_one_word": ("readings", [abs(error) <= 1 for one in found for error in one.errors]),
    }
    told: dict[str, float] = {}
    for name, (of, holds) in cases.items():
        told |= {name: round(sum(holds) / len(holds), 4), of: len(holds)} if holds else {}
    return told | {"self_interruptions": sum(one.self_interruptions for one in found)}


def agreements_of(talk: Talk) -> list[Agreement]:
    """Each interrupted reply of a dialogue compared with the state at its end.

    The state is a list of turns, and so is the report; a reply that is missing in the state has lost all its words.
    """
    from app.brain import CUT

    answered = [turn for turn in talk.told["turns"] if turn["reply_heard"] is not None]
    found: list[Agreement] = []
    for place, turn in enumerate(answered):
        if not turn["interrupted"]:
            continue
        in_state = talk.in_state[place].assistant if place < len(talk.in_state) else ""
        heard, held = turn["reply_heard"].split(), in_state.removesuffix(CUT).split()
        same = 0
        while same < min(len(heard), len(held)) and heard[same] == held[same]:
            same += 1
        found.append(Agreement(len(heard), len(heard) - same, len(held) - same))
    return found


def _heard_error(cut: Cut, recording: Path | None, recogniser: Recogniser, duck_db: float) -> int | None:
    """Words said to have been heard, less those that the witness heard; None without a witness."""
    if recording is None:
        return None
    ducked = None if cut.ducked_s is None else reading.Ducked(cut.ducked_s, duck_db)
    read = reading.read(recording, cut.begins_s, cut.silent_s, recogniser, ducked)
    return None if read is None else cut.words - reading.words_read(read, cut.text)


def _wants_silence(outcome: Outcome) -> bool:
    return outcome.kind in ("interrupt", "stop")


def _yielded(outcome: Outcome) -> bool:
    return outcome.silence_ms is not None and outcome.silence_ms <= YIELD_MS


def _go_ons(said: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Each question for the rest of a reply that was stopped before."""
    return [(stop, more) for stop, more in pairwise(said) if more.kind == "go_on" and stop.cut]


def _went_on(stop: Outcome, more: Outcome) -> bool:
    """Whether the next reply is the unheard rest of the one that was stopped, from its very next word."""
    rest = stop.cut.text.split()[stop.cut.words :] if stop.cut else []
    return bool(rest) and more.next_text.split()[: len(rest)] == rest


def troubles(found: Measured) -> list[str]:
    """What makes the benchmark fail."""
    kept = [o for o in found.outcomes if _wants_silence(o) and o.cut is None]
    apart = sum(agreement.lost + agreement.unheard for agreement in found.agreements)
    return [
        *(f'"{outcome.said}" did not end the reply: {outcome.verdict}, {outcome.reason}' for outcome in kept),
        *([f"the model's state is {apart} words off what was heard"] if apart else []),
        *([f"{found.unspoken} acts did not happen, the reply they are meant for was over"] if found.unspoken else []),
    ]


def misses(found: Measured) -> list[str]:
    """What is no failure and lowers a score."""
    killed = [o for o in found.outcomes if o.kind == "backchannel" and o.cut is not None]
    late = [o for o in found.outcomes if _wants_silence(o) and o.cut and not _yielded(o)]
    silent = [more for stop, more in _go_ons(found.outcomes) if not _went_on(stop, more)]
    return [
        *(f'"{outcome.said}" ended the reply: {outcome.verdict}, {outcome.reason}' for outcome in killed),
        *(f'"{outcome.said}" was obeyed after {outcome.silence_ms:.0f} ms only' for outcome in late),
        *(f'after "{outcome.said}" the reply did not go on' for outcome in silent),
        *(f"words counted as heard, less those read back: {error}" for error in found.errors if abs(error) > 1),
        *("a reply began in a thinking pause" for cut_off in found.cut_offs if cut_off),
    ]
