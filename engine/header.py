"""The header of a capsule's file: what it says, how it lies in the file, and every way in which it can't be true.

    magic, version, length of the JSON, checksum of these and of the JSON    32 bytes, little-endian
    JSON                                                                     in the one way to write this header
    the regions, in the order of the registry, each at a multiple of 4096 bytes

What fills up to the next multiple is zero, so there is no byte in a file that could be another.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import msgspec

from engine.arena import Live, Region
from engine.fingerprint import Fingerprint

MAGIC = b"\x89BTCAPS\n"
"""The first byte is in no text, and the last is changed where line ends are."""
VERSION = 1
ALIGNMENT_BYTES = 4096
PREAMBLE = struct.Struct("<8sII16s")
MAX_JSON_BYTES = 1 << 16
CHECKSUM_BYTES = 16

_DAMAGED = "Delete the file, and take the capsule again"
_NO_CHECKSUM = "0" * 2 * CHECKSUM_BYTES

_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
_Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9_]{1,64}\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
_Part = Annotated[str, msgspec.Meta(pattern=r"\A[ -~]{0,4096}\Z")]


class Refused(Exception):
    """A file that is not what it should be."""

    def __init__(self, why: str, fix: str = _DAMAGED) -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A region in the table."""

    name: _Name
    dtype: _Name
    unit: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=16)]
    """Shape of a unit."""
    first: _Count
    """The first of the units that are live at the position."""
    units: _Count
    offset: _Count
    """Where it begins, in bytes after the head."""
    bytes: _Count
    checksum: _Digest
    """BLAKE2b-128 of its bytes."""

    @property
    def end(self) -> int:
        """Where it ends, what fills it up included."""
        return aligned(self.offset + self.bytes)


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file says of the capsule in it."""

    parts: Annotated[dict[_Name, _Part], msgspec.Meta(max_length=64)]
    """Of the fingerprint."""
    digest: _Digest
    """Of the fingerprint."""
    position: _Count
    lineage: _Digest
    regions: Annotated[tuple[Entry, ...], msgspec.Meta(max_length=64)]

    @property
    def fingerprint(self) -> Fingerprint:
        """What the capsule fits."""
        return Fingerprint(self.parts)

    @property
    def payload_bytes(self) -> int:
        """Size of all that follows the head."""
        return self.regions[-1].end if self.regions else 0


class Expected(NamedTuple):
    """What a capsule has to be to fit an engine."""

    fingerprint: Fingerprint
    regions: tuple[Region, ...]
    """The registry, as declared for the capacity."""
    capacity_tokens: int
    vocabulary: int


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Header)


def aligned(size_bytes: int) -> int:
    """Rounded up to where a region may begin."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def table(regions: Iterable[Region], position: int) -> Iterator[Entry]:
    """The entries of all regions of which something is live at a position, their checksums still zero."""
    offset = 0
    for region in regions:
        units, size = region.units(position), region.live_bytes(position)
        if size and not region.derived:
            dtype = str(region.dtype).removeprefix("torch.")
            unit = _unit_shape(region)
            yield Entry(region.name, dtype, unit, units.start, len(units), offset, size, _NO_CHECKSUM)
            offset = aligned(offset + size)


def pack(header: Header) -> bytes:
    """The head of a file: preamble, JSON, and zeros up to the first region."""
    told = _encoder.encode(header)
    assert len(told) <= MAX_JSON_BYTES, "a registry or fingerprint larger than any file may say"
    head = PREAMBLE.pack(MAGIC, VERSION, len(told), _checksum(len(told), told)) + told
    return head.ljust(aligned(len(head)), b"\0")


def json_bytes(preamble: bytes) -> int:
    """The length of the JSON, from the first bytes of a file.

    Raises:
        Refused: It is no capsule, or of another version.
    """
    if len(preamble) < PREAMBLE.size or not preamble.startswith(MAGIC):
        raise Refused("it is not a capsule", "Name a file that a capsule was saved in")
    _, version, length, _ = PREAMBLE.unpack(preamble)
    if version != VERSION:
        raise Refused(
            f"it is written in version {version} of the format, and this build reads version {VERSION}",
            "Use the version of backtalk that made it, or delete it",
        )
    if length > MAX_JSON_BYTES:
        raise Refused(f"its header claims {length} bytes, and none has more than {MAX_JSON_BYTES}")
    return length


def unpack(preamble: bytes, told: bytes, file_bytes: int) -> Header:
    """The header of a file of some size, as far as it can be judged by itself.

    Raises:
        Refused: It is damaged, or contradicts itself or the size of the file.
    """
    if PREAMBLE.unpack(preamble)[3] != _checksum(len(told), told):
        raise Refused("its header is damaged: the checksum is another")
    try:
        header = _decoder.decode(told)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The message may repeat what the file says, and is going to a terminal.
        told_of = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        raise Refused(f"its header can't be read: {told_of}") from error
    if _encoder.encode(header) != told:
        raise Refused("its header is not written as this format has it")
    if header.fingerprint.digest != header.digest:
        raise Refused("the digest of its fingerprint is not that of its parts")
    offset = 0
    for entry in header.regions:
        if entry.offset != offset:
            raise Refused(f"its region {entry.name} lies at {entry.offset} instead of {offset}")
        offset = entry.end
    expected = aligned(PREAMBLE.size + len(told)) + header.payload_bytes
    if expected != file_bytes:
        problem = "cut short" if file_bytes < expected else "too long"
        raise Refused(f"it is {problem}: {file_bytes} bytes instead of {expected}")
    return header


def check(header: Header, expected: Expected) -> None:
    """That a capsule fits an engine.

    Raises:
        Refused: It is of another model, version or machine, too long, or its table is not that of the registry.
    """
    differences = expected.fingerprint.difference(header.fingerprint)
    if differences:
        raise Refused(
            f"it does not fit: {'; '.join(differences[:3])}",
            "Load it with what it was made with, or read its text again. Both sides: backtalk capsule diff FILE",
        )
    if header.position > expected.capacity_tokens:
        raise Refused(
            f"it holds {header.position} tokens, and this context has room for {expected.capacity_tokens}",
            "Load the engine with a larger context_tokens",
        )
    wanted = list(table(expected.regions, header.position))
    for place, (entry, want) in enumerate(zip(header.regions, wanted, strict=False)):
        if entry.name != want.name:
            raise Refused(f"region {place} is {entry.name} where {want.name} has to be")
        if msgspec.structs.replace(entry, checksum=_NO_CHECKSUM) != want:
            raise Refused(f"its region {entry.name} is not of the size or place that the registry says")
    if len(header.regions) != len(wanted):
        raise Refused(f"it has {len(header.regions)} regions instead of {len(wanted)}")


def _unit_shape(region: Region) -> tuple[int, ...]:
    if region.live is Live.ALWAYS:
        return region.shape
    row = region.shape[1:]
    return row if region.row_units == 1 else row[: region.unit_axis] + row[region.unit_axis + 1 :]


def _checksum(length: int, told: bytes) -> bytes:
    front = struct.pack("<8sII", MAGIC, VERSION, length)
    return hashlib.blake2b(front + told, digest_size=CHECKSUM_BYTES).digest()
