"""The disk tier: a directory with one file a capsule. The files are the index, there is no other.

What can't be read is left alone and told: it may be of another model, and it is the user's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from engine import codec
from engine.capsule import Capsule
from engine.errors import CapsuleLost, EngineError, StateError
from engine.header import Expected
from engine.pool import Pool

SUFFIX = ".capsule"
REBUILD = "Read its tokens again: lane.rebuild(error.capsule)"
"""What to do about a CapsuleLost."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


def check_name(name: str) -> None:
    """That a name can be one of a file, on any system.

    Raises:
        StateError: It can't.
    """
    if not _NAME.fullmatch(name):
        raise StateError(
            f"a capsule can't be called {name[:100]!r}",
            "names are lower-case letters, digits, dots, dashes and underscores, 80 at most, and begin with one of "
            "the first two",
            "Choose another name",
        )


class Shelf:
    """A directory of capsules.

    Attributes:
        directory: Where it is.
        unreadable: Files in it that are no capsules of this engine, and why.
    """

    def __init__(self, directory: Path, expected: Expected) -> None:
        """Use a directory.

        Args:
            directory: Is made if it is not there, for the user alone.
            expected: What a capsule has to be to fit the engine.

        Raises:
            StateError: It can't be used.
        """
        self.directory = directory
        self.unreadable: dict[Path, EngineError] = {}
        self._expected = expected
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._files = sorted(path for path in directory.iterdir() if path.suffix in (SUFFIX, codec.UNFINISHED))
        except OSError as error:
            raise _failed(f"the directory {directory} can't be used", error) from error

    def texts(self) -> dict[str, Capsule]:
        """The tokens and seed of each capsule that was there at the start, without its memory, by name."""
        found: dict[str, Capsule] = {}
        for path in self._files:
            name = path.name.removesuffix(SUFFIX)
            try:
                if path.suffix == codec.UNFINISHED:
                    raise StateError(f"the file {path} is no capsule", "writing it was interrupted", "Delete it")
                check_name(name)
                found[name] = codec.load_text(path, self._expected)
            except StateError as error:
                self._note(path, error)
        return found

    def save(self, name: str, capsule: Capsule) -> None:
        """Write a capsule; a file of the name is replaced, if it could be read.

        Raises:
            StateError: It can't be written. The file is as it was.
        """
        path = self._path(name)
        if path in self.unreadable and os.path.lexists(path):
            raise StateError(
                f"the capsule {path} can't be written",
                "there is a file that is no capsule of this engine, or damaged",
                "Choose another name, move the file away, or drop the name to delete the file",
            )
        codec.save(capsule, path)
        self.unreadable.pop(path, None)

    def load(self, name: str, text: Capsule, pool: Pool) -> Capsule:
        """Read a capsule into memory.

        Args:
            name: Of the file.
            text: What is known of it.
            pool: Where to.

        Raises:
            CapsuleLost: The file is damaged, gone, or holds another text. It is left alone.
            PoolFull: There is no room for it.
        """
        path = self._path(name)
        try:
            capsule = codec.load(path, self._expected, pool)
            if (capsule.lineage, capsule.seed) != (text.lineage, text.seed):
                capsule.evict()
                raise StateError(f"the capsule {path} can't be loaded", "another was put in its place", "Move it away")
        except StateError as error:
            self._note(path, error)
            raise CapsuleLost(error.what, error.why, REBUILD, text) from error
        return capsule

    def delete(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StateError: It can't be removed, or the name can't be one of a file.
        """
        path = self._path(name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise _failed(f"the capsule {path} can't be deleted", error) from error
        self.unreadable.pop(path, None)

    def _note(self, path: Path, error: StateError) -> None:
        # As it was raised, it would hold on to all that its callers had in their hands.
        self.unreadable[path] = StateError(error.what, error.why, error.fix)

    def _path(self, name: str) -> Path:
        check_name(name)
        return self.directory / (name + SUFFIX)


def _failed(what: str, error: OSError) -> StateError:
    return StateError(what, error.strerror or str(error), "Check its permissions, or choose another directory")
