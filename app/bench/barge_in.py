"""How soon the assistant gives way when it is talked over, and whether it then knows what was heard of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

from app.bench import talks
from app.bench.report import Row, publish, row
from app.bench.talks import Talk
from app.config import Config


class Agreement(NamedTuple):
    """Words of an interrupted reply: what the user heard against what stands in the model's state."""

    heard: int
    lost: int
    """Heard, but not in the state."""
    unheard: int
    """In the state, but never heard."""


def run(config: Config, path: Path | None) -> int:
    """Perform the dialogues, print the table, and write the report.

    Args:
        config: The models, and how they run.
        path: Where the report goes; None: nowhere.

    Returns:
        0 if every interruption cut its reply and the state holds what was heard, to the word; else 1.
    """
    performed = talks.perform("barge_in", config)
    agreements = [agreement for talk in performed.talks for agreement in agreements_of(talk)]
    if not agreements:
        print("FAILED: no reply was interrupted", file=sys.stderr)
        return 1
    publish(performed.report("barge-in", measure(performed.talks)), path)
    heard, lost, unheard = (sum(column) for column in zip(*agreements, strict=True))
    print(f"of {heard} words heard {heard - lost} are in the model's state, and {unheard} that were not heard")
    return 0 if performed.passed and lost == unheard == 0 else 1


def measure(performed: list[Talk]) -> list[Row]:
    """A row a stage, over all interruptions: onset of the user's speech to duck and to silence, and what follows."""
    cuts = [turn["barge_in"] for talk in performed for turn in _cut(talk)]
    agreements = [agreement for talk in performed for agreement in agreements_of(talk)]
    samples: dict[tuple[str, str], list[float]] = {
        ("onset_to_duck", "ms"): [(cut["ducked_s"] - cut["onset_s"]) * 1000 for cut in cuts],
        ("onset_to_silence", "ms"): [cut["stop_ms"] for cut in cuts],
        ("rollback", "us"): [cut["rollback_us"] for cut in cuts],
        ("refed", "tokens"): [cut["refed_tokens"] for cut in cuts],
        ("next_first_audio", "ms"): [v2v_ms for talk in performed for v2v_ms in _next_latencies_ms(talk)],
        ("heard", "words"): [agreement.heard for agreement in agreements],
        ("heard_not_in_state", "words"): [agreement.lost for agreement in agreements],
        ("in_state_not_heard", "words"): [agreement.unheard for agreement in agreements],
    }
    return [row(name, {}, unit, values) for (name, unit), values in samples.items() if values]


def agreements_of(talk: Talk) -> list[Agreement]:
    """Each interrupted reply of a dialogue compared with the state at its end.

    The state is a list of turns, and so is the report; a reply that is missing in the state has lost all its words.
    """
    from app.brain import CUT

    answered = [turn for turn in talk.told["turns"] if turn["reply_heard"] is not None]
    found: list[Agreement] = []
    for place, turn in enumerate(answered):
        if turn["barge_in"] is None:
            continue
        in_state = talk.in_state[place].assistant if place < len(talk.in_state) else ""
        heard, held = turn["reply_heard"].split(), in_state.removesuffix(CUT).split()
        same = 0
        while same < min(len(heard), len(held)) and heard[same] == held[same]:
            same += 1
        found.append(Agreement(len(heard), len(heard) - same, len(held) - same))
    return found


def _cut(talk: Talk) -> list[dict[str, Any]]:
    """Turns whose reply was cut off after a word of it was heard."""
    return [turn for turn in talk.turns if turn["interrupted"] and turn["barge_in"] is not None]


def _next_latencies_ms(talk: Talk) -> list[float]:
    """Voice to voice of the turns that interrupted a reply."""
    cut = {turn["turn"] for turn in _cut(talk)}
    return [turn["voice_to_voice_ms"] for turn in talk.turns if turn["turn"] - 1 in cut]
