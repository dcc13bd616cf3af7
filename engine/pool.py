"""Memory for capsules: one slab with a budget, touched once at load, so that a snapshot is only a copy.

What is handed out is a tensor over a part of the slab. The part is free again when the last view of it is gone.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from engine.errors import PoolFull

ALIGNMENT_BYTES = 64

Run = tuple[int, int]
"""First and end of a part of the slab."""


class PoolUsage(NamedTuple):
    """How full a pool is."""

    budget_bytes: int
    used_bytes: int
    peak_bytes: int
    """The most that was used at a time."""
    largest_free_bytes: int
    """The longest run of free memory."""


class Pool:
    """A first-fit allocator. Its methods may be called from any thread."""

    def __init__(self, budget_bytes: int) -> None:
        """Take the memory.

        Args:
            budget_bytes: How much; cut to a multiple of 64.
        """
        self._budget = budget_bytes // ALIGNMENT_BYTES * ALIGNMENT_BYTES
        # Filled, so that every page is there before the first snapshot.
        self._slab = torch.empty(self._budget, dtype=torch.uint8).fill_(0).numpy()
        self._lock = threading.Lock()
        self._free: list[Run] = [(0, self._budget)] if self._budget else []
        """In order, and never two that touch."""
        # A tensor may die anywhere, also in a thread that holds the lock: it only leaves a note here.
        self._returned: deque[Run] = deque()
        self._used = self._peak = 0

    def allocate(self, bytes: int) -> Tensor:
        """Memory of a size, uint8[bytes], aligned to 64 bytes. What stands in it is of no meaning.

        Raises:
            PoolFull: There is no run of free memory that is long enough.
        """
        return self.allocate_all([bytes])[0]

    def allocate_all(self, sizes: Sequence[int]) -> list[Tensor]:
        """Memory of several sizes, or none at all.

        Raises:
            PoolFull: Not all of them fit. Nothing was allocated.
        """
        with self._lock:
            self._drain()
            runs: list[Run] = []
            for size in sizes:
                run = self._take(_aligned(size))
                if run is None:
                    for taken in runs:
                        self._give(taken)
                    raise self._full(sizes)
                runs.append(run)
            self._peak = max(self._peak, self._used)
        return [self._tensor(run, size) for run, size in zip(runs, sizes, strict=True)]

    def fits(self, sizes: Sequence[int], returned: Iterable[Tensor] = ()) -> bool:
        """Whether `allocate_all` would succeed.

        Args:
            sizes: What would be asked for.
            returned: Memory of this pool that would be given back before, each as it was handed out.
        """
        base = self._slab.ctypes.data
        firsts = [(memory.data_ptr() - base, memory.nbytes) for memory in returned]
        with self._lock:
            self._drain()
            runs = sorted(self._free + [(first, first + _aligned(size)) for first, size in firsts if size])
        free: list[Run] = []
        for first, end in runs:
            if free and free[-1][1] == first:
                first, _ = free.pop()
            free.append((first, end))
        return all(_first_fit(free, _aligned(size)) for size in sizes)

    def usage(self) -> PoolUsage:
        """How full it is."""
        with self._lock:
            self._drain()
            return PoolUsage(self._budget, self._used, self._peak, self._largest())

    def _tensor(self, run: Run, size: int) -> Tensor:
        memory = self._slab[run[0] : run[0] + size]
        # Torch keeps this very array as long as there is a view of the tensor.
        weakref.finalize(memory, self._returned.append, run).atexit = False
        return torch.from_numpy(memory)

    def _take(self, size: int) -> Run | None:
        run = _first_fit(self._free, size)
        self._used += size if run else 0
        return run

    def _give(self, run: Run) -> None:
        self._used -= run[1] - run[0]
        index = bisect(self._free, run)
        first, end = run
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == first:
            index -= 1
            first = self._free.pop(index)[0]
        self._free.insert(index, (first, end))

    def _drain(self) -> None:
        while self._returned:
            self._give(self._returned.popleft())

    def _largest(self) -> int:
        return max((end - first for first, end in self._free), default=0)

    def _full(self, sizes: Sequence[int]) -> PoolFull:
        return PoolFull(
            f"there is no room for a capsule of {sum(sizes)} bytes",
            f"{self._used} of {self._budget} bytes are in use, and the longest free run has {self._largest()}",
            "Evict a capsule, or load the engine with larger capsule_bytes",
            sizes,
        )


def _first_fit(free: list[Run], size: int) -> Run | None:
    """Cut a run from the first one that is long enough."""
    for index, (first, end) in enumerate(free):
        if end - first >= size:
            free[index : index + 1] = [(first + size, end)] if end - first > size else []
            return first, first + size
    return None


def _aligned(size: int) -> int:
    return max(1, -(-size // ALIGNMENT_BYTES)) * ALIGNMENT_BYTES
