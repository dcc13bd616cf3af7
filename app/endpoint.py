"""Has the user finished? One probability from how the end of the turn sounds and reads, and how long to wait for it.

Each sign is too weak alone: a recogniser puts a full stop after whatever it was given, an unfinished sentence can sound
like a finished one, and a language model knows nothing of voices. Logistic regression weighs them; its weights are in
endpoint.toml. Pure.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from typing import NamedTuple

import msgspec

from app.language import Language, words_of
from app.timing import Turns

END_MARKS = (".", "?", "!")
CLOSERS = "\"'”’»)]"
_SUREST, _LEAST_SURE = 0.995, 1e-12
"""What a model says beyond these is taken for these."""
FARTHEST = 3.0
"""A sign counts at most this many standard deviations: beyond, the fit has seen nothing."""

REASONS: dict[str, tuple[str, str]] = {
    "smart_turn": ("it sounds finished", "it sounds unfinished"),
    "llm_eot": ("the model expects no more words", "the model expects more words"),
    "full_stop": ("a sentence ends", "no sentence ends"),
    "dangling": ("the last word may be the last", "the last word asks for another"),
    "pitch_slope": ("the voice falls", "the voice rises"),
    "energy_slope": ("the voice fades", "the voice does not fade"),
    "words": ("little was said", "much was said"),
    "one_word": ("more than a word was said", "a single word was said"),
    "speech_s": ("the user spoke for long", "the user spoke for a moment"),
}
"""What each sign says for the end, and against it."""


class Term(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One sign of the sum."""

    weight: float
    mean: float
    """Of the sign in the fit; what it counts as where it is missing."""
    scale: float
    """Its standard deviation there."""


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logistic regression on standardised signs."""

    bias: float
    terms: dict[str, Term]


class Score(NamedTuple):
    """How likely it is that the user has finished."""

    probability: float
    reason: str
    """The sign that speaks loudest for what is likelier."""
    scores: dict[str, float]
    """Every sign that was there."""


def load_weights() -> Weights:
    """The weights that are installed with this file."""
    text = resources.files("app").joinpath("endpoint.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), Weights)


def signs(text: str, acoustic: Mapping[str, float], end_logprob: float | None, language: Language) -> dict[str, float]:
    """Everything about a turn that may be weighed, by the names of the terms.

    Args:
        text: All that was said in the turn so far.
        acoustic: From `TurnEnd.listen`; probabilities become log odds.
        end_logprob: Natural log of the language model's probability that the user's turn ends there.
        language: Whose last words are looked up.
    """
    words = words_of(text)
    found = {
        "full_stop": float(ends_sentence(text)),
        "dangling": float(language.ends_dangling(words) or language.ends_in_filler(words)),
        "words": math.log1p(len(words)),
        "one_word": float(len(words) <= 1),
        **acoustic,
    }
    if "smart_turn" in acoustic:
        found["smart_turn"] = _log_odds(math.log(max(acoustic["smart_turn"], 1 - _SUREST)))
    if end_logprob is not None:
        found["llm_eot"] = _log_odds(end_logprob)
    return found


def score(
    text: str, acoustic: Mapping[str, float], end_logprob: float | None, language: Language, weights: Weights
) -> Score:
    """Weigh all signs; one that is missing counts as its mean in the fit. Arguments as of `signs`."""
    found = signs(text, acoustic, end_logprob, language)
    parts = {name: term.weight * _standard(found[name], term) for name, term in weights.terms.items() if name in found}
    total = weights.bias + math.fsum(parts.values())
    finished = total >= 0
    loudest = max(parts, key=lambda name: parts[name] if finished else -parts[name], default="")
    reason = REASONS[loudest][0 if finished else 1] if loudest in REASONS else "nothing speaks for or against it"
    return Score(_sigmoid(total), reason, found)


def wait_ms(probability: float, turns: Turns, floor_ms: float) -> int:
    """The silence that ends a turn which is finished with this probability.

    Args:
        probability: 0..1.
        turns: The configured waits at 0.9, 0.7, 0.5, 0.3 and 0.1; in between it is interpolated.
        floor_ms: The shortest wait that this user's pauses allow.
    """
    table = (
        (0.1, turns.unfinished_ms),
        (0.3, turns.unlikely_ms),
        (0.5, turns.even_ms),
        (0.7, turns.likely_ms),
        (0.9, turns.sure_ms),
    )
    at = min(max(probability, table[0][0]), table[-1][0])
    wanted = next(
        low_ms + (high_ms - low_ms) * (at - low) / (high - low)
        for (low, low_ms), (high, high_ms) in pairwise(table)
        if at <= high
    )
    return round(min(max(wanted, floor_ms), turns.longest_ms))


def ends_sentence(text: str) -> bool:
    """Whether a transcript ends with a mark that ends sentences. Three dots are a hesitation."""
    bare = text.rstrip().rstrip(CLOSERS)
    return bare.endswith(END_MARKS) and not bare.endswith("...")


def open_ended(text: str) -> str:
    """A transcript without its last marks, for the language model to tell whether it ends there.

    A recogniser puts a full stop after whatever it was given, and a model believes it: it has to choose between a mark
    and another word itself.
    """
    return text.rstrip(" …-–—" + "".join(END_MARKS) + CLOSERS)


def begins_with_end_mark(token: bytes) -> bool:
    """Whether a token of a language model ends the sentence before it, and so may end the user's turn."""
    bare = token.strip()
    return bare.startswith(tuple(mark.encode() for mark in END_MARKS)) and not bare.startswith(b"..")


def _standard(value: float, term: Term) -> float:
    return min(max((value - term.mean) / term.scale, -FARTHEST), FARTHEST)


def _log_odds(logprob: float) -> float:
    kept = min(max(logprob, math.log(_LEAST_SURE)), math.log(_SUREST))
    return kept - math.log(-math.expm1(kept))


def _sigmoid(total: float) -> float:
    return 1 / (1 + math.exp(-total)) if total >= 0 else math.exp(total) / (1 + math.exp(total))
