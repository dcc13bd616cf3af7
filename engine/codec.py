"""Capsules as files: written whole or not at all, and believed only as far as they can be checked.

A file holds what the user said, so nobody else may read it. `header.py` says how it is laid out. Bytes go between it
and the memory of the capsule, some at a time: there is no second copy of a state. Nor is a file mapped into memory: one
that somebody cuts short while it is mapped ends the process.

Checksums find damage. They are no signature: whoever may write the file can put another state into it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from engine import header as heads
from engine.capsule import Capsule, Segment, Segments
from engine.errors import StateError
from engine.header import CHECKSUM_BYTES, PREAMBLE, Entry, Expected, Header, Refused
from engine.pool import Pool
from engine.state import LINEAGE_BYTES, POSITION, SEED, next_lineage

__all__ = ["Expected", "Header", "load", "load_text", "read_header", "save", "verify"]

SLICE_BYTES = 1 << 20
"""What is moved at a time, so that its checksum is made while it is in the processor's cache."""
UNFINISHED = ".part"
"""How the names of files end that are still being written, or were when that was interrupted."""
_TEXT = ("journal", "lineage", "counters")
"""Regions that tell what a capsule can be made again from."""

Allocate = Callable[[Sequence[int]], list[Tensor]]
"""Memory of several sizes, uint8."""


def save(capsule: Capsule, path: str | os.PathLike[str]) -> None:
    """Write a capsule into a file that only the user can read. It is on the disk when this returns.

    The file stands alone, also where the capsule shares memory with another. A file that is there is replaced, and
    stays what it was if this fails.

    Raises:
        StateError: It can't be written, or the capsule was evicted.
    """
    target = Path(path)
    with _told(target, "written"):
        _save(capsule, capsule.wait(), target)


def load(path: str | os.PathLike[str], expected: Expected, pool: Pool) -> Capsule:
    """Read a capsule into the memory of a pool.

    Args:
        path: The file.
        expected: What the capsule has to fit.
        pool: Where it is put.

    Raises:
        StateError: The file can't be read, is damaged, or does not fit. No memory is kept.
        PoolFull: The pool has no room for it.
    """
    with _told(Path(path), "loaded"):
        return _load(Path(path), expected, pool.allocate_all)


def load_text(path: str | os.PathLike[str], expected: Expected) -> Capsule:
    """Read the tokens and the seed of a capsule, as they are left when it is evicted. Nothing else is read.

    Raises:
        StateError: The file can't be read, is damaged as far as that, or does not fit.
    """
    with _told(Path(path), "read"):
        capsule = _load(Path(path), expected, _allocate_anywhere, _TEXT)
        capsule.evict()
        return capsule


def read_header(path: str | os.PathLike[str]) -> Header:
    """What a file says of the capsule in it. The regions themselves are not read.

    Raises:
        StateError: The file can't be read, or is damaged.
    """
    with _told(Path(path), "read"), _opened(Path(path)) as file:
        return _read_header(file)


def verify(path: str | os.PathLike[str]) -> Header:
    """`read_header`, and that every byte of the file is as it was written.

    Raises:
        StateError: The file can't be read, or is damaged.
    """
    with _told(Path(path), "read"), _opened(Path(path)) as file:
        header = _read_header(file)
        scratch = torch.empty(SLICE_BYTES, dtype=torch.uint8)
        for entry in header.regions:
            sizes = (min(SLICE_BYTES, entry.bytes - done) for done in range(0, entry.bytes, SLICE_BYTES))
            _read_region(file, entry, (scratch[:size] for size in sizes))
        return header


def _save(capsule: Capsule, chains: Segments, path: Path) -> None:
    _require_little_endian()
    regions = (chain[-1].region for chain in chains.values() if chain)
    header = Header(
        parts=dict(capsule.fingerprint.parts),
        digest=capsule.fingerprint.digest,
        position=capsule.position,
        lineage=capsule.lineage.hex(),
        regions=tuple(heads.table(regions, capsule.position)),
    )
    # Made beside the target, so that it can take its place at once, and readable by nobody else from the start.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            # Checksums are known last, and all are equally long: so the head is written again, over itself.
            file.write(heads.pack(header))
            written = tuple(_write_region(file, entry, chains[entry.name]) for entry in header.regions)
            file.seek(0)
            file.write(heads.pack(msgspec.structs.replace(header, regions=written)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_region(file: io.BufferedWriter, entry: Entry, chain: Sequence[Segment]) -> Entry:
    """Write the bytes of a region and what fills them up; its entry with the checksum."""
    checksum = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    written = 0
    for part in _in_one_run(chain):
        content = part.numpy().data
        checksum.update(content)
        written += file.write(content)
    assert written == entry.bytes, f"the capsule's {entry.name} is not what the registry says"
    file.write(bytes(entry.end - entry.offset - entry.bytes))
    return msgspec.structs.replace(entry, checksum=checksum.hexdigest())


def _in_one_run(chain: Sequence[Segment]) -> Iterator[Tensor]:
    """The bytes of all segments of a region, uint8, as if they had been taken in one."""
    if len(chain) <= 1:
        for segment in chain:
            yield from segment.memory.split(SLICE_BYTES)
        return
    # The last one was taken where there was room for all units. One before it may be of a shorter context.
    region, stop = chain[-1].region, chain[-1].units.stop
    # Whole rows, so that they lie here as they do in a single run.
    step = region.row_units * max(1, SLICE_BYTES // (region.row_units * region.unit_bytes))
    for first in range(chain[0].units.start, stop, step):
        units = range(first, min(first + step, stop))
        memory = torch.empty(len(units) * region.unit_bytes, dtype=torch.uint8)
        for segment in chain:
            part = range(max(first, segment.units.start), min(units.stop, segment.units.stop))
            targets = region.packed_pieces(memory, units, part)
            for target, source in zip(
                targets, segment.region.packed_pieces(segment.memory, segment.units, part), strict=True
            ):
                target.copy_(source)
        yield memory


def _load(path: Path, expected: Expected, allocate: Allocate, names: Collection[str] | None = None) -> Capsule:
    """Read the regions of some names, or all."""
    with _opened(path) as file:
        header = _read_header(file)
        heads.check(header, expected)
        start_bytes = file.tell()
        entries = [entry for entry in header.regions if names is None or entry.name in names]
        memories = allocate([entry.bytes for entry in entries])
        regions = {region.name: region for region in expected.regions if not region.derived}
        chains: dict[str, tuple[Segment, ...]] = dict.fromkeys(regions, ())
        for entry, memory in zip(entries, memories, strict=True):
            file.seek(start_bytes + entry.offset)
            _read_region(file, entry, memory.split(SLICE_BYTES))
            region = regions[entry.name]
            chains[entry.name] = (Segment(region, region.units(header.position), memory),)
    tokens = _read_tokens(header, chains, expected.vocabulary)
    (counters,) = chains["counters"]
    position, seed = (int(counters.memory.view(torch.int64)[place]) for place in (POSITION, SEED))
    if position != header.position:
        raise Refused(f"its counters stand at {position} tokens, and its header says {header.position}")
    return Capsule(expected.fingerprint, position, tokens, seed, bytes.fromhex(header.lineage), chains)


def _allocate_anywhere(sizes_bytes: Sequence[int]) -> list[Tensor]:
    return [torch.empty(size_bytes, dtype=torch.uint8) for size_bytes in sizes_bytes]


def _read_tokens(header: Header, chains: Segments, vocabulary: int) -> list[int]:
    """The journal, if it is of this vocabulary and the digests of the text follow from it."""
    tokens: list[int] = []
    told = b""
    for segment in chains["journal"]:
        tokens = segment.memory.view(torch.int32).tolist()
    for segment in chains["lineage"]:
        told = segment.memory.numpy().tobytes()
    lineage = bytes(LINEAGE_BYTES)
    for place, token in enumerate(tokens):
        if not 0 <= token < vocabulary:
            raise Refused(f"its token {place} is {token}, and the model has {vocabulary} tokens")
        lineage = next_lineage(lineage, token)
        if told[place * LINEAGE_BYTES : (place + 1) * LINEAGE_BYTES] != lineage:
            raise Refused(f"the digest of its text up to token {place} is not that of the tokens")
    if lineage.hex() != header.lineage:
        raise Refused("the digest of its text in the header is not that of the tokens")
    return tokens


@contextlib.contextmanager
def _opened(path: Path) -> Generator[io.FileIO]:
    """An ordinary file, open for reading."""
    _require_little_endian()
    try:
        # Not blocking: a pipe would be waited for before it could be told from a file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused("it is a symbolic link", "Name the file that it leads to") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refused("it is not an ordinary file", "Name a file that a capsule was saved in")
    with io.FileIO(descriptor) as file:
        yield file


def _read_header(file: io.FileIO) -> Header:
    size = os.fstat(file.fileno()).st_size
    preamble = _read(file, min(size, PREAMBLE.size))
    told = _read(file, heads.json_bytes(preamble))
    header = heads.unpack(preamble, told, size)
    _read_zeros(file, heads.aligned(file.tell()) - file.tell())
    return header


def _read_region(file: io.FileIO, entry: Entry, slices: Iterable[Tensor]) -> None:
    """Read a region into its memory, some bytes after the other."""
    checksum = hashlib.blake2b(digest_size=CHECKSUM_BYTES)
    for part in slices:
        content = part.numpy().data
        _read_into(file, content)
        checksum.update(content)
    _require_checksum(entry, checksum.hexdigest())
    _read_zeros(file, entry.end - entry.offset - entry.bytes)


def _require_checksum(entry: Entry, found: str) -> None:
    if found != entry.checksum:
        raise Refused(f"its region {entry.name} is damaged: the checksum is another")


def _read_zeros(file: io.FileIO, count: int) -> None:
    if any(_read(file, count)):
        raise Refused("there is something where nothing has to be")


def _read(file: io.FileIO, count: int) -> bytes:
    content = bytearray(count)
    _read_into(file, memoryview(content))
    return bytes(content)


def _read_into(file: io.FileIO, target: memoryview) -> None:
    while target:
        count = file.readinto(target)
        if not count:
            raise Refused("it is cut short")
        target = target[count:]


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise Refused("numbers lie the other way round on this machine", "Use a little-endian machine")


@contextlib.contextmanager
def _told(path: Path, done: str) -> Generator[None]:
    """Tells what goes wrong inside as a StateError."""
    try:
        yield
    except Refused as error:
        # What was staged is free at once, and not when everybody has forgotten the error.
        traceback.clear_frames(error.__traceback__)
        raise StateError(f"the capsule {path} can't be {done}", error.why, error.fix) from error
    except OSError as error:
        traceback.clear_frames(error.__traceback__)
        raise StateError(
            f"the capsule {path} can't be {done}",
            error.strerror or str(error),
            "Check the path, its permissions, and the room on the disk",
        ) from error
