"""Fit app/endpoint.toml, and tell how good it is on texts and voices that the fit has never seen.

    python -m tests.bench.fit_endpoint --listen     make the sound, listen to it, write endpoint_features.csv
    python -m tests.bench.fit_endpoint --fit        write app/endpoint.toml from that
    python -m tests.bench.fit_endpoint              print the report as JSON

To listen it takes espeak-ng, flite and pocketsphinx-testdata (all in Debian), and the default models.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from app import endpoint
from app.endpoint import Term, Weights
from app.language import Language, load, words_of
from app.machine import describe
from app.timing import Turns
from tests.bench import endpoint_policy as policy
from tests.bench import endpoint_rows
from tests.bench.endpoint_rows import Row

INSTALLED = Path(endpoint.__file__).with_name("endpoint.toml")
TERMS = (
    "smart_turn",
    "llm_eot",
    "full_stop",
    "dangling",
    "pitch_slope",
    "energy_slope",
    "words",
    "one_word",
    "speech_s",
)
# To cut somebody off counts so many times what a needless wait does: the most with which nine of ten finished turns of
# the fit's own clips, each scored by a fit without its text, wait at most 1.3 s (`report` shows both).
HOLD_WEIGHT = 4.0
RIDGE = 10.0
FOLDS = 6
DIGITS = 4

Floats = NDArray[np.float64]
Judge = Callable[[Row], float]
"""The probability that a clip ends a turn."""


def fit(
    rows: Sequence[Row], language: Language, terms: Sequence[str] = TERMS, hold_weight: float = HOLD_WEIGHT
) -> Weights:
    """Weigh the signs by ridge logistic regression, solved by Newton's method."""
    values = endpoint_rows.table(rows, language, terms)
    means, scales = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
    standard = np.clip(np.nan_to_num((values - means) / scales), -endpoint.FARTHEST, endpoint.FARTHEST)
    design = np.column_stack([np.ones(len(rows)), standard])
    finished = np.array([row.finished for row in rows])
    costs = np.where(finished, 1.0, hold_weight)
    ridge = RIDGE * np.diag([0.0, *np.ones(len(terms))])
    beta = np.zeros(design.shape[1])
    for _ in range(30):
        chance = 1 / (1 + np.exp(-design @ beta))
        slope = design.T @ (costs * (finished - chance)) - ridge @ beta
        curve = (design.T * (costs * chance * (1 - chance))) @ design + ridge
        beta += np.linalg.solve(curve, slope)
    columns = zip(terms, beta[1:].tolist(), means.tolist(), scales.tolist(), strict=True)
    found = {
        name: Term(weight=round(weight, DIGITS), mean=round(mean, DIGITS), scale=round(scale, DIGITS))
        for name, weight, mean, scale in columns
    }
    return Weights(bias=round(float(beta[0]), DIGITS), terms=found)


def judge(weights: Weights, language: Language, *, without: Sequence[str] = ()) -> Judge:
    """What the application makes of a clip.

    Args:
        weights: Of app/endpoint.py.
        language: Of the clips.
        without: Signs that are missing, as before the model has answered.
    """
    kept = Weights(bias=weights.bias, terms={name: term for name, term in weights.terms.items() if name not in without})
    return lambda row: endpoint.score(row.heard, row.acoustic, row.end_logprob, language, kept).probability


def cross_fitted(rows: Sequence[Row], language: Language, hold_weight: float = HOLD_WEIGHT) -> Floats:
    """The probability of each clip of the fit, from a fit without its text in any voice."""
    names = sorted({_text(row) for row in rows})
    fold = {name: place % FOLDS for place, name in enumerate(names)}
    found = np.zeros(len(rows))
    for number in range(FOLDS):
        kept = [row for row in rows if fold[_text(row)] != number]
        judging = judge(fit(kept, language, hold_weight=hold_weight), language)
        for place, row in enumerate(rows):
            if fold[_text(row)] == number:
                found[place] = judging(row)
    return found


def _text(row: Row) -> str:
    return row.text.partition("/")[0]


# ---- what others would make of it ----


def smart_turn_alone(row: Row) -> float:
    """The model's own probability."""
    return row.acoustic["smart_turn"]


def punctuation_alone(row: Row) -> float:
    """A sentence ends where the recogniser says so."""
    return 0.9 if endpoint.ends_sentence(row.heard) else 0.1


def silence_alone(row: Row) -> float:
    """Nothing is known but how long it is."""
    return 0.5


def rules_alone(language: Language) -> Judge:
    """The rules that were here before: punctuation, the last word, and more patience with one or two words."""

    def probability(row: Row) -> float:
        words = words_of(row.heard)
        if not words or language.ends_dangling(words) or not endpoint.ends_sentence(row.heard):
            return 0.1
        return 0.5 if len(words) <= 2 else 0.9

    return probability


# ---- the report ----


def measure(rows: Sequence[Row], probabilities: Floats) -> dict[str, float | int]:
    """All figures of a judge on some clips: first eot-bench's, then those of our own waits."""
    finished = np.array([row.finished for row in rows])
    shares = policy.outcome(policy.waits(probabilities, Turns()), finished)._asdict()
    cutoffs = {
        f"false_cutoff_{budget_ms}ms": policy.best_cutoffs(probabilities, finished, budget_ms)
        for budget_ms in (300, 600)
    }
    waits = {
        f"wait_at_{budget:.0%}_ms".replace("%", "pct"): policy.best_wait_ms(probabilities, finished, budget)
        for budget in (0.05, 0.1)
    }
    ranked = {"ranked_right": policy.ranked_right(probabilities, finished)}
    counts = {"n_finished": int(finished.sum()), "n_paused": int((~finished).sum())}
    rounded = {
        name: round(value, 1 if name.endswith("_ms") and name.startswith("wait") else 4)
        for name, value in {**cutoffs, **waits, **shares, **ranked}.items()
    }
    return {**counts, **rounded}


def report(rows: Sequence[Row], weights: Weights, language: Language) -> list[dict[str, object]]:
    """A line a judge and set of clips."""
    fitted = [row for row in rows if not row.test]
    unseen = [row for row in rows if row.test and not row.human]
    lines: list[dict[str, object]] = []

    def add(name: str, judging: Judge, heard: Sequence[Row], clips: str) -> None:
        probabilities = np.array([judging(row) for row in heard])
        lines.append({"name": name, "params": {"clips": clips}, **measure(heard, probabilities)})

    ours = judge(weights, language)
    add("fused", ours, unseen, "unseen")
    for voice in sorted({row.voice for row in unseen}):
        add("fused", ours, [row for row in unseen if row.voice == voice], voice)
    add("fused", ours, [row for row in rows if row.human], "human")
    add("before the model answers", judge(weights, language, without=["llm_eot"]), unseen, "unseen")
    add("smart turn alone", smart_turn_alone, unseen, "unseen")
    add("punctuation alone", punctuation_alone, unseen, "unseen")
    add("rules alone", rules_alone(language), unseen, "unseen")
    add("silence alone", silence_alone, unseen, "unseen")
    for name in TERMS:
        without = fit(fitted, language, [term for term in TERMS if term != name])
        add(f"fused without {name}", judge(without, language), unseen, "unseen")
    for hold_weight in (HOLD_WEIGHT, HOLD_WEIGHT + 1):
        chances = cross_fitted(fitted, language, hold_weight)
        params = {"clips": "fitted, each by a fit without its text", "hold_weight": hold_weight}
        lines.append({"name": "fused", "params": params, **measure(fitted, chances)})
    return lines


def as_toml(weights: Weights) -> str:
    """The weights as app/endpoint.toml."""
    terms = [
        f"{name} = {{ weight = {term.weight}, mean = {term.mean}, scale = {term.scale} }}"
        for name, term in weights.terms.items()
    ]
    head = (
        "# How much each sign weighs that the user has finished. Written by: python -m tests.bench.fit_endpoint --fit"
    )
    return "\n".join([head, f"bias = {weights.bias}", "", "[terms]", *terms, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", action="store_true", help="make endpoint_features.csv anew")
    parser.add_argument("--fit", action="store_true", help="write app/endpoint.toml")
    options = parser.parse_args()
    if options.listen:
        endpoint_rows.write(endpoint_rows.make())
        return
    language = load("en")
    rows = endpoint_rows.read()
    if options.fit:
        INSTALLED.write_text(as_toml(fit([row for row in rows if not row.test], language)), "utf-8")
        return
    lines = report(rows, endpoint.load_weights(), language)
    models = {"llm": "smollm2-135m", "asr": "whisper-tiny.en", "turn": "smart-turn-v3.2", "voice": "en_US-joe-medium"}
    json.dump(
        {"bench": "endpoint", "machine": msgspec.to_builtins(describe()), "models": models, "rows": lines},
        sys.stdout,
        indent=1,
    )
    print()


if __name__ == "__main__":
    main()
