"""Names become paths: local files, and models out of wheels that the real pip finds in a directory of ours."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zipfile
from pathlib import Path

import pytest

from app import fetch, models
from app.catalogue import Catalogue
from app.errors import ModelError
from app.models import Store, loadable

VOICE = b"a voice" * 5000
FOLDER = "tiny_voice/data"


def make_wheel(directory: Path) -> Path:
    """A wheel as an index would carry it, with more inside than the catalogue wants."""
    wheel = directory / "tiny_voice-1.0-py3-none-any.whl"
    info = "tiny_voice-1.0.dist-info"
    contents = {
        "tiny_voice/__init__.py": b"raise SystemExit('a fetched package must never run')\n",
        f"{FOLDER}/v.onnx": VOICE,
        f"{FOLDER}/v.onnx.json": b"{}",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-voice\nVersion: 1.0\nRequires-Python: >=99\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents[f"{info}/RECORD"] = b"".join(f"{name},,\n".encode() for name in contents)
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return wheel


def catalogue_of(wheel: Path, **changes: object) -> Catalogue:
    """One voice from that wheel; `changes` make the catalogue disagree with it."""
    digest = hashlib.sha256(VOICE).hexdigest()
    values: dict[str, object] = {
        "version": "1.0",
        "wheel_bytes": wheel.stat().st_size,
        "wheel_sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "file_sha256": digest,
        "file_bytes": len(VOICE),
        "folder": FOLDER,
        **changes,
    }
    text = """
[[model]]
name = "tiny"
kind = "voice"
title = "t"
licence = "MIT"
asks = "nothing"
size_bytes = {size_bytes}
path = "v.onnx"
files = [
    {{ path = "v.onnx", size_bytes = {file_bytes}, sha256 = "{file_sha256}" }},
    {{ path = "v.onnx.json", size_bytes = 2, sha256 = "{json_sha256}" }},
]
[[model.sources]]
kind = "wheel"
package = "tiny-voice"
version = "{version}"
size_bytes = {wheel_bytes}
sha256 = "{wheel_sha256}"
folder = "{folder}"
"""
    json_sha256 = hashlib.sha256(b"{}").hexdigest()
    size_bytes = int(str(values["file_bytes"])) + 2
    return Catalogue.parse(text.format(**values, json_sha256=json_sha256, size_bytes=size_bytes))


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the only place where pip may look."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return make_wheel(index)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def left_in(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root / "models")) for path in root.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def test_a_wheel_gives_just_its_model_and_is_never_run(wheel: Path, root: Path) -> None:
    store = Store(root, catalogue_of(wheel))
    path = store.resolve("tiny", "voice")
    assert path.read_bytes() == VOICE
    assert left_in(root) == ["tiny/.manifest.json", "tiny/v.onnx", "tiny/v.onnx.json"]
    store.verify(store.catalogue.entry("tiny"))
    wheel.unlink()
    assert store.resolve("tiny", "voice", offline=True) == path


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"wheel_sha256": "1" * 64}, "has SHA-256"),
        ({"wheel_bytes": 10_000_000}, "cut off"),
        ({"file_sha256": "1" * 64}, "v.onnx has SHA-256"),
        ({"file_bytes": len(VOICE) + 1}, "bytes, and should have"),
        ({"folder": "elsewhere"}, "the wheel has no elsewhere/v.onnx"),
        ({"version": "2.0"}, "pip found no tiny-voice==2.0"),
    ],
)
def test_a_wheel_that_is_not_as_the_catalogue_says_leaves_nothing(
    wheel: Path, root: Path, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(ModelError, match=why):
        Store(root, catalogue_of(wheel, **changes)).resolve("tiny", "voice")
    assert left_in(root) == []


def test_no_network_is_told_from_no_such_wheel(wheel: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(fetch.Interrupted, match="the package index does not answer"):
        Store(root, catalogue_of(wheel)).resolve("tiny", "voice")
    assert left_in(root) == []


def test_a_disk_without_room_is_told_before_anything_is_fetched(
    wheel: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: free)
    with pytest.raises(ModelError, match="no room for tiny"):
        Store(root, catalogue_of(wheel)).resolve("tiny", "voice")
    assert left_in(root) == []


def test_a_disk_that_fills_up_on_the_way_leaves_nothing(
    wheel: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch, "_copy", full)
    with pytest.raises(ModelError, match="the disk filled up"):
        Store(root, catalogue_of(wheel)).resolve("tiny", "voice")
    assert left_in(root) == []


def test_a_cache_that_can_not_be_made_is_named(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(ModelError, match="can't be kept in"):
        Store(tmp_path / "file" / "cache", catalogue_of(wheel)).resolve("tiny", "voice")


def test_offline_never_fetches(wheel: Path, root: Path) -> None:
    with pytest.raises(ModelError, match="offline mode forbids"):
        Store(root, catalogue_of(wheel)).resolve("tiny", "voice", offline=True)
    assert not root.exists()


def test_a_truncated_model_is_fetched_anew(wheel: Path, root: Path) -> None:
    store = Store(root, catalogue_of(wheel))
    path = store.resolve("tiny", "voice")
    path.write_bytes(VOICE[:100])
    with pytest.raises(ModelError, match="cut off: 100 of 35000"):
        store.verify(store.catalogue.entry("tiny"))
    assert store.resolve("tiny", "voice").read_bytes() == VOICE
    assert left_in(root) == ["tiny/.manifest.json", "tiny/v.onnx", "tiny/v.onnx.json"]


def test_one_flipped_bit_is_found_and_mended(wheel: Path, root: Path) -> None:
    store = Store(root, catalogue_of(wheel))
    entry = store.catalogue.entry("tiny")
    path = store.pull(entry)
    path.write_bytes(bytes([VOICE[0] ^ 1]) + VOICE[1:])
    with pytest.raises(ModelError, match="has SHA-256"):
        store.verify(entry)
    assert store.pull(entry, verify=True).read_bytes() == VOICE


def test_two_at_once_fetch_once(wheel: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    from_wheel = fetch.from_wheel

    def counted(name: str, *rest: object) -> None:
        fetched.append(name)
        from_wheel(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "from_wheel", counted)
    catalogue, both = catalogue_of(wheel), threading.Barrier(2)

    def resolve() -> None:
        both.wait()
        Store(root, catalogue).resolve("tiny", "voice")

    threads = [threading.Thread(target=resolve) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == ["tiny"]


def test_what_a_crash_left_is_swept_away(wheel: Path, root: Path) -> None:
    leftover = root / "models" / ".tiny.partial"
    leftover.mkdir(parents=True)
    (leftover / "v.onnx").write_bytes(b"half")
    assert Store(root, catalogue_of(wheel)).resolve("tiny", "voice").read_bytes() == VOICE
    assert not leftover.exists()


def gguf(path: Path) -> Path:
    path.write_bytes(b"GGUF rest")
    return path


def test_local_paths_are_taken_as_they_are(tmp_path: Path) -> None:
    assert loadable(gguf(tmp_path / "m.gguf"), "llm", "m") == tmp_path / "m.gguf"
    (tmp_path / "v.onnx").touch()
    (tmp_path / "v.onnx.json").touch()
    assert models.resolve(str(tmp_path / "v.onnx"), "voice") == tmp_path / "v.onnx"
    whisper = tmp_path / "whisper"
    whisper.mkdir()
    (whisper / "model.bin").touch()
    (whisper / "config.json").touch()
    assert models.resolve(str(whisper), "asr") == whisper


@pytest.mark.parametrize(
    ("name", "kind", "why"),
    [
        ("bad.gguf", "llm", "does not begin as a GGUF"),
        ("lonely.onnx", "voice", "lonely.onnx.json is missing"),
        ("bad.gguf", "asr", "is something else"),
        (".", "llm", "does not begin as a GGUF"),
        ("..", "llm", "holds no such files"),
        (".", "asr", "holds no such files"),
        ("missing.gguf", "llm", "no model is called"),
        ("whisper-tiny.en", "llm", "it is a recogniser"),
        ("random:qwen3.5-0.8b", "llm", "random:qwen3.5-0.8b lies nowhere"),
        ("random:qwen3.5-0.8b", "asr", "it is a language model"),
    ],
)
def test_what_is_no_such_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: models.Kind, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.gguf").write_bytes(b"not one")
    (tmp_path / "lonely.onnx").touch()
    with pytest.raises(ModelError, match=why):
        models.resolve(name, kind)


def test_the_engine_opens_a_file_a_directory_or_a_drawn_model(tmp_path: Path) -> None:
    assert models.resolve_llm(str(gguf(tmp_path / "m.gguf"))) == tmp_path / "m.gguf"
    directory = tmp_path / "qwen"
    directory.mkdir()
    (directory / "config.json").touch()
    (directory / "model.safetensors").touch()
    assert models.resolve_llm(str(directory)) == directory
    assert models.resolve_llm("random:qwen3.5-0.8b,layers=8", offline=True) == "random:qwen3.5-0.8b,layers=8"
    with pytest.raises(ModelError, match="it is a recogniser"):
        models.resolve_llm("whisper-tiny.en")


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BACKTALK_CACHE", str(tmp_path))
    assert models.cache_root() == tmp_path
    monkeypatch.delenv("BACKTALK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_root() == tmp_path / "xdg" / "backtalk"


@pytest.mark.models
def test_the_real_defaults_are_whole(llm_path: Path, asr_path: Path, voice_path: Path) -> None:
    store = Store(llm_path.parent.parent.parent)
    assert (asr_path / "model.bin").is_file()
    assert voice_path.suffix == ".onnx"
    for name in ("smollm2-135m", "whisper-tiny.en", "en_US-joe-medium", "silero-vad"):
        store.verify(store.catalogue.entry(name))
