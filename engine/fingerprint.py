"""What a state must have been made with so that it means the same here, bit for bit: in named parts, so that two can
be told apart in words.

The longest text a lane can hold is no part of it: a capsule goes into any context that has room for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Protocol

import torch

from engine.arena import CHUNK_TOKENS, Live, Region
from engine.backends.rows import RowPlan
from engine.spec import ModelSpec
from engine.state import declare
from engine.weights.checkpoint import Checkpoint

DIGEST_BYTES = 16

_SOURCES = (("models", ""), ("backends", "cpu"))
"""Packages of the engine, and how the names of their modules that compute begin."""
_FEATURES = ("amx", "avx512", "avx_vnni", "bf16", "i8mm", "sve")
"""How flags of /proc/cpuinfo begin that decide which kernels the matrix libraries choose."""
_IDENTITY = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
"""Fields of /proc/cpuinfo that tell the class of a processor: the first three on x86, the others on ARM."""

_WORDS = {
    "weights": "the weights are others",
    "shape": "the model's {item} is {here} here and {there} there",
    "format": "weights are kept as {here} here and as {there} there",
    "numbers": "products are computed in {here} here and in {there} there",
    "layout": "the state's region {item} is {here} here and {there} there",
    "kernels": "the code that computes is of another version",
    "calls": "of how rows are put into calls, {item} is {here} here and {there} there",
    "torch": "torch is {here} here and {there} there",
    "processor": "the processor's {item} is {here} here and {there} there",
    "threads": "products use {here} threads here and {there} there",
    "sample": "reading the same text gave other bits when the model was loaded",
}
_OTHER_WORDS = "its part {part} is {here} here and {there} there"


class Computing(Protocol):
    """What the fingerprint has to know of a loaded model."""

    @property
    def weight_format(self) -> str:
        """fp32, bf16 or int4."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        ...

    @property
    def rows(self) -> RowPlan:
        """How rows are put into calls."""
        ...

    @property
    def sample(self) -> str:
        """A digest of what it made of a text when it was loaded."""
        ...


@dataclasses.dataclass(frozen=True)
class Fingerprint:
    """What a state was made with.

    Attributes:
        parts: Name to value. A value that consists of items has them as `item=value`, separated by spaces.
    """

    parts: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """BLAKE2b-128 over all parts, in hexadecimal."""
        canonical = json.dumps(dict(self.parts), sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES).hexdigest()

    def difference(self, other: Fingerprint) -> list[str]:
        """What is different, in words; this fingerprint is `here`, the other one `there`. Empty if they are equal."""
        names = sorted(self.parts.keys() | other.parts.keys(), key=_place)
        return [words for name in names for words in _differences(name, self.parts.get(name), other.parts.get(name))]

    def __hash__(self) -> int:
        return hash(self.digest)


def of(checkpoint: Checkpoint, model: Computing, threads: int) -> Fingerprint:
    """The fingerprint of the states that a loaded model makes. Reads all weights, for their digest.

    Args:
        checkpoint: Where the weights are from.
        model: The same, as it computes.
        threads: Of a product.
    """
    rows = model.rows
    return Fingerprint(
        {
            "weights": checkpoint.digest(),
            "shape": _shape(checkpoint.spec),
            "format": model.weight_format,
            "numbers": _name(model.dtype),
            "layout": layout(declare(checkpoint.spec, CHUNK_TOKENS, model.dtype)),
            "kernels": _kernels(),
            "calls": f"chunk={CHUNK_TOKENS} most={rows.most} step={rows.step}",
            "torch": str(torch.__version__),
            "processor": processor(),
            "threads": str(threads),
            # What the rest can't tell: a setting of the environment by which a library computes otherwise.
            "sample": model.sample,
        }
    )


def layout(regions: Iterable[Region]) -> str:
    """The regions that a capsule carries, as items; what grows with the capacity is a star."""
    items: list[str] = []
    for region in regions:
        if not region.derived:
            first = "*" if region.live is Live.PREFIX else str(region.shape[0])
            shape = ",".join([first, *map(str, region.shape[1:])])
            units = f"{region.row_units}@{region.unit_axis}"
            items.append(f"{region.name}={region.live.value}:{_name(region.dtype)}[{shape}]:{units}:{region.window}")
    return " ".join(items)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The class of this machine's processor, as items: what decides which kernels are chosen and how they round."""
    text = cpuinfo.read_text("ascii", "ignore") if cpuinfo.exists() else ""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = (fields.get("flags") or fields.get("Features", "")).split()
    identity = [fields[key] for key in _IDENTITY if key in fields] or [platform.processor()]
    items = {
        "machine": platform.machine(),
        "class": "/".join(identity),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "features": "+".join(sorted(flag for flag in flags if flag.startswith(_FEATURES))) or "none",
    }
    return " ".join(f"{item}={value.replace(' ', '_')}" for item, value in items.items())


def _shape(spec: ModelSpec) -> str:
    """The model's shape as items. How long a text it was trained for changes no bit of a state."""
    items = {key: value for key, value in dataclasses.asdict(spec).items() if key != "context_tokens"}
    delta = items.pop("delta")
    items |= {f"delta_{key}": value for key, value in (delta or {}).items()}
    return " ".join(f"{item}={value}" for item, value in items.items())


def _kernels() -> str:
    """Digest of the text of the modules that compute."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for package, prefix in _SOURCES:
        room = resources.files("engine") / package
        modules = {entry.name: entry for entry in room.iterdir() if entry.name.endswith(".py")}
        for name in sorted(modules):
            if name.startswith(prefix):
                text = modules[name].read_bytes()
                digest.update(f"{package}/{name} {len(text)};".encode())
                digest.update(text)
    return digest.hexdigest()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _place(part: str) -> tuple[int, str]:
    known = list(_WORDS)
    return (known.index(part) if part in known else len(known), part)


def _differences(part: str, here: str | None, there: str | None) -> Iterable[str]:
    """Words for a part; for each of its items that differs, if the part consists of items."""
    if here == there:
        return
    words = _WORDS.get(part, _OTHER_WORDS)
    if "{item}" not in words:
        yield words.format(part=part, here=here or "absent", there=there or "absent")
        return
    ours, theirs = _items(here), _items(there)
    differing = [item for item in ours | theirs if ours.get(item) != theirs.get(item)]
    if not differing:
        yield f"the {part} is told otherwise"
    for item in differing:
        yield words.format(item=item, here=ours.get(item, "absent"), there=theirs.get(item, "absent"))


def _items(value: str | None) -> dict[str, str]:
    pairs = (item.partition("=") for item in (value or "").split())
    return {item: told for item, _, told in pairs}
