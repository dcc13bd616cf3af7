"""How long an answer takes: the end of the user's speech to the first sample of the reply, and where that time goes."""

from __future__ import annotations

from pathlib import Path

from app.bench import talks
from app.bench.report import Row, publish, row
from app.bench.talks import Talk
from app.config import Config
from app.latency import SPANS


def run(config: Config, path: Path | None) -> int:
    """Perform the dialogues, print the table and the longest span, and write the report.

    Args:
        config: The models, and how they run.
        path: Where the report goes; None: nowhere.

    Returns:
        0 if each dialogue had the turns that its script has, else 1.
    """
    performed = talks.perform(talks.scripts("turn"), config)
    publish(performed.report("turn", measure(performed.talks)), path)
    name, share = longest_span(performed.talks)
    print(f"longest: {name}, {share:.0%} of the time to the first sound")
    return 0 if performed.passed else 1


def measure(performed: list[Talk]) -> list[Row]:
    """A row for the whole latency and one for each span, over all turns."""
    turns = [turn for talk in performed for turn in talk.turns]
    whole = row("voice_to_voice", {}, "ms", [turn["voice_to_voice_ms"] for turn in turns])
    return [whole, *(row(name, {}, "ms", [turn["spans_ms"][name] for turn in turns]) for name in SPANS)]


def longest_span(performed: list[Talk]) -> tuple[str, float]:
    """The span that takes most of the time of all turns together, and its share of it."""
    turns = [turn for talk in performed for turn in talk.turns]
    sums = {name: sum(turn["spans_ms"][name] for turn in turns) for name in SPANS}
    longest = max(sums, key=lambda name: sums[name])
    return longest, sums[longest] / sum(sums.values())
