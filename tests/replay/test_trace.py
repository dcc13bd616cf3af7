"""Logs decided again: the same conversation comes out, and whatever was changed in a log is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from app import cli
from app import effects as ask
from app import events as ev
from app.config import Config
from app.errors import ScriptError
from app.journal import Journal
from app.replay import runner, trace
from app.replay import script as scripts_format
from app.session import Session

DIALOGUES = Path(__file__).parents[1] / "dialogues"
SCRIPTS = sorted(DIALOGUES.glob("*.yaml"))


def log(path: Path, name: str = "barge_in_early", seed: int = 5) -> Path:
    script = scripts_format.read(DIALOGUES / f"{name}.yaml")
    with Journal(path / f"{name}.jsonl") as journal:
        runner.run_virtual(script, runner.settled(script, Config(), seed), [journal], jitter=0.3)
    return path / f"{name}.jsonl"


def only(path: Path) -> trace.Told:
    (told,) = trace.sessions(path)
    return told


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_log_leads_to_the_same_decisions_and_the_same_tree(path: Path, tmp_path: Path) -> None:
    written = log(tmp_path, path.stem)
    kinds = [json.loads(line)["type"] for line in written.read_text("utf-8").splitlines()]
    decided = sum(kind in {one.__name__ for one in trace.DECIDED} for kind in kinds)
    assert only(written) == trace.Told(1, len(kinds), decided, None, True)


def test_what_is_input_decided_and_done_is_what_the_session_makes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, announced = set[type](), set[type]()
    emit, carry_out = Session.emit, Session._carry_out  # pyright: ignore[reportPrivateUsage]  # where a session tells its kinds of events apart

    def note_input(session: Session, event: ev.Event) -> None:
        shown.add(type(event))
        emit(session, event)

    def note_decision(session: Session, effect: ask.Effect) -> None:
        if isinstance(effect, ask.Announce):
            announced.add(type(effect.fact))
        carry_out(session, effect)

    monkeypatch.setattr(Session, "emit", note_input)
    monkeypatch.setattr(Session, "_carry_out", note_decision)
    logged = set[str]()
    for path in SCRIPTS:
        logged |= {json.loads(line)["type"] for line in log(tmp_path, path.stem).read_text("utf-8").splitlines()}
    assert announced <= set(trace.DECIDED)
    assert not shown & {*trace.DECIDED, *trace.DONE}
    assert not set(trace.DECIDED) & set(trace.DONE)
    assert logged - {kind.__name__ for kind in shown | announced} <= {kind.__name__ for kind in trace.DONE}
    assert {*trace.DECIDED, *trace.DONE} < set(get_args(ev.Event))


Lines = list[dict[str, Any]]


def changed(path: Path, change: Callable[[Lines], object]) -> trace.Difference | None:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return only(path).difference


def first(lines: Lines, kind: str) -> int:
    return next(number for number, line in enumerate(lines) if line["type"] == kind)


def test_a_decision_that_was_changed_is_shown_with_its_line(tmp_path: Path) -> None:
    where: list[int] = []

    def reword(lines: Lines) -> None:
        where.append(first(lines, "TurnCommitted"))
        lines[where[0]]["reason"] = "for no reason"

    difference = changed(log(tmp_path), reword)
    assert difference is not None
    assert difference.line == where[0] + 1
    assert "for no reason" in difference.logged
    assert '"type":"TurnCommitted"' in difference.decided


def test_a_decision_that_is_missing_or_made_up_is_found(tmp_path: Path) -> None:
    missing = changed(log(tmp_path), lambda lines: lines.pop(first(lines, "OverlapJudged")))
    assert missing is not None
    assert (missing.logged, '"verdict":"turn"' in missing.decided) == ("nothing", True)

    def make_up(lines: Lines) -> None:
        lines.insert(first(lines, "PlayoutStarted") + 1, {"type": "TailForgotten", "branch": 1, "reason": "x"})

    made_up = changed(log(tmp_path), make_up)
    assert made_up is not None
    assert made_up.decided == "nothing"


def test_another_input_leads_elsewhere(tmp_path: Path) -> None:
    def speak_later(lines: Lines) -> None:
        lines[first(lines, "SpeechStarted")]["at_s"] += 0.05

    assert changed(log(tmp_path), speak_later) is not None


def test_other_settings_lead_elsewhere(tmp_path: Path) -> None:
    def wait_longer(lines: Lines) -> None:
        lines[0]["settings"]["turns"].update(sure_ms=900, likely_ms=900, even_ms=900, unlikely_ms=900)

    assert changed(log(tmp_path), wait_longer) is not None


@pytest.mark.parametrize(("kind", "field"), [("ClauseDecoded", "text"), ("SessionClosed", "tree")])
def test_other_words_make_another_tree(tmp_path: Path, kind: str, field: str) -> None:
    def reword(lines: Lines) -> None:
        lines[first(lines, kind)][field] = "Nobody said so."

    difference = changed(log(tmp_path, "plain_turn"), reword)
    assert difference is not None
    assert "digest" in difference.decided or "digest" in difference.logged


def test_a_log_that_was_cut_short_is_decided_up_to_there(tmp_path: Path) -> None:
    path = log(tmp_path)
    raw = path.read_bytes()
    whole = only(path)
    for size in range(raw.index(b"\n") + 1, len(raw) - 1, 997):
        path.write_bytes(raw[:size])
        told = only(path)
        assert (told.difference, told.whole) == (None, False)
        assert told.last_line == raw[:size].count(b"\n")
        assert told.decisions <= whole.decisions


def test_several_sessions_of_a_log_are_told_one_by_one(tmp_path: Path) -> None:
    one, two = log(tmp_path).read_bytes(), log(tmp_path, "cough").read_bytes()
    (tmp_path / "both.jsonl").write_bytes(one[: len(one) // 2].rpartition(b"\n")[0] + b"\n" + two)
    cut, whole = trace.sessions(tmp_path / "both.jsonl")
    assert (cut.whole, whole.whole) == (False, True)
    assert whole.first_line == cut.last_line + 1
    assert cut.difference is whole.difference is None


OPENED = '{"type":"SessionOpened","clock":"wall","seed":1,"models":{}%s}\n'
SETTINGS = ',"settings":{"turns":%s,"mode":"duplex","language":"%s"}'
FOREIGN = {
    "empty": b"",
    "text": b"Dear diary,\n",
    "binary": bytes(range(256)),
    "half a line": OPENED[:40].encode(),
    "no beginning": b'{"type":"SessionClosed","reason":"x"}\n',
    "no settings": (OPENED % "").encode(),
    "other settings": (OPENED % (SETTINGS % ('{"x":1}', "en"))).encode(),
    "other language": (OPENED % (SETTINGS % ("{}", "xx"))).encode(),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_log_is_one_clear_error(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(ScriptError):
        list(trace.sessions(path))
    assert cli.main(["replay", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [part in err for part in ("backtalk:", "why:", "next:")] == [True] * 3


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path)
    assert cli.main(["replay", str(path)]) == 0
    assert "the same tree" in capsys.readouterr().out
    changed(path, lambda lines: lines.pop(first(lines, "OverlapJudged")))
    assert cli.main(["replay", str(path)]) == 1
    assert "not the same\n  log: nothing\n  now: {" in capsys.readouterr().out
    for arguments in ([str(path), str(SCRIPTS[0])], [str(path), "--clock", "virtual"], [str(tmp_path / "none.jsonl")]):
        assert cli.main(["replay", *arguments]) == 2
        assert "next:" in capsys.readouterr().err
