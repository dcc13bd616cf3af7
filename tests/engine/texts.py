"""Capsules of any text, no model needed: the bytes of a state are drawn from a seed, and its text is told."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine import capsule as capsules
from engine.capsule import Capsule
from engine.copier import copy_bytes
from engine.errors import PoolFull
from engine.pool import Pool
from engine.store import Store
from tests.engine.states import CAPACITY, FINGERPRINT, SPEC, expected, filled, taken

EXPECTED = expected(filled(0))
ROOM = 40_000
"""Bytes of a pool with room for two capsules of 100 tokens, and not for three."""


def text(tokens: int, seed: int = 1) -> list[int]:
    """Some tokens. Texts of different seeds differ from the first one on."""
    return [(seed + place * seed * 3) % SPEC.vocabulary for place in range(tokens)]


def capsule_of(pool: Pool, tokens: Sequence[int], parent: Capsule | None = None, seed: int = 0) -> Capsule:
    """A capsule of a text, a delta of the parent if there is one: then the text has to begin with the parent's."""
    state = filled(0, seed=seed)
    if parent is not None:
        for target, source in capsules.plan_restore(state, FINGERPRINT, parent):
            copy_bytes(target, source)
    assert list(tokens[: state.position]) == state.journal()
    state.commit(tokens[state.position :])
    return taken(state, pool, parent)


def chain_in(pool: Pool, positions: Sequence[int]) -> list[Capsule]:
    """Capsules of one text at some positions, each the next one's parent."""
    chain: list[Capsule] = []
    for position in positions:
        chain.append(capsule_of(pool, text(CAPACITY)[:position], chain[-1] if chain else None))
    return chain


def sizes_of(tokens: Sequence[int]) -> list[int]:
    """The pieces of memory that a capsule of a text takes."""
    try:
        capsule_of(Pool(0), tokens)
    except PoolFull as error:
        return list(error.sizes_bytes)
    raise AssertionError("a pool of nothing has room for something")


def put(store: Store, pool: Pool, name: str, seed: int, tokens: int = 100, **how: bool) -> str:
    """Keep a capsule of a text; its digest."""
    capsule = store.with_room(lambda: capsule_of(pool, text(tokens, seed), seed=seed))
    store.put(name, capsule, **how)
    return capsule.digest()


def digest(store: Store, name: str) -> str:
    """The digest of what has a name."""
    capsule = store.get(name)
    assert capsule is not None
    return capsule.digest()


def file_of(store: Store, tmp_path: Path, name: str) -> Path:
    """Save a capsule of a store in `tmp_path / "capsules"`; the file."""
    store.save(name)
    return tmp_path / "capsules" / f"{name}.capsule"


def flip(path: Path, place: int) -> None:
    """Change one bit of a file; a negative place is counted from its end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
