"""What a store knows of a capsule, and what it tells about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from engine.capsule import Capsule
from engine.state import LINEAGE_BYTES, next_lineage


@dataclass(eq=False)
class Entry:
    """A capsule with a name.

    Attributes:
        name: Its key; empty if it is only known to hold memory.
        capsule: If it is evicted, it lies on disk only, and this is its text.
        pinned: It is never evicted.
        disposable: It is of a branch that lost, and goes before others.
        saved: It lies on disk.
        cost_tokens: What it costs to make again, in tokens read; None for those after its best ancestor.
        used: When it was last asked for; larger is later.
    """

    name: str
    capsule: Capsule
    pinned: bool = False
    disposable: bool = False
    saved: bool = False
    cost_tokens: int | None = None
    used: int = 0

    def let_go(self) -> Capsule:
        """Keep the text only; the capsule that was held until now."""
        capsule = self.capsule
        self.capsule = dataclasses.replace(capsule, segments={}, borrowed=frozenset(), copies=())
        return capsule


class Evicted(NamedTuple):
    """A capsule that had to go from memory."""

    name: str
    capsule: Capsule
    """Its tokens and seed, for `Lane.rebuild`; the memory is gone."""
    saved: bool
    """It lies on disk, so its name is still good."""


class Match(NamedTuple):
    """A capsule whose text is the start of another."""

    name: str
    capsule: Capsule
    tokens: int
    """How many of the text's tokens it holds: all of its own."""


class Row(NamedTuple):
    """What a store reports of one capsule."""

    name: str
    position: int
    bytes: int
    """In memory, what it shares with others included; 0 if it is on disk only."""
    own_bytes: int
    """Those that nobody else holds."""
    saved: bool
    pinned: bool
    disposable: bool


@dataclass
class StoreCounters:
    """How often each thing happened in a store."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    refusals: int = 0
    """Files that could not be believed, and room that could not be made."""
    spills: int = 0
    loads: int = 0
    joins: int = 0
    """Capsules whose chains were shortened."""


def matching(entries: Collection[Entry], text: list[int]) -> list[Entry]:
    """Those whose tokens are the start of a text: the longest first, of these what is in memory, and was used last."""
    most = max((entry.capsule.position for entry in entries), default=0)
    starts: set[bytes] = set()
    digest = bytes(LINEAGE_BYTES)
    for token in text[:most]:
        digest = next_lineage(digest, token)
        starts.add(digest)
    # The digest finds them quickly, the tokens decide.
    found = [
        entry
        for entry in entries
        if entry.capsule.lineage in starts and entry.capsule.tokens == text[: entry.capsule.position]
    ]
    found.sort(key=lambda entry: (entry.capsule.position, not entry.capsule.evicted, entry.used), reverse=True)
    return found
