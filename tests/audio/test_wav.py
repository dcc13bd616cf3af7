"""WAV files against the standard library's writer, sox's forms written by hand, and damage of every kind."""

from __future__ import annotations

import contextlib
import resource
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.errors import WavError
from audio.wav import StereoWriter, read_wav, write_wav

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16_000)).astype(np.float32)


def riff(
    code: int, channels: int, rate_hz: int, bits: int, data: bytes, extra: bytes = b"", announced: int | None = None
) -> bytes:
    frame = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * frame % (1 << 32), frame % (1 << 16), bits) + extra
    chunks = b"fmt " + struct.pack("<I", len(form)) + form + b"LIST" + struct.pack("<I", 3) + b"odd\0"
    chunks += b"data" + struct.pack("<I", len(data) if announced is None else announced) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def stored(bits: int, code: int) -> bytes:
    """TONE in a width, made by other means than the code under test."""
    if code == 3:
        return TONE.astype("<f4" if bits == 32 else "<f8").tobytes()
    if bits == 8:
        return bytes(round(float(x) * 127) + 128 for x in TONE)
    top = (1 << (bits - 1)) - 1
    return b"".join(round(float(x) * top).to_bytes(bits // 8, "little", signed=True) for x in TONE)


@pytest.mark.parametrize(
    ("bits", "code", "step"), [(8, 1, 2e-2), (16, 1, 1e-4), (24, 1, 1e-6), (32, 1, 1e-6), (32, 3, 0), (64, 3, 0)]
)
def test_every_width_gives_the_same_sound(tmp_path: Path, bits: int, code: int, step: float) -> None:
    path = tmp_path / "tone.wav"
    path.write_bytes(riff(code, 1, 16_000, bits, stored(bits, code)))
    assert np.abs(read_wav(path, 16_000) - TONE).max() <= step
    extended = struct.pack("<HHIH", 22, bits, 0, code) + bytes(14)
    path.write_bytes(riff(0xFFFE, 1, 16_000, bits, stored(bits, code), extended))
    assert np.abs(read_wav(path, 16_000) - TONE).max() <= step


def test_channels_are_averaged_and_rates_converted(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    time_s = np.arange(44_100) / 44_100
    sides = [0.8 * np.sin(2 * np.pi * 440 * time_s), 0.2 * np.sin(2 * np.pi * 440 * time_s)]
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44_100, 0, "NONE", ""))
        file.writeframes((np.stack(sides, 1) * 32767).astype("<i2").tobytes())
    got = read_wav(path, 16_000)
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert got.dtype == np.float32
    assert got.size == 16_000
    assert np.abs(got - expected)[500:-500].max() < 2e-3


def test_what_we_write_others_read_and_we_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    write_wav(path, np.append(TONE, np.float32([2, -2])), 16_000)
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
        values = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert values[-2:].tolist() == [32767, -32768]
    back = read_wav(path, 16_000)
    assert np.array_equal(back, values.astype(np.float32) / 32768)
    write_wav(path, back, 16_000)
    assert np.array_equal(read_wav(path, 16_000), back)
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]


def test_a_stereo_recording_appears_whole_and_keeps_its_sides(tmp_path: Path) -> None:
    path = tmp_path / "demo.wav"
    with StereoWriter(path, 48_000) as writer:
        for start in range(0, TONE.size, 100):
            writer.write(TONE[start : start + 100], np.zeros(100, np.float32))
        assert not path.exists()
    with wave.open(str(path)) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    assert np.abs(frames[:, 0] / 32768 - TONE).max() < 1e-4
    assert not frames[:, 1].any()


def test_a_recording_survives_the_dialogue_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "demo.wav"

    def fail() -> None:
        with StereoWriter(path, 48_000) as writer:
            writer.write(TONE, TONE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert read_wav(path, 48_000).size == TONE.size


GOOD = riff(1, 1, 16_000, 16, stored(16, 1))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "does not start like"),
        (b"OggS" + bytes(60), "does not start like"),
        (GOOD[:-100], "cut short"),
        (GOOD[:30], "format chunk is cut short"),
        (GOOD[:40], "has no samples"),
        (b"RIFF\4\0\0\0WAVE", "has no format"),
        (riff(1, 0, 16_000, 16, b""), "makes no sense"),
        (riff(1, 65_535, 16_000, 16, b""), "makes no sense"),
        (riff(1, 1, 2_000_000_000, 16, b""), "makes no sense"),
        (riff(1, 1, 16_000, 16, b"\0\0", announced=0xFFFFFFF0), "cut short"),
        (riff(2, 1, 16_000, 4, b"\0" * 64), "not supported"),
        (riff(1, 1, 16_000, 12, b"\0" * 64), "not supported"),
        (riff(3, 1, 16_000, 32, struct.pack("<f", float("nan")) * 4), "not finite"),
        (b"RIFF\x18\0\0\0WAVEdata\4\0\0\0\0\0\0\0", "before their format"),
    ],
)
def test_damage_is_told_in_one_error(tmp_path: Path, raw: bytes, why: str) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(raw)
    with pytest.raises(WavError, match=why) as caught:
        read_wav(path, 16_000)
    assert "bad.wav" in caught.value.what
    assert caught.value.fix


def test_what_is_unusual_but_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "odd.wav"
    path.write_bytes(riff(1, 1, 16_000, 16, stored(16, 1), announced=0xFFFFFFFF))
    assert read_wav(path, 16_000).size == TONE.size
    path.write_bytes(riff(1, 1, 8_000, 16, b""))
    assert read_wav(path, 16_000).size == 0
    path.write_bytes(riff(1, 2, 16_000, 16, stored(16, 1) + b"\1\2\3"))
    assert read_wav(path, 16_000).size == TONE.size // 2


@given(st.binary(max_size=400), st.integers(0, len(GOOD) - 1))
def test_no_bytes_do_worse_than_a_wav_error(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.wav"
    path.write_bytes(GOOD[:at] + noise + GOOD[at + len(noise) :])
    with contextlib.suppress(WavError):
        assert np.isfinite(read_wav(path, 16_000)).all()


def test_a_place_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(WavError, match="can't be written"):
        write_wav(tmp_path / "nowhere" / "out.wav", TONE, 16_000)
    with pytest.raises(WavError, match="no such file"):
        read_wav(tmp_path / "nowhere.wav", 16_000)


@pytest.mark.parametrize("limit_bytes", [1000, TONE.size * 40 + 20])
def test_a_disk_that_fills_up_is_told_and_leaves_nothing_half_written(tmp_path: Path, limit_bytes: int) -> None:
    path = tmp_path / "out.wav"
    write_wav(path, TONE[:10], 16_000)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        with pytest.raises(WavError, match="can't be written"):
            write_wav(path, np.tile(TONE, 20), 16_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["out.wav"]
