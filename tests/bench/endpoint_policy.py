"""What a turn detector is worth: how often it cuts people off, and how long it makes them wait.

The measure is that of LiveKit's eot-bench (github.com/livekit/eot-bench, README, "Evaluation Model"): a policy acts
after `action_delay` where the score reaches `threshold`, and else after `timeout`; of all policies the best is reported
that stays within a budget. A pause is cut off if it lasts longer than the policy waits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.endpoint import wait_ms
from app.timing import Turns

Floats = NDArray[np.float64]

# How long people pause inside of a turn. Of the pauses of 0.2 to 5 s in eot-bench's English set a timeout alone cuts
# off so many (its table of results, row "VAD baseline": 55.6 % at 300 ms, 21.7 % at 600; 10 % take 1000 ms, 5 % 1600).
_LASTS_MS = np.array([200, 300, 600, 1000, 1600, 5000])
_SHARE = np.array([1.0, 0.556, 0.217, 0.10, 0.05, 0.001])

_DELAYS_MS = np.arange(100, 1001, 50)
_TIMEOUTS_MS = np.array([*range(300, 2001, 100), 2500, 3000, 4000, 5000])
_THRESHOLDS = np.linspace(0.01, 0.99, 99)
_SLACK = 1e-9


class Outcome(NamedTuple):
    """What the waits of app/timing.py do with some probabilities."""

    false_cutoffs: float
    """Share of the pauses inside of turns that are cut off, by how long people pause."""
    within_300_ms: float
    """Share of the pauses inside of turns that would be cut off if they lasted longer than that."""
    within_600_ms: float
    wait_mean_ms: float
    wait_p50_ms: float
    wait_p90_ms: float


def lasts_longer(after_ms: Floats) -> Floats:
    """The share of pauses inside of turns that last longer; between the known points it falls exponentially."""
    shares = np.exp(np.interp(after_ms, _LASTS_MS, np.log(_SHARE)))
    return np.where(after_ms > _LASTS_MS[-1], 0.0, shares)


def waits(probabilities: Floats, turns: Turns) -> Floats:
    """The silence in ms that each probability asks for, of a user whose pauses are not known yet."""
    return np.array([wait_ms(float(one), turns, turns.floor_least_ms) for one in probabilities], np.float64)


def outcome(waits_ms: Floats, finished: NDArray[np.bool_]) -> Outcome:
    """Score the waits of clips that end a turn, or don't."""
    paused, ended = waits_ms[~finished], waits_ms[finished]
    p50, p90 = np.percentile(ended, [50, 90])
    return Outcome(
        float(lasts_longer(paused).mean()),
        float((paused <= 300).mean()),
        float((paused <= 600).mean()),
        float(ended.mean()),
        float(p50),
        float(p90),
    )


def best_cutoffs(probabilities: Floats, finished: NDArray[np.bool_], budget_ms: float) -> float:
    """The fewest false cut-offs of all policies that wait so long on average at the end of a turn."""
    best = 1.0
    for threshold in _THRESHOLDS:
        sure = probabilities >= threshold
        shares, mean_ms = _sweep(float(sure[finished].mean()), float(sure[~finished].mean()))
        best = min(best, float(shares[mean_ms <= budget_ms + _SLACK].min(initial=1.0)))
    return best


def best_wait_ms(probabilities: Floats, finished: NDArray[np.bool_], budget: float) -> float:
    """The shortest mean wait at the end of a turn of all policies that cut off so few."""
    best = float(_TIMEOUTS_MS[-1])
    for threshold in _THRESHOLDS:
        sure = probabilities >= threshold
        shares, mean_ms = _sweep(float(sure[finished].mean()), float(sure[~finished].mean()))
        best = min(best, float(mean_ms[shares <= budget + _SLACK].min(initial=best)))
    return best


def _sweep(hits: float, slips: float) -> tuple[Floats, Floats]:
    """False cut-offs and mean wait of each delay and timeout, if so many of the ended and paused clips score enough."""
    delays_ms, timeouts_ms = (grid.astype(np.float64) for grid in np.meshgrid(_DELAYS_MS, _TIMEOUTS_MS))
    timeouts_ms = np.maximum(timeouts_ms, delays_ms)
    shares = slips * lasts_longer(delays_ms) + (1 - slips) * lasts_longer(timeouts_ms)
    return shares, hits * delays_ms + (1 - hits) * timeouts_ms


def ranked_right(probabilities: Floats, finished: NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often an end scores higher than a pause."""
    ends, holds = probabilities[finished][:, None], probabilities[~finished]
    return float(((ends > holds) + 0.5 * (ends == holds)).mean())
