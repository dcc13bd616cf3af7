"""Noise that is a function of its counters, and choices that follow the distribution they are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.sampler import Sampling, choose, gumbel, philox

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])


def draws(sampling: Sampling, count: int, logits: torch.Tensor = LOGITS) -> np.ndarray:
    return np.array([choose(logits.clone(), sampling, 7, position, []) for position in range(count)])


@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ("00000000 00000000 00000000 00000000", 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", 0xFFFFFFFF_FFFFFFFF, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", 0x299F31D0_A4093822, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_words(counter: str, key: int, wanted: str) -> None:
    """Known answers of Random123 1.09."""
    words = np.array([[int(word, 16)] for word in counter.split()], np.uint64)
    assert [f"{word:08x}" for word in philox(words, key)[:, 0].tolist()] == wanted.split()


def test_noise_belongs_to_seed_position_and_token() -> None:
    tokens = np.array([0, 1, 2, 3, 4, 49151, 248319])
    base = gumbel(7, 100, tokens)
    assert len(set(base)) == len(tokens)
    assert (gumbel(7, 100, tokens[::-1]) == base[::-1]).all()
    assert not np.isin(gumbel(8, 100, tokens), base).any()
    assert not np.isin(gumbel(7, 101, tokens), base).any()


def test_noise_is_gumbel() -> None:
    noise = gumbel(3, 5, np.arange(200_000))
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, rel=0.02)


def test_greedy_takes_the_most_likely() -> None:
    assert (draws(Sampling(), 5) == 0).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_choices_follow_the_softmax(temperature: float) -> None:
    wanted = torch.softmax(LOGITS / temperature, 0).numpy()
    seen = np.bincount(draws(Sampling(temperature=temperature), 6000), minlength=5) / 6000
    assert np.abs(seen - wanted).max() < 0.025


def test_top_k_and_top_p_cut_the_tail() -> None:
    assert set(draws(Sampling(temperature=5.0, top_k=2), 400)) == {0, 1}
    # 0.636 + 0.234 = 0.87, and the third reaches 0.96.
    assert set(draws(Sampling(temperature=1.0, top_p=0.9), 2000)) == {0, 1, 2}
    assert set(draws(Sampling(temperature=1.0, top_p=0.01), 100)) == {0}
    assert set(draws(Sampling(temperature=50.0, top_k=99), 400)) == {0, 1, 2, 3, 4}


def test_the_penalty_weakens_recent_tokens_whatever_their_sign() -> None:
    logits = torch.tensor([2.0, 1.5, -1.0])
    assert choose(logits, Sampling(repetition_penalty=2.0), 0, 0, [0, 0, 2]) == 1
    assert logits.tolist() == [1.0, 1.5, -2.0]


def test_a_forbidden_token_is_never_chosen() -> None:
    logits = torch.tensor([1.0, 9.0, 3.0])
    assert choose(logits.clone(), Sampling(forbidden=(1,)), 0, 0, []) == 2
    drawn = {choose(logits.clone(), Sampling(temperature=9.0, forbidden=(1,)), 0, p, []) for p in range(200)}
    assert drawn == {0, 2}


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"repetition_penalty": 0}, {"seed": -1}]
)
def test_refuses_settings_that_mean_nothing(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"can't sample|seed"):
        Sampling(**wrong)  # pyright: ignore[reportArgumentType]  # wrong on purpose
