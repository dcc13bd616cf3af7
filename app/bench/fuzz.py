"""Damaged capsule files: every case has to be refused by whoever reads capsules.

The format is told here once more, by itself, so that a mistake in the engine's own reading of it shows. Half of the
cases have their checksums made good again: only then does a reader meet what lies behind the first checksum.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_MAGIC, _VERSION, _LENGTH, _CHECKSUM, _JSON = 0, 8, 12, 16, 32
"""Where the parts of a file's head begin."""
_ALIGNMENT_BYTES = 4096
_ABSURD: tuple[Any, ...] = (
    -1,
    2**31,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**300,
    1.0,
    -0.5,
    1e308,
    True,
    None,
    "",
    "7",
    "\x00",
    "é",
    "f" * 33,
    "A" * 32,
    "x" * 70_000,
    [],
    [0],
    {},
    {"name": 1},
)

Case = tuple[str, bytes]
"""What was done, as `kind: details`, and the whole file after it."""
Table = dict[str, Any]


class Tally(NamedTuple):
    """What became of the cases of a kind."""

    kind: str
    cases: int
    let_through: list[str]


class File(NamedTuple):
    """A capsule's file, taken apart."""

    header: Table
    payload: bytes

    @classmethod
    def of(cls, data: bytes) -> File:
        """Take a file apart."""
        told = told_in(data)
        return cls(json.loads(told), data[_aligned(_JSON + len(told)) :])

    @property
    def regions(self) -> list[Table]:
        """The table."""
        return self.header["regions"]

    def region(self, name: str) -> Table:
        """An entry of the table."""
        return next(entry for entry in self.regions if entry["name"] == name)

    def content(self, entry: Table) -> bytes:
        """Bytes of a region."""
        return self.payload[entry["offset"] : entry["offset"] + entry["bytes"]]

    def with_header(self, **changes: Any) -> bytes:
        """The file with fields of the header replaced."""
        return sealed(_compact(self.header | changes), self.payload)

    def with_entry(self, place: int, **changes: Any) -> bytes:
        """The file with fields of an entry replaced."""
        regions = [entry | changes if index == place else entry for index, entry in enumerate(self.regions)]
        return self.with_header(regions=regions)

    def with_content(self, name: str, content: bytes) -> bytes:
        """The file with the bytes of a region replaced by as many others, and their checksum made good."""
        entry = self.region(name)
        checksum = hashlib.blake2b(content, digest_size=16).hexdigest()
        changed = File(self.header, _replaced(self.payload, entry["offset"], content))
        return changed.with_entry(self.regions.index(entry), checksum=checksum)


def cases(data: bytes, seed: int, samples: int = 300) -> Iterator[Case]:
    """Files made from a good one, none of which may be loaded.

    Args:
        data: The good file, with at least one token.
        seed: Of the choices where not everything can be tried.
        samples: How many choices there are, where it is so.
    """
    chance = np.random.default_rng(seed)
    made = itertools.chain(
        _flips(data, chance, samples),
        _truncations(data, chance, samples),
        _preambles(data),
        _payloads(data),
        _tables(File.of(data)),
        _values(File.of(data)),
        _notations(File.of(data)),
        _forgeries(File.of(data)),
        _splices(data, chance, samples),
    )
    # Two regions may have the same content, and a splice may put back what was there.
    return (case for case in made if case[1] != data)


def tally(made: Iterator[Case], refuses: Callable[[bytes], bool]) -> list[Tally]:
    """Count the cases by their kind, and name those that are not refused."""
    found: dict[str, Tally] = {}
    for name, data in made:
        kind = name.partition(":")[0]
        before = found.get(kind, Tally(kind, 0, []))
        let_through = before.let_through if refuses(data) else [*before.let_through, name]
        found[kind] = Tally(kind, before.cases + 1, let_through)
    return list(found.values())


def sealed(told: bytes, payload: bytes) -> bytes:
    """A file with this JSON, the checksum of which is right."""
    front = struct.pack("<8sII", b"\x89BTCAPS\n", 1, len(told))
    checksum = hashlib.blake2b(front + told, digest_size=16).digest()
    return (front + checksum + told).ljust(_aligned(_JSON + len(told)), b"\0") + payload


def told_in(data: bytes) -> bytes:
    """The JSON of a file."""
    (length,) = struct.unpack_from("<I", data, _LENGTH)
    return data[_JSON : _JSON + length]


def _flips(data: bytes, chance: np.random.Generator, samples: int) -> Iterator[Case]:
    """One bit each: of every byte of preamble and header, of some in the payload, and in what fills up."""
    file = File.of(data)
    told, start = told_in(data), len(data) - len(file.payload)
    bits = chance.integers(0, 8, len(data))
    for place in range(_JSON + len(told)):
        yield f"flip in the header: byte {place}", _flipped(data, place, int(bits[place]))
    for place in {_JSON + len(told), start - 1}:
        yield f"flip in the filling: byte {place}", _flipped(data, place, int(bits[place]))
    for place in range(len(told)):
        changed = _flipped(told, place, int(bits[place]))
        yield f"flip in the header, checksum made good: byte {place}", sealed(changed, file.payload)
    for entry in file.regions:
        first, size = start + entry["offset"], entry["bytes"]
        some = first + chance.integers(0, size, samples // len(file.regions))
        for place in (first, first + size - 1, *some.tolist()):
            yield f"flip in the payload: byte {place} of {entry['name']}", _flipped(data, place, int(bits[place]))
        filling = range(first + size, first + _aligned(size))
        for place in (filling.start, filling.stop - 1) if filling else ():
            yield f"flip in the filling: byte {place}", _flipped(data, place, int(bits[place]))


def _truncations(data: bytes, chance: np.random.Generator, samples: int) -> Iterator[Case]:
    file = File.of(data)
    start = len(data) - len(file.payload)
    edges = {0, _VERSION, _LENGTH, _CHECKSUM, _JSON, _JSON + len(told_in(data)), start, len(data)}
    for entry in file.regions:
        edges |= {start + entry["offset"], start + entry["offset"] + entry["bytes"]}
    near = {edge + step for edge in edges for step in (-1, 0, 1)}
    for length in sorted(near | set(chance.integers(0, len(data), samples).tolist())):
        if 0 <= length < len(data):
            yield f"truncation: {length} bytes are left", data[:length]
    for extra in (b"\0", b"x", b"\0" * _ALIGNMENT_BYTES, data):
        yield f"trailing bytes: {len(extra)}", data + extra


def _preambles(data: bytes) -> Iterator[Case]:
    for magic in (bytes(8), data[:7].lower() + b"\n", data[:7] + b"\r", b"PK\x03\x04" + bytes(4), b"GGUF\3\0\0\0"):
        yield f"magic: {magic!r}", _replaced(data, _MAGIC, magic)
    for version in (0, 2, 255, 2**31, 2**32 - 1):
        yield f"version: {version}", _replaced(data, _VERSION, struct.pack("<I", version))
    for length in (0, 1, len(told_in(data)) - 1, len(told_in(data)) + 1, len(data), 2**16, 2**31, 2**32 - 1):
        yield f"length of the header: {length}", _replaced(data, _LENGTH, struct.pack("<I", length))
    for name, whole in (("all zeros", bytes(len(data))), ("all ones", b"\xff" * len(data)), ("text", b"hello\n")):
        yield f"magic: {name}", whole


def _payloads(data: bytes) -> Iterator[Case]:
    """Regions of equal size take each other's place, and so do all blocks of the payload."""
    file = File.of(data)
    head = data[: len(data) - len(file.payload)]
    for one, other in itertools.combinations(file.regions, 2):
        if one["bytes"] == other["bytes"]:
            name = f"{one['name']} and {other['name']}"
            payload = _replaced(file.payload, one["offset"], file.content(other))
            payload = _replaced(payload, other["offset"], file.content(one))
            yield f"swap of payloads: {name}", head + payload
            yield (
                f"swap of payloads and entries: {name}",
                File(file.header, payload).with_header(
                    regions=_exchanged(
                        file.regions, one, other, ("name", "dtype", "unit", "first", "units", "checksum")
                    )
                ),
            )
    blocks = range(0, len(file.payload), _ALIGNMENT_BYTES)
    for one, other in itertools.pairwise(blocks):
        first = file.payload[one : one + _ALIGNMENT_BYTES]
        second = file.payload[other : other + _ALIGNMENT_BYTES]
        yield f"swap of blocks: {one} and {other}", head + _replaced(file.payload, one, second + first)
    for entry in file.regions:
        yield (
            f"lost region: {entry['name']} is zero",
            head + _replaced(file.payload, entry["offset"], bytes(entry["bytes"])),
        )


def _tables(file: File) -> Iterator[Case]:
    """Entries in another order, twice, or missing; the checksum of the header is right."""
    regions = file.regions
    for one, other in itertools.combinations(regions, 2):
        name = f"{one['name']} and {other['name']}"
        yield f"swap of entries: {name}", file.with_header(regions=_exchanged(regions, one, other, tuple(one)))
        for field in ("name", "checksum", "offset", "bytes", "units"):
            changed = _exchanged(regions, one, other, (field,))
            yield f"swap in the table: {field} of {name}", file.with_header(regions=changed)
    for place, entry in enumerate(regions):
        rest = regions[:place] + regions[place + 1 :]
        yield f"missing entry: {entry['name']}", file.with_header(regions=rest)
        yield f"entry twice: {entry['name']}", file.with_header(regions=[*regions[:place], entry, *regions[place:]])
        yield f"entry twice: {entry['name']} at the end", file.with_header(regions=[*regions, entry])
        yield f"unknown entry: instead of {entry['name']}", file.with_entry(place, name="unheard_of")
    yield "order: reversed", file.with_header(regions=regions[::-1])
    yield "order: rotated", file.with_header(regions=regions[1:] + regions[:1])
    yield "missing entry: all", file.with_header(regions=[])
    yield "entry twice: ten thousand times", file.with_header(regions=regions * 10_000)


def _values(file: File) -> Iterator[Case]:
    """Absurd values in every field; the checksum of the header is right."""
    for field, value in file.header.items():
        for absurd in (*_ABSURD, *_near(value)):
            yield f"absurd {field}: {_short(absurd)}", file.with_header(**{field: absurd})
    for place, entry in enumerate(file.regions):
        for field, value in entry.items():
            for absurd in (*_ABSURD, *_near(value)):
                yield f"absurd {field} of a region: {_short(absurd)}", file.with_entry(place, **{field: absurd})
    for part in file.header["parts"]:
        parts = file.header["parts"] | {part: "another"}
        digest = hashlib.blake2b(_compact(dict(sorted(parts.items()))), digest_size=16).hexdigest()
        yield f"foreign fingerprint: {part}", file.with_header(parts=parts, digest=digest)
        yield f"fingerprint that contradicts itself: {part}", file.with_header(parts=parts)


def _notations(file: File) -> Iterator[Case]:
    """The same or another header, told otherwise; the checksum of the header is right."""
    told = _compact(file.header)
    others = {
        "spaces": json.dumps(file.header).encode(),
        "a space at the end": told + b" ",
        "a byte order mark": b"\xef\xbb\xbf" + told,
        "another order of keys": _compact(dict(reversed(file.header.items()))),
        "a key twice": told[:-1] + b',"position":' + str(file.header["position"]).encode() + b"}",
        "an unknown key": told[:-1] + b',"more":0}',
        "an exponent": told.replace(b'"position":', b'"position":1e0', 1),
        "an escape": told.replace(b"kv", rb"\u006bv", 1),
        "no UTF-8": told.replace(b"kv", b"\xff\xfe", 1),
        "nothing": b"",
        "null": b"null",
        "an array": b"[" + told + b"]",
        "not a number": told.replace(b'"position":', b'"position":NaN,"p":', 1),
        "half of it": told[: len(told) // 2],
        "twice": told + told,
        "very deep arrays": b"[" * 30_000 + b"]" * 30_000,
        "very deep objects": b'{"parts":' * 6_000 + b"{}" + b"}" * 6_000,
        "deep arrays in a field": told.replace(b'"unit":', b'"unit":' + b"[" * 30_000, 1),
        "more than there may be": told.ljust(1 << 17),
    }
    for name, changed in others.items():
        yield f"notation: {name}", sealed(changed, file.payload)


def _forgeries(file: File) -> Iterator[Case]:
    """Contents that contradict each other, though every checksum is right."""
    tokens = np.frombuffer(file.content(file.region("journal")), np.int32)
    for place in sorted({0, len(tokens) // 2, len(tokens) - 1}):
        for token in (-1, 2**31 - 1, int(tokens[place]) ^ 1):
            changed = tokens.copy()
            changed[place] = token
            yield f"forged journal: token {place} is {token}", file.with_content("journal", changed.tobytes())
    lineage = file.content(file.region("lineage"))
    for place in (0, len(lineage) // 2, len(lineage) - 1):
        yield f"forged lineage: byte {place}", file.with_content("lineage", _flipped(lineage, place, 3))
    counters = np.frombuffer(file.content(file.region("counters")), np.int64)
    for position in (-1, 0, len(tokens) - 1, len(tokens) + 1, 2**62, -(2**63)):
        changed = counters.copy()
        changed[0] = position
        yield f"forged counters: position {position}", file.with_content("counters", changed.tobytes())


def _splices(data: bytes, chance: np.random.Generator, samples: int) -> Iterator[Case]:
    """A run of bytes left out, told twice, put elsewhere, or made zero."""
    for _ in range(samples):
        first, end, place = sorted(chance.integers(0, len(data), 3).tolist())
        run = data[first:end]
        yield f"splice: {first} to {end} left out", data[:first] + data[end:]
        yield f"splice: {first} to {end} once more at {place}", data[:place] + run + data[place:]
        yield f"splice: {first} to {end} over {place}", _replaced(data, place, run)[: len(data)]
        yield f"splice: {first} to {end} zero", _replaced(data, first, bytes(len(run)))


def _exchanged(regions: list[Table], one: Table, other: Table, fields: tuple[str, ...]) -> list[Table]:
    """A table in which two entries have exchanged some fields."""
    changes = {one["name"]: other, other["name"]: one}
    return [
        entry | {field: changes[entry["name"]][field] for field in fields} if entry["name"] in changes else entry
        for entry in regions
    ]


def _near(value: Any) -> tuple[Any, ...]:
    """Other values of the same kind."""
    if isinstance(value, int):
        return (value + 1, value - 1, value + _ALIGNMENT_BYTES, 2 * value + 1, 0)
    return (value[::-1], value[:-1], value * 2) if isinstance(value, str | list) else ()


def _compact(told: Table) -> bytes:
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False).encode()


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    return _replaced(data, place, bytes([data[place] ^ 1 << bit]))


def _replaced(data: bytes, place: int, content: bytes) -> bytes:
    return data[:place] + content + data[place + len(content) :]


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _short(value: Any) -> str:
    return repr(value)[:40]
