"""The benchmarks run, and what they write is what the contract says."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from app import cli, config
from app.bench import barge_in, manners
from app.bench.report import row, times_us
from app.config import Config
from tests.engine import tiny

CAPSULE = {
    *("raw_copy", "snapshot", "snapshot_ready", "delta_snapshot", "restore", "rollback", "fork", "save", "load"),
    *("ttft_cold", "ttft_restore", "decode_step", "append_4", "decode_beside_snapshot"),
}


def test_percentiles_are_of_the_samples() -> None:
    found = row("x", {"tokens": 1}, "us", [float(value) for value in range(101)], bytes=5, floor=0.12345, floor_is="f")
    assert (found.n, found.p50, found.p95, found.p99, found.floor) == (101, 50.0, 95.0, 99.0, 0.123)
    assert found.ratio == pytest.approx(50 / 0.12345, abs=1e-3)


def test_the_warm_up_does_not_count() -> None:
    calls: list[None] = []
    assert len(times_us(lambda: calls.append(None), 5, warm_up=2)) == 5
    assert len(calls) == 7


@pytest.mark.parametrize(
    ("bench", "names"),
    [
        ("capsule", CAPSULE),
        ("decode", {"decode"}),
        ("prefill", {"append", "prefill"}),
    ],
)
def test_a_report_has_the_keys_of_the_contract(bench: str, names: set[str], tmp_path: Path) -> None:
    model = tiny.write(tmp_path / "m.gguf", tiny.Shape(), tiny.reference(tiny.Shape()))
    wanted = config.parse({"models": {"llm": str(model)}, "llm": {"format": "bf16"}}, "the test")
    assert importlib.import_module(f"app.bench.{bench}").run(wanted, tmp_path / "r.json") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert set(report) == {"bench", "machine", "model", "device", "dtype", "rows"}
    assert (report["bench"], report["dtype"]) == (bench, "bf16")
    assert {found["name"] for found in report["rows"]} == names
    keys = {"name", "params", "unit", "n", "p50", "p95", "p99", "bytes", "floor", "floor_is", "ratio"}
    assert all(set(found) == keys for found in report["rows"])


def test_the_lengths_can_be_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.write(tmp_path / "m.gguf", tiny.Shape(), tiny.reference(tiny.Shape()))
    chosen = ["--model", str(model), "--lengths", "32,100,9999", "--json", str(tmp_path / "r.json")]
    assert cli.main(["bench", "capsule", *chosen]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    # The model has no room for the third.
    assert {found["params"]["tokens"] for found in report["rows"]} == {32, 100}
    assert cli.main(["bench", "decode", *chosen]) == 2
    assert "only capsule does" in capsys.readouterr().err
    assert cli.main(["bench", "capsule", "--lengths", "256,many"]) == 2


MANNERS = """
persona = "You are a teacher who explains everything at great length, in many long sentences of plain speech."
max_reply_tokens = 32
[[dialogues]]
title = "Of each kind one"
acts = [
    {do = "ask", say = "Tell me about the history of Rome."},
    {do = "backchannel", say = "I see.", words = 6},
    {do = "stop", say = "Please be quiet.", words = 12},
    {do = "go_on", say = "Keep going."},
    {do = "interrupt", say = "No, tell me about Greece instead.", words = 4},
]
"""


@pytest.mark.models
@pytest.mark.usefixtures("model_cache", "asr_path", "voice_path")
def test_manners_of_the_real_models_on_a_clock_that_stands_still(tmp_path: Path) -> None:
    assert barge_in.perform(manners.parse(MANNERS), Config(), tmp_path / "r.json", "stopped", "laptop") == 0
    report = json.loads((tmp_path / "r.json").read_text())
    rates = ("yield_rate", "backchannel_continue_rate", "go_on_rate", "heard_within_one_word")
    counts = {"interruptions": 2, "backchannels": 1, "go_ons": 1, "readings": 2, "self_interruptions": 0}
    assert report["scores"] == dict.fromkeys(rates, 1.0) | counts
    medians = {row["name"]: row["p50"] for row in report["rows"]}
    # Models that take no time leave what the voice activity and the timers take.
    assert 64 < medians["onset_to_duck"] < medians["onset_to_hold"] < medians["onset_to_silence"] < 400
    assert medians["heard_not_in_state"] == medians["in_state_not_heard"] == 0
