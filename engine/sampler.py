"""Choosing the next token: greedy, or sampled with noise that is a pure function of (seed, position, token).

Gumbel-max: the argmax of `logit / temperature + G` is a draw from the softmax, for independent Gumbel noise G. The
noise comes from a counter-based generator, so there is no hidden stream: a state put back to a position samples the
same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_WORD = np.uint64(32)


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. The default is greedy."""

    temperature: float = 0.0
    """0 takes the most likely token."""
    top_k: int = 0
    """Only the k most likely tokens; 0 for all."""
    top_p: float = 1.0
    """Only the most likely tokens that together have this probability."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of recent tokens (CTRL, Keskar et al. 2019)."""
    penalty_tokens: int = 64
    """How many of the newest tokens count as recent."""
    penalty_from: int = 0
    """Position before which no token counts as recent: a prompt's words are what an answer is about."""
    forbidden: tuple[int, ...] = ()
    """Tokens that are never chosen."""
    seed: int | None = None
    """Put into the lane's state when decoding begins; None keeps the seed that is there."""

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ValueError(f"these settings can't sample: {self}")
        if self.seed is not None:
            check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Refuse what can't be a seed.

    Raises:
        ValueError: It does not fit into a state.
    """
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"the seed {seed} is not in 0..2**63-1")


def choose(logits: Tensor, sampling: Sampling, seed: int, position: int, recent: Sequence[int]) -> int:
    """The next token.

    Args:
        logits: float32[vocabulary]. Those of recent and of forbidden tokens are changed in place.
        sampling: How.
        seed: Of the noise.
        position: Of the token to choose: each has its own noise.
        recent: Tokens that the repetition penalty falls on.
    """
    if sampling.repetition_penalty != 1.0 and recent:
        ids = torch.tensor(sorted(set(recent)))
        scores = logits[ids]
        logits[ids] = torch.where(
            scores > 0, scores / sampling.repetition_penalty, scores * sampling.repetition_penalty
        )
    if sampling.forbidden:
        logits[list(sampling.forbidden)] = -torch.inf
    if sampling.temperature == 0.0:
        return int(logits.argmax())
    kept = min(sampling.top_k, len(logits)) or len(logits)
    values, ids = torch.topk(logits, kept)
    scores = values.double().numpy() / sampling.temperature
    if sampling.top_p < 1.0:
        weights = np.exp(scores - scores[0])
        before = (np.cumsum(weights) - weights) / weights.sum()
        scores = scores[before < sampling.top_p]
    tokens = ids.numpy()[: len(scores)]
    return int(tokens[np.argmax(scores + gumbel(seed, position, tokens))])


def logprob(logits: Tensor, ids: Sequence[int]) -> float:
    """Natural log of the probability that the next token is one of some, computed in float64.

    Args:
        logits: float32[vocabulary].
        ids: Each once; -inf for none.
    """
    scores = logits.double()
    return float((torch.logsumexp(scores[list(ids)], 0) - torch.logsumexp(scores, 0)).clamp(max=0.0))


def gumbel(seed: int, position: int, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard Gumbel noise of some tokens at a position, float64[n]. Four neighbouring ids share one block of bits."""
    counters = np.zeros((4, len(tokens)), np.uint64)
    counters[0] = tokens >> 2
    counters[1] = position
    words = philox(counters, seed)[tokens & 3, np.arange(len(tokens))]
    return -np.log(-np.log((words + 0.5) / 2.0**32))


def philox(counters: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Philox4x32-10 (Salmon et al. 2011): a keyed permutation of 128-bit counters.

    Args:
        counters: uint64[4, n], each word below 2**32.
        seed: The key, below 2**64.

    Returns:
        uint64[4, n] words below 2**32.
    """
    first, second, third, fourth = counters
    low_key, high_key = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(10):
        left, right = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first, second, third, fourth = (
            (right >> _WORD) ^ second ^ low_key,
            right & _LOW,
            (left >> _WORD) ^ fourth ^ high_key,
            left & _LOW,
        )
        low_key, high_key = (low_key + _KEY_STEPS[0]) & _LOW, (high_key + _KEY_STEPS[1]) & _LOW
    return np.stack([first, second, third, fourth])
