"""The command line: what each command answers, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from app import cli, config
from app.errors import MachineError


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "--help")
    assert (status, err) == (0, "")
    for command in ["headless", "demo", "replay", "models", "devices", "doctor", "config", "bench", "verify"]:
        assert f"\n    {command} " in out


@pytest.mark.parametrize("command", ["headless", "demo", "replay", "models", "devices", "doctor", "config", "bench"])
def test_every_command_has_help_and_the_common_options(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    for option in ("--config", "--llm", "--asr", "--voice", "--device", "--offline", "--log-level"):
        assert option in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["nope"],
        ["--nope"],
        ["replay"],
        ["models", "nope"],
        ["replay", "x.yaml", "--clock", "sundial"],
        ["bench", "nope"],
    ],
)
def test_what_can_not_be_understood_is_status_2_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert "backtalk" in err


def test_an_error_of_ours_has_three_parts_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "config", "check", "nowhere.toml")
    assert (status, out) == (2, "")
    assert "why:" in err
    assert "next:" in err
    assert "Traceback" not in err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> config.Config:
        raise ZeroDivisionError

    monkeypatch.setattr(config, "load", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main(["config", "show"])


def test_options_stand_before_or_after_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    before = run(capsys, "--llm", "x", "--device", "cpu", "--offline", "config", "show")
    after = run(capsys, "config", "show", "--llm", "x", "--device", "cpu", "--offline")
    assert before == after
    shown = tomllib.loads(before[1])
    assert (shown["models"]["llm"], shown["llm"]["device"], shown["offline"]) == ("x", "cpu", True)


def test_an_option_wins_over_the_file_and_the_file_over_the_default(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('seed = 5\n[models]\nllm = "of the file"\nasr = "of the file"\n')
    status, out, _ = run(capsys, "config", "show", "--config", str(file), "--asr", "typed")
    shown = tomllib.loads(out)
    assert status == 0
    assert shown["seed"] == 5
    untouched = tomllib.loads(config.as_toml(config.Config()))["models"]
    assert shown["models"] == {**untouched, "llm": "of the file", "asr": "typed"}


def test_config_path_and_check(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "config", "path")[1].strip() == str(config.default_path())
    file = tmp_path / "c.toml"
    file.write_text("[turns]\nhold_after = 3\n")
    status, _, err = run(capsys, "config", "check", str(file))
    assert status == 2
    assert "did you mean `hold_after_ms`?" in err
    file.write_text("[turns]\nhold_after_ms = 350\n")
    assert run(capsys, "config", "check", str(file)) == (0, f"{file}: good\n", "")


def test_ctrl_c_is_clean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object) -> config.Config:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", pressed)
    assert run(capsys, "config", "show") == (1, "", "backtalk: interrupted\n")
    assert run(capsys, "headless")[0] == 0


def test_an_unusable_machine_is_status_2(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object) -> config.Config:
        raise MachineError("no sound", "no card", "plug one in")

    monkeypatch.setattr(config, "load", lacking)
    status, out, err = run(capsys, "headless")
    assert (status, out) == (2, "")
    assert err == "backtalk: no sound\n  why:  no card\n  next: plug one in\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    program = "import sys; from app.cli import main; sys.exit(main(['models', 'list']))"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        ended = subprocess.run([sys.executable, "-c", program], stdout=gone, stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    assert b"BrokenPipe" not in ended.stderr


def test_models_list_tells_kind_size_and_place(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "models")
    rows = {line.split()[1]: line for line in out.splitlines()}
    assert status == 0
    assert rows["smollm2-135m"].startswith("llm")
    assert "98 MB" in rows["smollm2-135m"]
    assert "  -  " in rows["smollm2-135m"]
    assert "  here  " in rows["silero-vad"]
    assert os.environ["BACKTALK_CACHE"] in err


def test_models_that_are_not_here_are_neither_found_nor_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("path", "pull"):
        status, out, err = run(capsys, "models", action, "smollm2-135m", "--offline")
        assert (status, out) == (2, "")
        assert "offline mode forbids" in err
    assert "whisper-tiny.en" in run(capsys, "--llm", "random:qwen3-0.6b", "models", "path", "--offline")[2]
    assert run(capsys, "models", "verify") == (0, "", "")
    assert run(capsys, "models", "pull", "smolm2-135m")[2].count("did you mean smollm2-135m?") == 1


def test_models_verify_fails_on_a_damaged_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    directory = tmp_path / "models" / "smollm2-135m"
    directory.mkdir(parents=True)
    (directory / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("BACKTALK_CACHE", str(tmp_path))
    status, out, err = run(capsys, "models", "verify")
    assert (status, out) == (1, "smollm2-135m: damaged\n")
    assert "cut off: 4 of 98362432 bytes" in err


def test_doctor_as_json_is_data(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "doctor", "--json")
    assert {"processor", "memory", "disk", "torch", "model (llm)"} <= {
        finding["subject"] for finding in json.loads(out)
    }
