"""JSON from a model's directory, read without trusting a single value in it."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from engine.errors import ModelFileError

Kind = TypeVar("Kind", int, float, str, bool, list[Any], dict[str, Any])

MAX_FILE_BYTES = 1 << 27
"""The largest real tokenizer.json is a quarter of it."""


@dataclass(frozen=True)
class JsonObject:
    """An object of a JSON file, with its place there for errors."""

    path: Path
    values: dict[str, Any]
    prefix: str = ""
    """Keys that lead to it, each with a dot after it; empty for the whole file."""

    @classmethod
    def open(cls, path: Path) -> JsonObject:
        """Read a file that holds one object.

        Raises:
            ModelFileError: It can't be read, is absurdly long, or is not a JSON object.
        """
        try:
            values = msgspec.json.decode(read_bounded(path))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            refuse(path, f"it is not JSON: {error}")
        if type(values) is not dict:
            refuse(path, "it is JSON but not an object")
        return cls(path, cast("dict[str, Any]", values))

    @classmethod
    def open_if_there(cls, path: Path) -> JsonObject:
        """As `open`, but an empty object if there is no such file."""
        return cls.open(path) if path.exists() else cls(path, {})

    def get(self, key: str, kind: type[Kind]) -> Kind | None:
        """A value, or None if the object has no such key or null. An int passes for a float.

        Raises:
            ModelFileError: The value is of another kind.
        """
        value = self.values.get(key)
        if kind is float and type(value) is int and abs(value) < 1 << 64:
            value = float(value)
        if value is not None and type(value) is not kind:
            self.refuse(f"{self.prefix}{key} is {reprlib.repr(value)}, not of the kind {kind.__name__}")
        return cast("Kind | None", value)

    def require(self, key: str, kind: type[Kind]) -> Kind:
        """A value.

        Raises:
            ModelFileError: The object has no such key, or its value is of another kind.
        """
        value = self.get(key, kind)
        if value is None:
            self.refuse(f"it lacks {self.prefix}{key}")
        return value

    def count(self, key: str, default: int | None = None, *, least: int = 1, most: int) -> int:
        """An int from `least` to `most`; `default` if there is none.

        Raises:
            ModelFileError: It is not there and has no default, or lies outside.
        """
        number = self.require(key, int) if default is None else self.get(key, int)
        number = default if number is None else number
        if number is None or not least <= number <= most:
            self.refuse(f"{self.prefix}{key} is {number}, which no model has")
        return number

    def number(self, key: str, default: float | None = None, *, most: float) -> float:
        """A float above zero and up to `most`; `default` if there is none.

        Raises:
            ModelFileError: It is not there and has no default, or lies outside.
        """
        number = self.require(key, float) if default is None else self.get(key, float)
        number = default if number is None else number
        if number is None or not math.isfinite(number) or not 0 < number <= most:
            self.refuse(f"{self.prefix}{key} is {number}, which no model has")
        return number

    def section(self, key: str) -> JsonObject:
        """An object within; an empty one if there is none.

        Raises:
            ModelFileError: It is not an object.
        """
        return JsonObject(self.path, self.get(key, dict) or {}, f"{self.prefix}{key}.")

    def refuse(self, why: str) -> NoReturn:
        """Refuse the file.

        Raises:
            ModelFileError: Always.
        """
        refuse(self.path, why)


def read_bounded(path: Path) -> bytes:
    """A whole small file.

    Raises:
        ModelFileError: It can't be read, or is absurdly long.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            refuse(path, f"it is longer than {MAX_FILE_BYTES} bytes, which no model's is")
        return path.read_bytes()
    except OSError as error:
        refuse(path, error.strerror or str(error), "Fetch the whole directory of the model again")


def refuse(path: Path, why: str, fix: str = "Fetch the file again, or choose another model") -> NoReturn:
    """Refuse a file of a model's directory.

    Raises:
        ModelFileError: Always.
    """
    raise ModelFileError(f"the model file {path} can't be used", why, fix)
