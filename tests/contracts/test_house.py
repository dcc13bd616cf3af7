"""Rules of the house that no linter knows: sizes of files and functions, and nothing of one machine in the tree."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from app import cli

ROOT = Path(__file__).parents[2]
ROOMS = ("app", "engine", "audio", "tui")
MOST_LINES = 400
MOST_FUNCTION_LINES = 70

SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEXTS = (".py", ".md", ".toml", ".yaml", ".yml", ".txt", "Makefile", "run")


def long_functions(source: str) -> Iterable[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_FUNCTION_LINES:
                yield f"{node.name} has {lines} lines"


def of_one_machine(text: str) -> list[str]:
    """Absolute paths of somebody's home or scratch, and web addresses that would tie the code to one host."""
    homes = re.findall(r"(?<![\w.$}/])/(?:home|root|Users|work)/\w+", text)
    hosts = re.findall(
        r"https?://(?!127\.0\.0\.1|localhost)[\w.-]*(?:pypi|huggingface|hf-mirror|artifactory)[\w.-]*", text
    )
    return homes + hosts


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_one_noun_and_no_long_function(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= MOST_LINES
    assert list(long_functions(source)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    assert not tree.body or ast.get_docstring(tree), "a module without a docstring"


def test_nothing_of_one_machine_is_in_the_tree() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout: there is no list of files to read")
    this = Path(__file__).name
    texts = [ROOT / name for name in listed.stdout.splitlines() if name.endswith(TEXTS) and Path(name).name != this]
    assert len(texts) > 20
    found = {str(path): bad for path in texts if path.is_file() and (bad := of_one_machine(path.read_text("utf-8")))}
    assert found == {}


def test_the_checks_above_have_teeth() -> None:
    body = "\n".join("    x = 1" for _ in range(MOST_FUNCTION_LINES))
    assert list(long_functions(f"def f():\n{body}\n")) == [f"f has {MOST_FUNCTION_LINES + 1} lines"]
    assert of_one_machine('open("/home/somebody/x")') == ["/home/somebody"]
    assert of_one_machine("https://pypi.example/simple") == ["https://pypi.example"]
    assert of_one_machine("app/home/x and ./work/y") == []


def commands_in(readme: str) -> list[list[str]]:
    """`backtalk` command lines of the code blocks and code spans, without comments and placeholders."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", readme, flags=re.MULTILINE | re.DOTALL))
    lines = [line.partition("#")[0] for block in blocks for line in block.splitlines()] + spans
    return [words[1:] for line in lines if (words := _words(line)) and Path(words[0]).name == "backtalk"]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # prose with an apostrophe
        return []


def test_the_commands_of_the_readme_exist() -> None:
    commands = commands_in((ROOT / "README.md").read_text("utf-8"))
    assert commands, "the README shows no command"
    for command in commands:
        cli.parser().parse_args(command)


def test_a_command_that_does_not_exist_is_found() -> None:
    (command,) = commands_in("```\n.venv/bin/backtalk dance --now   # no\n```\n")
    with pytest.raises(SystemExit):
        cli.parser().parse_args(command)


def test_the_two_commands_are_make_targets() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"`make (\w+)`|^make (\w+)", readme, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
