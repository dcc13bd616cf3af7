"""WAV files: read any common form as mono float at a wanted rate, write 16-bit.

The standard library's reader knows neither float samples nor damaged headers well enough to explain them, so the few
chunks of a RIFF file are read here. Format: Microsoft, "Multiple Channel Audio Data and WAVE Files", 2001.
"""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.errors import WavError
from audio.frame import Samples

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_UNKNOWN_BYTES = 0xFFFFFFFF  # a streaming writer that could not go back to its header leaves this
_MAX_FILE_BYTES = 1 << 30
_MAX_DATA_BYTES = _UNKNOWN_BYTES - 64  # what the 32-bit sizes of a header can name
_MAX_CHANNELS = 64
_HZ_RANGE = (1_000, 768_000)


class Format(NamedTuple):
    """How the samples of a file are stored."""

    is_float: bool
    channels: int
    rate_hz: int
    bits: int


def read_wav(path: Path, rate_hz: int) -> Samples:
    """Read a WAV file as mono.

    8-, 16-, 24- and 32-bit integers and 32- and 64-bit floats of any channel count are read; channels are averaged.

    Args:
        path: The file, at most 1 GiB.
        rate_hz: The rate wanted; other rates are resampled (soxr, high quality).

    Returns:
        float32[n], -1..1 for integer files. Empty for a file without samples.

    Raises:
        WavError: The file is missing, is no WAV, is cut short, or has a header that makes no sense.
    """
    form, data = _parse(_load(path), path)
    channels = _decode(data, form).reshape(-1, form.channels)
    mono = channels.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise _unreadable(path, "some of its samples are not finite numbers")
    if form.rate_hz == rate_hz or not mono.size:
        return mono
    return soxr.resample(mono, form.rate_hz, rate_hz).astype(np.float32, copy=False)


def write_wav(path: Path, samples: NDArray[np.float32], rate_hz: int) -> None:
    """Write 16-bit sound; the file appears under its name only when it is complete.

    Args:
        path: Where to.
        samples: float32[n] mono or float32[n, channels], -1..1; what lies outside is clipped.
        rate_hz: Its rate.

    Raises:
        WavError: The file can't be written.
    """
    with _PartFile(path, channels=1 if samples.ndim == 1 else samples.shape[1], rate_hz=rate_hz) as part:
        part.write(samples)


class StereoWriter:
    """A growing stereo file: 16 bits, written under `NAME.part` and renamed when it is closed.

    Left as a context by an exception, it keeps what was written so far: a recording of a dialogue that failed is the
    one that matters. After a kill, `NAME.part` still holds all samples that reached the disk.

    Raises:
        WavError: The file can't be written (from the constructor, `write` and `close`).
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        self._part = _PartFile(path, channels=2, rate_hz=rate_hz)

    def write(self, left: Samples, right: Samples) -> None:
        """Append float32[n] of each side, -1..1."""
        self._part.write(np.stack([left, right], axis=1))

    def close(self) -> None:
        """Complete the header and give the file its name. A second call does nothing."""
        self._part.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _PartFile:
    """A 16-bit file in the making, next to its final place so that the rename is atomic."""

    def __init__(self, path: Path, channels: int, rate_hz: int) -> None:
        self._path = path
        self._part_path = path.with_name(path.name + ".part")
        self._channels, self._rate_hz = channels, rate_hz
        self._data_bytes = 0
        try:
            self._file: BinaryIO | None = self._part_path.open("wb")
            self._file.write(_header(channels, rate_hz, data_bytes=0))
        except OSError as error:
            raise _unwritable(path, error) from error

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append float32[n] or float32[n, channels]."""
        assert self._file is not None, "written to after close"
        data = to_int16(samples).astype("<i2", copy=False).tobytes()
        if self._data_bytes + len(data) > _MAX_DATA_BYTES:
            raise WavError(f"{self._path} can't grow further", "a WAV file holds at most 4 GiB", "record in parts")
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self._path, error) from error
        self._data_bytes += len(data)

    def close(self) -> None:
        if self._file is None:
            return
        try:
            with self._file as file:
                self._file = None
                file.seek(0)
                file.write(_header(self._channels, self._rate_hz, self._data_bytes))
                file.flush()
                os.fsync(file.fileno())
            self._part_path.replace(self._path)
        except OSError as error:
            self.discard()
            raise _unwritable(self._path, error) from error

    def discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # closing tries once more to write what did not fit
                self._file.close()
            self._file = None
        self._part_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """float32 of any shape, -1..1, to 16 bits; values outside are clipped. Inverse of what `read_wav` does."""
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def _header(channels: int, rate_hz: int, data_bytes: int) -> bytes:
    frame_bytes = 2 * channels
    form = struct.pack("<HHIIHH", _PCM, channels, rate_hz, rate_hz * frame_bytes, frame_bytes, 16)
    return (
        struct.pack("<4sI4s4sI", b"RIFF", 36 + data_bytes, b"WAVE", b"fmt ", 16)
        + form
        + struct.pack("<4sI", b"data", data_bytes)
    )


def _load(path: Path) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > _MAX_FILE_BYTES:
            raise _unreadable(path, f"it has {size_bytes} bytes, the limit is {_MAX_FILE_BYTES}")
        return path.read_bytes()
    except FileNotFoundError:
        raise WavError(f"{path} can't be read", "there is no such file", "check its path") from None
    except OSError as error:
        raise WavError(
            f"{path} can't be read", error.strerror or str(error), "check its path and permissions"
        ) from error


def _parse(raw: bytes, path: Path) -> tuple[Format, memoryview]:
    """Find the format and the samples. Other chunks (LIST, cue, ...) are passed over."""
    if len(raw) < 12 or raw[:4] != b"RIFF" or raw[8:12] != b"WAVE":
        raise _unreadable(path, "it does not start like a WAV file")
    form: Format | None = None
    view, at = memoryview(raw), 12
    while at + 8 <= len(raw):
        name, size_bytes = struct.unpack_from("<4sI", raw, at)
        body = view[at + 8 : at + 8 + size_bytes]
        if name == b"fmt ":
            form = _format(bytes(body), path)
        elif name == b"data":
            if form is None:
                raise _unreadable(path, "its samples come before their format")
            if len(body) < size_bytes != _UNKNOWN_BYTES:
                raise _unreadable(
                    path, f"it is cut short: {size_bytes} bytes of sound are announced, {len(body)} are there"
                )
            return form, body
        at += 8 + size_bytes + size_bytes % 2  # chunks start at even offsets
    raise _unreadable(path, "it has no samples" if form else "it has no format")


def _format(body: bytes, path: Path) -> Format:
    if len(body) < 16:
        raise _unreadable(path, "its format chunk is cut short")
    code, channels, rate_hz, _, frame_bytes, bits = struct.unpack_from("<HHIIHH", body)
    if code == _EXTENSIBLE and len(body) >= 26:
        code = struct.unpack_from("<H", body, 24)[0]  # the first two bytes of the sub-format's GUID
    if not 1 <= channels <= _MAX_CHANNELS or not _HZ_RANGE[0] <= rate_hz <= _HZ_RANGE[1]:
        raise _unreadable(path, f"its header makes no sense: {channels} channels at {rate_hz} Hz")
    if not (code == _PCM and bits in (8, 16, 24, 32)) and not (code == _FLOAT and bits in (32, 64)):
        raise _unreadable(path, f"its encoding is not supported: format {code:#06x} of {bits} bits")
    if frame_bytes != channels * bits // 8:
        raise _unreadable(path, f"its header makes no sense: {channels} channels of {bits} bits in {frame_bytes} bytes")
    return Format(code == _FLOAT, channels, rate_hz, bits)


def _decode(data: memoryview, form: Format) -> NDArray[np.float32]:
    """Interleaved samples, -1..1 for integers. A last frame that is not whole is left out."""
    frame_bytes = form.channels * form.bits // 8
    whole = data[: len(data) // frame_bytes * frame_bytes]
    if form.is_float:
        return np.frombuffer(whole, "<f4" if form.bits == 32 else "<f8").astype(np.float32)
    match form.bits:
        case 8:  # the only unsigned width
            return (np.frombuffer(whole, np.uint8).astype(np.float32) - 128) / np.float32(128)
        case 16:
            return np.frombuffer(whole, "<i2").astype(np.float32) / np.float32(1 << 15)
        case 24:
            wide = np.zeros((len(whole) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(whole, np.uint8).reshape(-1, 3)
            return wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)
        case _:
            return np.frombuffer(whole, "<i4").astype(np.float32) / np.float32(1 << 31)


def _unreadable(path: Path, why: str) -> WavError:
    return WavError(
        f"{path} can't be read as sound", why, "convert it, for example: sox BROKEN -b 16 -r 16000 -c 1 GOOD.wav"
    )


def _unwritable(path: Path, error: OSError) -> WavError:
    return WavError(
        f"{path} can't be written", error.strerror or str(error), "choose another place, or make room there"
    )
