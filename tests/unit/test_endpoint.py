"""Has the user finished? The sum and the waits by hand, and the committed fit on texts and voices it has never seen."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.endpoint import (
    REASONS,
    Term,
    Weights,
    begins_with_end_mark,
    ends_sentence,
    load_weights,
    open_ended,
    score,
    signs,
    wait_ms,
)
from app.language import load
from app.timing import Turns
from tests.bench import endpoint_policy as policy
from tests.bench import endpoint_rows, fit_endpoint
from tests.bench.endpoint_rows import Row

TURNS = Turns()
ENGLISH = load("en")
RESULTS = Path(endpoint_rows.__file__).parent / "results" / "2026-11-23-epyc-2-cores" / "endpoint.json"


# ---- the waits ----


@pytest.mark.parametrize(
    ("probability", "wanted_ms"),
    [(0, 2000), (0.1, 2000), (0.2, 1500), (0.3, 1000), (0.5, 600), (0.6, 475), (0.7, 350), (0.9, 300), (1, 300)],
)
def test_waits_lie_on_the_lines_between_the_configured_ones(probability: float, wanted_ms: int) -> None:
    assert wait_ms(probability, TURNS, floor_ms=0) == wanted_ms


def test_the_surer_the_end_the_shorter_the_wait() -> None:
    waits_ms = [wait_ms(number / 500, TURNS, floor_ms=0) for number in range(501)]
    assert all(longer >= shorter for longer, shorter in itertools.pairwise(waits_ms))
    assert len(set(waits_ms)) > 300


def test_no_wait_is_shorter_than_the_user_s_pauses_or_longer_than_the_longest() -> None:
    assert wait_ms(0.95, TURNS, floor_ms=420) == 420
    assert wait_ms(0.2, TURNS, floor_ms=420) == 1500
    assert wait_ms(0.95, Turns(longest_ms=300), floor_ms=900) == 300
    assert wait_ms(0.05, Turns(unfinished_ms=9000), floor_ms=0) == 2500


# ---- the signs and their sum ----


@pytest.mark.parametrize(
    ("text", "ends", "opened"),
    [
        ("What is the capital of France?", True, "What is the capital of France"),
        ("Tell me about the.", True, "Tell me about the"),
        ('She said "go on."', True, 'She said "go on'),
        ("Let me see...", False, "Let me see"),
        ("Give me a list of-", False, "Give me a list of"),
        ("I was thinking about", False, "I was thinking about"),
        ("At 5.30", False, "At 5.30"),
        ("?", True, ""),
        ("", False, ""),
    ],
)
def test_marks_at_the_end(text: str, ends: bool, opened: str) -> None:
    assert ends_sentence(text) is ends
    assert open_ended(text) == opened


def test_tokens_that_end_a_sentence() -> None:
    assert all(map(begins_with_end_mark, (b".", b" ?", b"!\n", b'."', b".</")))
    assert not any(map(begins_with_end_mark, (b"...", b" ..", b",", b"a.", b"", b" ", b"\xe2")))


def test_signs_of_a_turn() -> None:
    found = signs("Tell me about the", {"smart_turn": 0.75, "speech_s": 1.5}, math.log(0.2), ENGLISH)
    assert found == pytest.approx(
        {
            "full_stop": 0,
            "dangling": 1,
            "words": math.log(5),
            "one_word": 0,
            "smart_turn": math.log(3),
            "speech_s": 1.5,
            "llm_eot": math.log(0.25),
        }
    )
    assert signs("Yes.", {}, None, ENGLISH) == pytest.approx(
        {"full_stop": 1, "dangling": 0, "words": math.log(2), "one_word": 1}
    )
    assert signs("So, um,", {}, None, ENGLISH)["dangling"] == 1


@pytest.mark.parametrize("said", [0.0, 1.0])
@pytest.mark.parametrize("thought", [-math.inf, -500.0, 0.0])
def test_models_that_are_quite_sure_are_not_believed_more_than_the_fit_has_seen(said: float, thought: float) -> None:
    found = score("Yes.", {"smart_turn": said}, thought, ENGLISH, load_weights())
    assert 0 < found.probability < 1
    assert all(map(math.isfinite, found.scores.values()))


def weights(**terms: tuple[float, float, float]) -> Weights:
    named = {name: Term(weight=weight, mean=mean, scale=scale) for name, (weight, mean, scale) in terms.items()}
    return Weights(bias=0.5, terms=named)


def test_the_sum_by_hand() -> None:
    ours = weights(full_stop=(2, 0.5, 0.25), speech_s=(-1, 2, 4), pitch_slope=(1, -6, 2))
    found = score("It is late.", {"speech_s": 4.0, "pitch_slope": -5.0}, None, ENGLISH, ours)
    assert found.probability == pytest.approx(1 / (1 + math.exp(-(0.5 + 2 * 2 - 0.5 + 0.5))))
    assert found.reason == "a sentence ends"
    assert found.scores["speech_s"] == 4


def test_a_sign_that_is_missing_counts_as_its_mean() -> None:
    ours = weights(full_stop=(2, 0.5, 0.25), speech_s=(-1, 2, 4), pitch_slope=(1, -6, 2))
    without = score("It is late.", {}, None, ENGLISH, ours)
    mean = score("It is late.", {"speech_s": 2.0, "pitch_slope": -6.0}, None, ENGLISH, ours)
    assert without.probability == mean.probability
    assert "speech_s" not in without.scores


def test_the_reason_is_what_speaks_loudest_for_what_is_likelier() -> None:
    ours = load_weights()
    sounds = {"smart_turn": 0.5, "speech_s": 1.0}
    assert score("Tell me about", sounds, math.log(1e-6), ENGLISH, ours).reason == "the model expects more words"
    assert score("It is late.", sounds, math.log(0.98), ENGLISH, ours).reason == "the model expects no more words"
    assert set(ours.terms) <= set(REASONS)
    assert score("", {}, None, ENGLISH, Weights(bias=0, terms={})).reason == "nothing speaks for or against it"


# ---- the committed fit ----


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return endpoint_rows.read()


def fitted(rows: list[Row]) -> list[Row]:
    return [row for row in rows if not row.test]


def unseen(rows: list[Row]) -> list[Row]:
    return [row for row in rows if row.test and not row.human]


def test_the_test_has_other_texts_and_other_voices_than_the_fit(rows: list[Row]) -> None:
    texts = [{row.text.partition("/")[0] for row in part} for part in (fitted(rows), unseen(rows))]
    voices = [{row.voice for row in part} for part in (fitted(rows), unseen(rows))]
    assert not texts[0] & texts[1]
    assert not voices[0] & voices[1]
    assert min(map(len, texts)) > 60
    assert min(map(len, voices)) >= 4


def test_a_fit_of_the_committed_features_gives_the_committed_weights(rows: list[Row]) -> None:
    again, ours = fit_endpoint.fit(fitted(rows), ENGLISH), load_weights()
    hint = "the signs have changed: python -m tests.bench.fit_endpoint --fit"
    assert again.bias == pytest.approx(ours.bias, abs=2e-3), hint
    assert list(again.terms) == list(ours.terms), hint
    for name, term in again.terms.items():
        assert (term.weight, term.mean, term.scale) == pytest.approx(
            (ours.terms[name].weight, ours.terms[name].mean, ours.terms[name].scale), abs=2e-3
        ), hint


def test_the_fit_is_the_minimum_of_its_loss(rows: list[Row]) -> None:
    """Written out here as the textbook has it: no step in any direction makes it smaller."""
    part, terms = fitted(rows), list(fit_endpoint.TERMS)
    found = fit_endpoint.fit(part, ENGLISH)
    names = [found.terms[name] for name in terms]

    def loss(bias: float, betas: list[float]) -> float:
        total = fit_endpoint.RIDGE / 2 * sum(beta**2 for beta in betas)
        for row in part:
            told = signs(row.heard, row.acoustic, row.end_logprob, ENGLISH)
            at = bias
            for name, term, beta in zip(terms, names, betas, strict=True):
                at += beta * min(max((told.get(name, term.mean) - term.mean) / term.scale, -3), 3)
            total += math.log1p(math.exp(-at)) if row.finished else fit_endpoint.HOLD_WEIGHT * math.log1p(math.exp(at))
        return total

    best, betas = loss(found.bias, [term.weight for term in names]), [term.weight for term in names]
    for place, step in itertools.product(range(len(terms)), (-0.02, 0.02)):
        assert loss(found.bias, [*betas[:place], betas[place] + step, *betas[place + 1 :]]) > best
    assert min(loss(found.bias + step, betas) for step in (-0.02, 0.02)) > best


@pytest.mark.models
def test_the_model_is_asked_as_it_was_for_the_fit(
    rows: list[Row], llm_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKTALK_CACHE", str(llm_path.parent.parent.parent))
    some = {row.heard: row.end_logprob for row in rows[::150]}
    found = asyncio.run(endpoint_rows.end_logprobs(some))
    assert found == pytest.approx(some, abs=0.3)


@dataclass(frozen=True)
class Goals:
    """What the fit has to reach on clips it has never seen."""

    within_300_ms: float = 0.10
    within_600_ms: float = 0.05
    wait_p50_ms: float = 350
    wait_p90_ms: float = 1300

    def missed(self, figures: dict[str, float | int]) -> list[str]:
        return [name for name, most in vars(self).items() if figures[name] > most]


def figures(rows: list[Row], judging: fit_endpoint.Judge) -> dict[str, float | int]:
    return fit_endpoint.measure(rows, np.array([judging(row) for row in rows]))


def test_what_was_never_seen_is_told_apart_as_well_as_committed(rows: list[Row]) -> None:
    found = figures(unseen(rows), fit_endpoint.judge(load_weights(), ENGLISH))
    assert Goals().missed(found) == []
    lines: list[dict[str, Any]] = json.loads(RESULTS.read_text("utf-8"))["rows"]
    committed = next(line for line in lines if (line["name"], line["params"]) == ("fused", {"clips": "unseen"}))
    for name in ("false_cutoff_300ms", "false_cutoff_600ms", "within_600_ms", "false_cutoffs"):
        assert found[name] <= committed[name] + 0.005, name
    assert found["wait_p90_ms"] <= committed["wait_p90_ms"] + 10


def test_it_beats_every_single_sign(rows: list[Row]) -> None:
    part = unseen(rows)
    ours = figures(part, fit_endpoint.judge(load_weights(), ENGLISH))
    for other in (
        fit_endpoint.smart_turn_alone,
        fit_endpoint.punctuation_alone,
        fit_endpoint.rules_alone(ENGLISH),
        fit_endpoint.silence_alone,
    ):
        theirs = figures(part, other)
        assert 2 * ours["false_cutoff_300ms"] < theirs["false_cutoff_300ms"]
        assert 2 * ours["false_cutoff_600ms"] < theirs["false_cutoff_600ms"]
        assert Goals().missed(theirs)


def test_a_fit_of_shuffled_labels_misses_the_goals(rows: list[Row]) -> None:
    part = fitted(rows)
    labels = np.random.default_rng(3).permutation([row.finished for row in part]).tolist()
    shuffled = [row._replace(finished=label) for row, label in zip(part, labels, strict=True)]
    found = figures(unseen(rows), fit_endpoint.judge(fit_endpoint.fit(shuffled, ENGLISH), ENGLISH))
    assert Goals().missed(found)
    assert found["false_cutoff_300ms"] > 0.4


# ---- the measure ----


def test_silence_alone_has_the_figures_that_eot_bench_published_for_it() -> None:
    finished = np.array([True, False] * 50)
    same = np.full(100, 0.5)
    assert policy.best_cutoffs(same, finished, 300) == pytest.approx(0.556)
    assert policy.best_cutoffs(same, finished, 600) == pytest.approx(0.217)
    assert policy.best_wait_ms(same, finished, 0.10) == pytest.approx(1000)
    assert policy.best_wait_ms(same, finished, 0.05) == pytest.approx(1600)


def test_cut_offs_are_those_of_drawn_pauses() -> None:
    """The share in closed form against pauses drawn from the same curve, one by one."""
    rng = np.random.default_rng(5)
    finished = rng.random(400) < 0.5
    waits_ms = rng.uniform(200, 2000, 400)
    grid_ms = np.arange(200.0, 5002.0)  # the last of them is where no pause lasts longer
    survival = policy.lasts_longer(grid_ms)
    pauses_ms = grid_ms[np.searchsorted(-survival, -rng.random(400_000))]
    drawn = np.tile(waits_ms[~finished], 400_000 // int((~finished).sum()))
    cut = float((pauses_ms[: drawn.size] > drawn).mean())
    assert policy.outcome(waits_ms, finished).false_cutoffs == pytest.approx(cut, abs=0.003)


def test_a_perfect_judge_cuts_nobody_off_and_a_wrong_one_everybody() -> None:
    finished = np.array([True, False] * 50)
    assert policy.best_cutoffs(finished.astype(float), finished, 300) < 0.002
    assert policy.ranked_right(finished.astype(float), finished) == 1
    assert policy.ranked_right(1 - finished.astype(float), finished) == 0
    assert policy.outcome(policy.waits(1 - finished.astype(float), TURNS), finished).within_300_ms == 1
