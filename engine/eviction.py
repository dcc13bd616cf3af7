"""Which capsules go when the pool is full: those that cost least to make again for the memory they give back.

A capsule's cost is the tokens that would have to be read again, from the best ancestor that is left. So it depends on
what else goes, as does the memory that it gives back, for what it shares with another stays. Both are therefore worked
out again after each choice. Nothing here evicts: a plan is made, and where there is none, nothing was lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from engine.capsule import Segment
from engine.chains import bytes_of, segments_of
from engine.entry import Entry
from engine.errors import PoolFull

Enough = Callable[[Collection[Segment]], bool]
"""Whether there is room once these segments are free."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A capsule before the choice.

    Attributes:
        entry: What is known of it.
        in_use: Somebody reads it, so it has to stay.
    """

    entry: Entry
    in_use: bool = False

    @cached_property
    def segments(self) -> frozenset[Segment]:
        """The memory it holds, some of it perhaps together with others."""
        return segments_of(self.entry.capsule)

    @property
    def movable(self) -> bool:
        """Whether it may go."""
        return bool(self.segments) and not (self.in_use or self.entry.pinned)


def freed(going: Iterable[Candidate], staying: Iterable[Candidate]) -> set[Segment]:
    """The memory that comes free with some capsules, while others stay."""
    return {segment for one in going for segment in one.segments}.difference(*(one.segments for one in staying))


def plan(candidates: Sequence[Candidate], enough: Enough) -> list[Candidate] | None:
    """The capsules to evict; None if even all that may go are too little.

    Args:
        candidates: Every capsule there is: those on disk and those that have to stay as well.
        enough: What has to be reached.
    """
    holders = Counter(segment for one in candidates for segment in one.segments)
    staying, going = dict.fromkeys(candidates), list[Candidate]()
    ancestors = {one: [other for other in candidates if _begins(one, other)] for one in candidates if one.movable}

    def rank(one: Candidate) -> tuple[bool, float, int, str]:
        alone = bytes_of(segment for segment in one.segments if holders[segment] == 1)
        cost_tokens = _cost_tokens(one.entry, (other for other in ancestors[one] if other in staying))
        value = cost_tokens / alone if alone else float("inf")
        return not one.entry.disposable, value, one.entry.used, one.entry.name

    while not enough(freed(going, staying)):
        chosen = min((one for one in staying if one.movable), key=rank, default=None)
        if chosen is None:
            return None
        del staying[chosen]
        going.append(chosen)
        holders.subtract(chosen.segments)
    # A small one may have been chosen before a large one that is enough by itself.
    for one in reversed(going.copy()):
        rest = [other for other in going if other is not one]
        if enough(freed(rest, [*staying, one])):
            staying[one] = None
            going = rest
    return going


def refusal(candidates: Sequence[Candidate], sizes_bytes: Sequence[int], budget_bytes: int) -> PoolFull:
    """Why there is no plan, and what the caller can do.

    Args:
        candidates: As for `plan`.
        sizes_bytes: The pieces of memory that were asked for.
        budget_bytes: Size of the pool.
    """
    going = [one for one in candidates if one.movable]
    staying = [one for one in candidates if not one.movable]
    possible = freed(going, staying)
    pinned_bytes = {
        one.entry.name: bytes_of(freed([*going, one], (other for other in staying if other is not one)) - possible)
        for one in staying
        if one.entry.name and one.entry.pinned and one.segments
    }
    in_use = freed(
        [one for one in staying if not one.entry.pinned], [*going, *(one for one in staying if one.entry.pinned)]
    )
    told = ", ".join(f"{name} (without it {size} bytes more)" for name, size in sorted(pinned_bytes.items()))
    return PoolFull(
        f"there is no room for a capsule of {sum(sizes_bytes)} bytes",
        f"of {budget_bytes} bytes, {bytes_of(possible)} come free if all goes that may; pinned: {told or 'none'}; "
        f"in use: {bytes_of(in_use)} bytes",
        "Unpin, spill or drop a capsule, or load the engine with larger capsule_bytes",
        sizes_bytes,
        pinned_bytes,
    )


def _cost_tokens(entry: Entry, ancestors: Iterable[Candidate]) -> int:
    """Tokens to read to have it again. The time for a token is the same for all, so it decides nothing."""
    if entry.saved:
        return 0
    if entry.cost_tokens is not None:
        return entry.cost_tokens
    return entry.capsule.position - max((other.entry.capsule.position for other in ancestors), default=0)


def _begins(one: Candidate, other: Candidate) -> bool:
    """Whether a capsule's text begins with that of another that has a name."""
    text, start = one.entry.capsule.tokens, other.entry.capsule.tokens
    return one is not other and bool(other.entry.name) and len(start) <= len(text) and text[: len(start)] == start
