"""`backtalk capsule`: what is in a file, and in words what two were made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import cli
from engine.fingerprint import Fingerprint
from tests.engine import states


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = cli.main(["capsule", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_show_tells_what_is_in_a_file_and_that_it_is_whole(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    state, capsule, path = states.written(tmp_path / "a.capsule", 70)
    status, out, err = run(capsys, "show", path)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"{path}: whole, 70 tokens, {capsule.bytes:,} bytes of state"
    assert state.lineage.hex() in lines[1]
    assert states.FINGERPRINT.digest in lines[2]
    assert [line.split(maxsplit=1) for line in lines[3:6]] == [
        list(part) for part in sorted(states.FINGERPRINT.parts.items())
    ]
    for region in state.arena.true_regions():
        assert any(line.split()[:2] == [region.name, f"{region.live_bytes(70):,}"] for line in lines), region.name


def test_show_finds_damage_anywhere(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = states.written(tmp_path / "a.capsule", 70).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    status, out, err = run(capsys, "show", path)
    assert (status, out) == (2, "")
    assert "why:" in err
    assert "next:" in err


def test_diff_of_two_files_is_told_in_words(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = Fingerprint({**states.FINGERPRINT.parts, "torch": "2.12.1", "shape": "layers=4 hidden=32"})
    one = states.written(tmp_path / "one.capsule", 5).path
    two = states.written(tmp_path / "two.capsule", 9, fingerprint=other).path
    assert run(capsys, "diff", one, one)[:2] == (
        0,
        f"here is {one}, there is {one}\n  no difference: where one fits, so does the other\n",
    )
    status, out, _ = run(capsys, "diff", two, one)
    assert status == 1
    assert out.splitlines()[1:] == [
        "  the model's hidden is 16 here and 32 there",
        "  torch is 2.13.0 here and 2.12.1 there",
    ]


@pytest.mark.parametrize("action", ["show", "diff"])
def test_a_file_that_is_none_is_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path, action: str) -> None:
    status, out, err = run(capsys, action, tmp_path / "none.capsule", "--offline")
    assert (status, out) == (2, "")
    assert "No such file" in err


@pytest.mark.models
def test_diff_without_another_is_with_the_configured_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model_cache: Path
) -> None:
    path = states.written(tmp_path / "a.capsule", 5).path
    status, out, _ = run(capsys, "diff", path, "--offline")
    assert status == 1
    assert out.startswith(f"here is smollm2-135m as it is configured, there is {path}\n")
    for told in ("the weights are others", "the model's hidden is 576 here and 16 there", "the code that computes"):
        assert told in out
