"""The README keeps its word: its example runs, and its commands are the ones that CI runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.models
def test_the_library_example_runs(
    llm_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf").symlink_to(llm_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {"__name__": "readme"})
    assert len(capsys.readouterr().out.split()) > 2, "it answered"


def test_the_two_commands_are_made_and_run_by_ci() -> None:
    commands = re.search(r"## Two commands\n\n```\n(.*?)```", README, re.DOTALL)
    assert commands is not None
    targets = re.findall(r"^make (\w+)", commands.group(1), re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_the_script_in_the_readme_passes() -> None:
    from app.config import Config
    from app.replay import runner, script

    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    run, _ = runner.run_virtual(script.parse(text, ROOT / "README.md"), Config())
    assert run.told({})["failures"] == []
