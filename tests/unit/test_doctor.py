"""doctor: every finding that is not good has a fix, and nothing private is told."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import pytest

from app import doctor
from app.config import Config, Models
from app.doctor import Finding
from app.machine import _cpu

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 3.00GHz
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_vnni amx_tile amx_bf16

processor\t: 1
model name\t: Some CPU @ 3.00GHz
flags\t\t: fpu
"""


def by_subject(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.subject: finding for finding in findings}


def test_whatever_is_not_good_has_a_fix() -> None:
    findings = doctor.examine(Config())
    assert all(finding.fix for finding in findings if finding.state != "good")
    assert {"processor", "memory", "GPU", "system", "disk", "torch", "model (llm)"} <= set(by_subject(findings))


def test_a_model_that_is_not_here_yet_is_a_warning_and_an_unknown_one_is_bad() -> None:
    fresh = by_subject(doctor.examine(Config()))["model (llm)"]
    assert (fresh.state, fresh.fix) == ("warning", "backtalk models pull smollm2-135m")
    drawn = by_subject(doctor.examine(Config(models=Models(llm="random:qwen3.5-0.8b"))))["model (llm)"]
    assert (drawn.state, drawn.found) == ("good", "random:qwen3.5-0.8b, drawn when it is loaded")
    wrong = by_subject(doctor.examine(Config(models=Models(llm="smolm2-135m"))))["model (llm)"]
    assert wrong.state == "bad"
    assert "did you mean smollm2-135m?" in wrong.fix
    assert by_subject(doctor.examine(Config()))["model (vad)"].state == "good"


def test_a_bad_finding_is_status_2_and_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    assert doctor.main(Config(models=Models(voice="nobody")), out, as_json=True) == 2
    assert "model (voice)" in capsys.readouterr().err
    assert any(finding["state"] == "bad" for finding in json.loads(out.getvalue()))


def test_a_package_that_is_missing_is_told_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    found = by_subject(doctor.examine(Config()))["sound library"]
    assert (found.state, found.fix) == ("warning", "try: pip install sounddevice")


@pytest.mark.models
def test_all_is_well_with_the_models_here(model_cache: Path) -> None:
    models = by_subject(doctor.examine(Config()))
    assert {models[f"model ({kind})"].state for kind in ("llm", "asr", "voice", "vad")} == {"good"}


def test_nothing_of_the_environment_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    told = "\n".join(doctor.printed(doctor.examine(Config())))
    assert "hf_secret" not in told
    assert os.uname().nodename not in told


def test_features_are_read_in_the_words_of_the_vendors() -> None:
    name, flags = _cpu(CPUINFO)
    assert name == "Some CPU @ 3.00GHz"
    assert {"avx512_bf16", "amx_bf16"} <= flags
    assert _cpu("") == ("", set())
