"""`backtalk capsule`: what a capsule's file says, whether it is whole, and what it was made with that is not here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app import models, wiring
from app.config import Config

if TYPE_CHECKING:
    from engine.fingerprint import Fingerprint
    from engine.header import Header


def show(path: Path) -> int:
    """Read a whole file, and print what is in it but the text itself.

    Returns:
        0; a damaged file is an error.

    Raises:
        StateError: It can't be read, or is damaged.
    """
    from engine import codec

    for line in _lines(path, codec.verify(path)):
        print(line)
    return 0


def diff(path: Path, other: Path | None, config: Config) -> int:
    """Print in words what two capsules were made with that is not the same.

    Args:
        path: A capsule.
        other: Another; None for what a capsule would be made with here.
        config: Says which model, where there is no other.

    Returns:
        0 if there is no difference, else 1.

    Raises:
        StateError: A file can't be read, or its header is damaged.
    """
    from engine import codec

    theirs = codec.read_header(path).fingerprint
    ours = codec.read_header(other).fingerprint if other else _configured(config)
    print(f"here is {other or f'{config.models.llm} as it is configured'}, there is {path}")
    differences = ours.difference(theirs)
    for difference in differences or ["no difference: where one fits, so does the other"]:
        print(f"  {difference}")
    return 1 if differences else 0


def _configured(config: Config) -> Fingerprint:
    engine = wiring.load_engine(config, models.resolve_llm(config.models.llm, offline=config.offline))
    try:
        return engine.fingerprint
    finally:
        engine.close()


def _lines(path: Path, header: Header) -> list[str]:
    width = max(len(name) for name in (*header.parts, *(entry.name for entry in header.regions)))
    size = sum(entry.bytes for entry in header.regions)
    return [
        f"{path}: whole, {header.position} tokens, {size:,} bytes of state",
        f"text         {header.lineage}",
        f"fingerprint  {header.digest}",
        *(f"  {name:<{width}}  {value}" for name, value in header.parts.items()),
        "regions",
        *(
            f"  {entry.name:<{width}}  {entry.bytes:>14,} bytes  {entry.units} units from {entry.first}, {entry.dtype}"
            for entry in header.regions
        ),
    ]
