"""Copies that are made beside decoding, slice by slice, and can be finished by whoever needs them sooner."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

SLICE_BYTES = 1 << 20
"""What is copied at a time: so long at most does somebody wait who wants to finish a copy himself."""

Pair = tuple[Tensor, Tensor]
"""Target and source, of equal shape and type."""


def copy_bytes(target: Tensor, source: Tensor) -> None:
    """The one place where the bytes of a state are moved."""
    target.copy_(source)


class Copy:
    """One copy. It holds on to what it reads and writes until it is done; the capsules that need it hold on to it.

    Attributes:
        position: The rows of tokens below it are read.
        lost_at: The first token whose writing takes the place of something that is read.
        error: What went wrong, if something did: then the rest is not copied.
    """

    def __init__(self, pairs: Iterable[Pair], position: int, lost_at: int) -> None:
        self.position = position
        self.lost_at = lost_at
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._slices: Iterator[Pair] | None = _sliced(pairs)

    @property
    def done(self) -> bool:
        """Whether nothing is left to be copied."""
        return self._slices is None

    def step(self) -> bool:
        """Copy a slice; False once nothing is left. Any thread may call it at any time."""
        with self._lock:
            if self._slices is None:
                return False
            pair = None
            try:
                pair = next(self._slices, None)
                if pair is not None:
                    copy_bytes(*pair)
            except BaseException as error:
                # Whoever reads the copy is told, and no memory is held by what is told.
                self.error, pair = error.with_traceback(None), None
                if not isinstance(error, Exception):
                    raise
            finally:
                if pair is None:
                    self._slices = None
                # So that no memory is held any more once the last step has returned.
                del pair
            return self._slices is not None

    def run(self) -> None:
        """Copy what is left, while others may do the same."""
        while self.step():
            pass

    def in_the_way_of(self, first: int, end: int) -> bool:
        """Whether writing the tokens [first, end) would change what is still to be read."""
        return not self.done and (self.position > first or self.lost_at < end)


class Copier(Protocol):
    """Sees to it that copies are made some time, unless nobody needs them any more."""

    def add(self, copy: Copy) -> None:
        """Make it after those that were added before."""
        ...

    def close(self) -> None:
        """Make all that were added, and end."""
        ...


class BackgroundCopier:
    """A thread that copies. Other threads go on meanwhile: a copy holds no lock of the interpreter."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "copier", initializer=torch.set_num_threads, initargs=(1,))

    def add(self, copy: Copy) -> None:
        """Make it after those that were added before."""
        self._thread.submit(_run, weakref.ref(copy))

    def close(self) -> None:
        """Make all that were added, and end."""
        self._thread.shutdown()


def _run(reference: weakref.ref[Copy]) -> None:
    # Not held between two slices, so that memory comes back as soon as nobody wants it filled.
    while (copy := reference()) is not None and copy.step():
        del copy


def _sliced(pairs: Iterable[Pair]) -> Iterator[Pair]:
    for target, source in pairs:
        if target.is_contiguous() and source.is_contiguous():
            # One row may be larger than a slice.
            target, source = target.view(-1), source.view(-1)
        rows = max(1, len(target) * SLICE_BYTES // max(1, target.nbytes))
        yield from zip(target.split(rows), source.split(rows), strict=True)
