"""How many rows a product may have so that each row's bits don't depend on it: found out at load, never assumed.

A matrix library chooses its way by the number of rows, and two ways add in two orders. Rounded to bfloat16 nearly all
of the difference is lost: one number in ten thousand shows it. So every shape is tried with a matrix and rows whose
products cancel: what is left of such a sum is nothing but the rounding of its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch

from engine.backends.cpu import Linear


class RowPlan(NamedTuple):
    """The row counts that calls of a model have."""

    step: int
    """Calls are padded to a multiple of this."""
    most: int
    """Longer ones are cut."""

    def padded(self, count: int) -> int:
        """Rows of a call for some tokens."""
        return -(-count // self.step) * self.step


ROW_PLANS = (
    RowPlan(1, 64),
    RowPlan(1, 32),
    RowPlan(2, 64),
    RowPlan(4, 64),
    RowPlan(8, 64),
    RowPlan(8, 32),
    RowPlan(32, 32),
    RowPlan(1, 1),
)
"""Tried in this order. The last one is exact wherever a computation repeats itself."""

_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 21, 24, 32, 48, 64)
Kind = tuple[type[Linear], tuple[int, int]]
Found = dict[tuple[object, ...], bool]
_found: Found = {}
"""What the library does with a shape is the same for all models of a process."""


class RowTrials:
    """Tries the products of a model."""

    def __init__(
        self,
        products: Iterable[Linear],
        dtype: torch.dtype,
        prepare: Callable[[int], int],
        found: Found | None = None,
    ) -> None:
        """Choose what to try: one product of every kind and shape.

        Args:
            products: All that are computed for several rows at once.
            dtype: What they take.
            prepare: Called with the number of rows before a product, as before a call of the model; the threads used.
            found: What earlier trials found out; None for those of this process.
        """
        self._products: dict[Kind, Linear] = {(type(product), product.shape): product for product in products}
        self._dtype, self._prepare = dtype, prepare
        self._found = _found if found is None else found

    def allow(self, plan: RowPlan) -> bool:
        """Whether every product gives a row the same bits in all calls that a plan can make."""
        counts = sorted({plan.padded(count) for count in _COUNTS if count <= plan.most})
        return all(self._alike(kind, counts, plan.most) for kind in self._products)

    def _alike(self, kind: Kind, counts: Sequence[int], most: int) -> bool:
        """Whether calls of some numbers of rows all give the bits that calls of `most` rows give."""
        trial: _Trial | None = None
        for count in counts:
            threads = self._prepare(count), self._prepare(most)
            key = (*kind, self._dtype, threads, count, most)
            if key not in self._found:
                trial = trial or _Trial(self._products[kind], self._dtype, self._prepare, most)
                self._found[key] = trial.agrees(count)
            if not self._found[key]:
                return False
        return True


class _Trial:
    """One shape, and what calls of `most` rows make of rows that cancel."""

    def __init__(self, product: Linear, dtype: torch.dtype, prepare: Callable[[int], int], most: int) -> None:
        self._product, self._prepare = product.cancelling(), prepare
        columns = product.shape[1]
        half = torch.randn(2 * most, columns // 2, generator=torch.Generator().manual_seed(0))
        self._rows = torch.cat([half, half.flip(1), half.new_zeros(len(half), columns % 2)], dim=1).to(dtype)
        self._wanted = self._multiply(most)

    def agrees(self, count: int) -> bool:
        """Whether calls of `count` rows give the same."""
        found = self._multiply(count)
        return torch.equal(self._wanted[: len(found)], found)

    def _multiply(self, count: int) -> torch.Tensor:
        self._prepare(count)
        return torch.cat([self._product(part) for part in self._rows.split(count) if len(part) == count])
