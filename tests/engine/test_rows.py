"""Which numbers of rows are exact is found out, not assumed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from engine.backends.rows import ROW_PLANS, Found, RowPlan, RowTrials


class Odd:
    """A product that adds up its terms from another one on when it has certain numbers of rows."""

    nbytes = 0

    def __init__(self, off_at: Callable[[int], bool], shape: tuple[int, int] = (64, 32)) -> None:
        self.shape = shape
        self._weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        self._off_at = off_at

    def cancelling(self) -> Odd:
        half = self._weight[:, : self.shape[1] // 2]
        found = Odd(self._off_at, self.shape)
        found._weight = torch.cat([half, -half.flip(1)], dim=1)
        return found

    def __call__(self, rows: Tensor) -> Tensor:
        terms = (rows.float().unsqueeze(1) * self._weight.float()).numpy()
        ordered = np.roll(terms, 5, axis=2) if self._off_at(len(rows)) else terms
        return torch.from_numpy(np.add.accumulate(ordered, axis=2)[..., -1].copy()).bfloat16()


def test_ordinary_numbers_would_not_show_it() -> None:
    """Why the matrices tried cancel."""
    odd, even = Odd(lambda rows: True), Odd(lambda rows: False)
    rows = torch.randn(64, 32, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert (odd(rows) != even(rows)).float().mean() < 0.001
    mirrored = torch.cat([rows[:, :16], rows[:, :16].flip(1)], dim=1)
    assert (odd.cancelling()(mirrored) != even.cancelling()(mirrored)).float().mean() > 0.1


def first_allowed(*products: Odd) -> RowPlan:
    trials = RowTrials(products, torch.bfloat16, lambda rows: 1, found={})
    return next(filter(trials.allow, ROW_PLANS))


@pytest.mark.parametrize(
    ("off_at", "plan"),
    [
        (lambda rows: False, RowPlan(1, 64)),
        (lambda rows: rows == 64, RowPlan(1, 32)),
        (lambda rows: rows == 1, RowPlan(2, 64)),
        (lambda rows: rows % 2 == 1, RowPlan(2, 64)),
        (lambda rows: rows < 4, RowPlan(4, 64)),
        (lambda rows: rows == 4, RowPlan(8, 64)),
        (lambda rows: rows in (1, 2, 4, 64), RowPlan(8, 32)),
        (lambda rows: rows in (1, 2, 4, 8, 64), RowPlan(32, 32)),
        # All alike but a single row: what is exact is what agrees, not what is right.
        (lambda rows: rows > 1, RowPlan(2, 64)),
    ],
)
def test_the_widest_exact_plan_is_found(off_at: Callable[[int], bool], plan: RowPlan) -> None:
    assert first_allowed(Odd(off_at)) == plan


def test_one_odd_product_among_many_decides() -> None:
    good, bad = Odd(lambda rows: False), Odd(lambda rows: rows == 1, shape=(64, 48))
    assert first_allowed(good, bad) == RowPlan(2, 64)


def test_products_are_tried_as_calls_are_made() -> None:
    prepared: list[int] = []

    def prepare(rows: int) -> int:
        prepared.append(rows)
        return 1

    RowTrials([Odd(lambda rows: False)], torch.bfloat16, prepare, found={}).allow(RowPlan(32, 32))
    assert set(prepared) == {32}


def test_a_shape_is_tried_once() -> None:
    found: Found = {}
    assert RowTrials([Odd(lambda rows: False)], torch.bfloat16, lambda rows: 1, found).allow(RowPlan(8, 64))
    assert RowTrials([Odd(lambda rows: True)], torch.bfloat16, lambda rows: 1, found).allow(RowPlan(8, 64))
    wider = Odd(lambda rows: rows < 64, shape=(96, 32))
    assert not RowTrials([wider], torch.bfloat16, lambda rows: 1, found).allow(RowPlan(8, 64))


def test_padding_makes_whole_steps() -> None:
    plan = RowPlan(8, 32)
    assert [plan.padded(count) for count in (1, 8, 9, 32)] == [8, 8, 16, 32]
