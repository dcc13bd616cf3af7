"""The journal: what went in comes out, nobody else can read it, and a broken line is named."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from app import events as fact
from app.errors import MachineError, ScriptError
from app.journal import Journal, read


def test_events_come_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "log.jsonl"
    heard = fact.WordHeard(t_s=1.5, branch=1, words=2, text="naïve “moon”", at_s=1.25)
    with Journal(path) as journal:
        journal(heard)
        journal(fact.LevelsMeasured(mic_dbfs=-20, speaker_dbfs=-90, speech=0.5))
        assert list(read(path)) == [heard], "written through before the end, meters left out"
        journal(fact.SessionClosed(t_s=2.0, reason="ended"))
    assert list(read(path)) == [heard, fact.SessionClosed(t_s=2.0, reason="ended")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"type":"SessionClosed","t_s":1.0,"reason":"x"}\n{"type":"Nonsense"}\n')
    with pytest.raises(ScriptError, match="line 2"):
        list(read(path))


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="can't be written"):
        Journal(tmp_path / "file" / "log.jsonl")


def test_a_full_disk_is_one_clear_error() -> None:
    with Journal(Path("/dev/full")) as journal, pytest.raises(MachineError, match="No space left"):
        journal(fact.SessionClosed(reason="x"))


def test_a_write_that_was_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, path = os.write, tmp_path / "log.jsonl"
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:7]))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as os.write
    with Journal(path) as journal:
        journal(fact.SessionClosed(reason="x"))
    assert list(read(path)) == [fact.SessionClosed(reason="x")]


def test_a_fresh_journal_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-23T14-02-31.jsonl"
    for reason, name in [("a", path.name), ("b", f"{path.stem}-2.jsonl"), ("c", f"{path.stem}-3.jsonl")]:
        with Journal(path, fresh=True) as journal:
            journal(fact.SessionClosed(reason=reason))
        assert journal.path == tmp_path / name
        assert list(read(journal.path)) == [fact.SessionClosed(reason=reason)]
    assert list(read(path)) == [fact.SessionClosed(reason="a")]
    Journal(path).close()
    assert path.read_bytes() == b"", "what the user names is written anew"
