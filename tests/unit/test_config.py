"""The configuration file: defaults, merging, refusals, and writing it back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import config
from app.cli import main
from app.config import Audio, Config, Journal, Llm, Models
from app.errors import ConfigError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def test_no_file_means_defaults() -> None:
    assert not config.default_path().exists()
    assert config.load(None) == Config()


def test_a_file_the_user_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        config.load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[turns]\nhold_after = 1\n", "did you mean `hold_after_ms`"),
        ("[turn]\n", "did you mean `turns`"),
        ('[llm]\nthreads = "two"\n', "Expected `int`"),
        ("[llm\n", "can't be read"),
        ("llm = 3\n", "Expected `object`"),
        ("seed = -1\n", "seed"),
        ("[llm]\nthreads = 0\n", "llm.threads"),
        ("[llm]\ntop_p = 0.0\n", "llm.top_p"),
        ("[llm]\ntemperature = nan\n", "llm.temperature"),
        ("[llm]\nrepetition_penalty = 0.0\n", "llm.repetition_penalty"),
        ("[llm]\ncontext_tokens = 511\n", "llm.context_tokens"),
        ("[llm]\nmax_reply_tokens = 7\n", "llm.max_reply_tokens"),
        ("[llm]\ntop_k = -1\n", "llm.top_k"),
        ('[llm]\ndevice = "gpu"\n', "llm.device"),
        ('[llm]\nformat = "int8"\n', "llm.format"),
        ("[turns]\nprobe_ms = -1\n", "turns.probe_ms"),
        ("[audio]\nblock_ms = 101\n", "audio.block_ms"),
        ("[audio]\nduck_db = 1.0\n", "audio.duck_db"),
    ],
)
def test_a_bad_file_is_refused_with_its_reason(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=why):
        config.load(file)


def test_the_check_command_refuses_a_value_out_of_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[llm]\nthreads = 257\n")
    assert main(["config", "check", str(file)]) == 2
    assert "llm.threads" in capsys.readouterr().err


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        config.load(file)


def test_a_table_changes_only_its_keys() -> None:
    base = Config(models=Models(llm="mine"), seed=4)
    changed = config.parse({"models": {"asr": "yours"}}, "a test", base)
    assert changed == Config(models=Models(llm="mine", asr="yours"), seed=4)


@given(TEXT, TEXT, st.floats(0, 1, exclude_min=True), st.booleans(), st.integers(0, 2**63 - 1))
def test_what_is_shown_reads_back_to_the_same(name: str, persona: str, top_p: float, keep: bool, seed: int) -> None:
    before = Config(
        models=Models(llm=name),
        llm=Llm(persona=persona, top_p=top_p),
        audio=Audio(input=name),
        journal=Journal(keep=keep),
        seed=seed,
    )
    assert msgspec.convert(tomllib.loads(config.as_toml(before)), Config) == before
