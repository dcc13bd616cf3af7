"""YAML nodes to values. Each method refuses what it can't use, with the node's line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import yaml

from app.errors import ScriptError

MOST_ITEMS = 2000
MOST_SECONDS = 3600.0


class Nodes:
    """Reads the nodes of one file; `path` is named in errors, and files lie beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refusal(self, node: yaml.Node, why: str, fix: str) -> ScriptError:
        return ScriptError(f"{self.path}, line {line_of(node)}: the script can't be used", why, fix)

    # ---- nodes that hold others ----

    def table(self, node: yaml.Node, known: Collection[str]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.refusal(node, "here should stand keys with values", f"keys are: {', '.join(known)}")
        fields: dict[str, yaml.Node] = {}
        for key, value in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            name = str(key.value)
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`?" if near else f"keys are: {', '.join(known)}"
                raise self.refusal(key, f"unknown key `{name}`", hint)
            if name in fields:
                raise self.refusal(key, f"`{name}` stands here twice", "remove one")
            fields[name] = value
        return fields

    def all_of(self, node: yaml.Node, names: Collection[str], example: str) -> dict[str, yaml.Node]:
        """A table with exactly these keys."""
        fields = self.table(node, names)
        for name in names:
            if name not in fields:
                raise self.refusal(node, f"`{name}` is missing", example)
        return fields

    def one_of(self, node: yaml.Node, fields: Mapping[str, yaml.Node], names: Collection[str]) -> str:
        found = [name for name in names if name in fields]
        if len(found) != 1:
            got = " and ".join(f"`{name}`" for name in found) or "none"
            raise self.refusal(node, f"exactly one of {', '.join(names)} is needed, got {got}", "write one of them")
        return found[0]

    def items(self, node: yaml.Node, most: int = MOST_ITEMS) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.refusal(node, "here should stand a list", "begin each item with a dash")
        if len(node.value) > most:
            raise self.refusal(node, f"{len(node.value)} items, the limit is {most}", "split the script")
        return cast("list[yaml.Node]", node.value)

    # ---- single values ----

    def text(self, node: yaml.Node, *, empty: bool = False) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
            raise self.refusal(node, "here should stand text", "put it in quotes")
        if not node.value.strip() and not empty:
            raise self.refusal(node, "the text is empty", "write something, or remove it")
        return str(node.value)

    def texts(self, node: yaml.Node) -> list[str]:
        return [self.text(item) for item in self.items(node)]

    def number(self, node: yaml.Node, least: float, most: float) -> float:
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.refusal(node, f"{node.value!r} is no number from {least:g} to {most:g}", "change it")
        return float(value)

    def seconds(self, node: yaml.Node, least: float = 0.0) -> float:
        return self.number(node, least, MOST_SECONDS)

    def milliseconds(self, node: yaml.Node) -> float:
        return self.number(node, 0, 1e6)

    def share(self, node: yaml.Node) -> float:
        return self.number(node, 0, 1)

    def count(self, node: yaml.Node, least: int = 1) -> int:
        value = self._scalar(node)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 1 << 63:
            raise self.refusal(node, f"{node.value!r} is no whole number from {least} on", "change it")
        return value

    def whole(self, node: yaml.Node) -> int:
        return self.count(node, least=0)

    def flag(self, node: yaml.Node) -> bool:
        value = self._scalar(node)
        if not isinstance(value, bool):
            raise self.refusal(node, f"{node.value!r} is neither true nor false", "write one of them")
        return value

    def choice(self, node: yaml.Node, names: Collection[str]) -> str:
        value = self.text(node)
        if value not in names:
            near = difflib.get_close_matches(value, names, n=1)
            hint = f"did you mean {near[0]}?" if near else f"one of: {', '.join(names)}"
            raise self.refusal(node, f"unknown value {value!r}", hint)
        return value

    def span(self, node: yaml.Node) -> tuple[int, int]:
        ends = [self.whole(item) for item in self.items(node, 2)]
        if len(ends) != 2 or ends[0] > ends[1]:
            raise self.refusal(node, "here should stand a least and a most", "for example: [3, 9]")
        return ends[0], ends[1]

    def file(self, node: yaml.Node) -> Path:
        path = self.path.parent / self.text(node)
        try:
            there = path.is_file()
        except OSError as error:
            raise self.refusal(node, f"the file can't be found: {error.strerror}", "check its path") from None
        if not there:
            near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob("*")], n=1)
            raise self.refusal(
                node, f"there is no file {path}", f"did you mean {near[0]}?" if near else "check its path"
            )
        return path

    def _scalar(self, node: yaml.Node) -> object:
        if not isinstance(node, yaml.ScalarNode):
            raise self.refusal(node, "here should stand one value", "change it")
        try:
            return yaml.SafeLoader("").construct_object(node)
        except (yaml.YAMLError, ValueError):
            return None


def line_of(node: yaml.Node) -> int:
    """Where a node stands, from 1."""
    return node.start_mark.line + 1
