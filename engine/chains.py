"""Shorter chains: what is always held together becomes one segment, for all that hold it.

A chain that lost its ancestors is many small segments, and nobody needs their borders any more. Where somebody does,
because he holds what comes before one and not what comes after it, it stays. So nothing is ever kept twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from engine.capsule import Capsule, Segment

Run = tuple[Segment, ...]
"""Neighbours in the chain of one region."""


def segments_of(capsule: Capsule) -> frozenset[Segment]:
    """All that a capsule holds."""
    return frozenset(segment for chain in capsule.segments.values() for segment in chain)


def bytes_of(segments: Iterable[Segment]) -> int:
    """What segments weigh."""
    return sum(segment.memory.nbytes for segment in segments)


def find_runs(capsule: Capsule, living: Iterable[Capsule]) -> list[Run]:
    """Runs of two or more segments of a capsule that are held by the same capsules.

    Args:
        capsule: Whose chains are to be shorter.
        living: All capsules that hold memory, this one among them.
    """
    held = [segments_of(one) for one in living]

    def holders(segment: Segment) -> list[int]:
        return [place for place, segments in enumerate(held) if segment in segments]

    runs = (tuple(run) for chain in capsule.segments.values() for _, run in groupby(chain, holders))
    return [run for run in runs if len(run) > 1]


def replace(capsule: Capsule, run: Run, whole: Segment) -> None:
    """Let a capsule hold one segment instead of a run, if it holds that. Its bytes stay what they are."""
    name = whole.region.name
    chain = capsule.segments.get(name, ())
    if run[0] in chain:
        place = chain.index(run[0])
        capsule.segments = {**capsule.segments, name: (*chain[:place], whole, *chain[place + len(run) :])}
        borrowed = capsule.borrowed.difference(run)
        capsule.borrowed = borrowed | {whole} if capsule.borrowed.issuperset(run) else borrowed
