"""What the line view says of decisions: one short line each."""

from __future__ import annotations

import io

import msgspec
import pytest

from app import events as ev
from app.lines import LineView, note


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (ev.UserNoted(utterance=1, kind="backchannel", text="Mm-hm.", reason=""), 'noted as backchannel: "Mm-hm."'),
        (ev.CommandTaken(command="undo", reason="the undo key"), "undo: the undo key"),
        (ev.CommandRefused(command="go_on", reason="nothing is left"), "can't go on: nothing is left"),
        (ev.Moved(boundary=3, name="A1", turn=1, left=9, rollback_us=1), "goes on after turn 1"),
        (ev.Moved(boundary=0, name="A0", turn=0, left=9, rollback_us=1), "begins anew"),
        (ev.TailKept(branch=1, turn=1, text="and so on", complete=True), '3 words were not heard; "go on" plays them'),
        (ev.TailForgotten(branch=1, reason="it is old"), "let go: it is old"),
        (ev.CheckedIn(turn=2, branch=2, text="Hello?", reason="no word in 5 s"), "no word in 5 s"),
        (ev.ModeChanged(mode="half", reason="echo"), "mode half: echo"),
        (ev.PauseLearned(floor_ms=312.4, reason="a pause"), "at least 312 ms from now on: a pause"),
        (ev.StuckRecovered(region="agent", phase="held", waited_ms=5000), "5 s (agent held)"),
        (ev.TurnReopened(turn=1, branch=1, reason="1 word was heard"), "the turn goes on: 1 word was heard"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_decision_is_one_line_with_its_reason(event: ev.Event, told: str) -> None:
    line = note(event)
    assert line is not None
    assert told in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "event",
    [
        ev.EchoMeasured(erle_db=30, delay_ms=60, residual_share=0),
        ev.UserTextRead(utterance=1, request=1, tokens=3, end_logprob=-0.1, took_ms=3),
        ev.EndScored(utterance=1, request=1, probability=0.9, wait_ms=200, reason="it sounds finished"),
    ],
    ids=lambda event: type(event).__name__,
)
def test_running_figures_are_not_printed(event: ev.Event) -> None:
    assert note(event) is None


def test_another_answer_does_not_repeat_the_question() -> None:
    out = io.StringIO()
    view = LineView(out)
    asked = ev.TurnCommitted(turn=1, branch=1, text="Tell me.", speech_start_s=0.5, speech_end_s=1.0, reason="")
    view.show(asked)
    view.show(ev.CommandTaken(command="regenerate", reason="the key"))
    view.show(msgspec.structs.replace(asked, branch=2))
    view.show(msgspec.structs.replace(asked, branch=3, turn=2, speech_end_s=9.0))
    assert out.getvalue().splitlines() == ["you    Tell me.", "--     answer again: the key", "you    Tell me."]


def test_another_session_begins_anew() -> None:
    out = io.StringIO()
    view = LineView(out)
    for heard in ("Yes.", "No."):
        view.show(ev.SessionOpened(clock="stopped", seed=0, models={"llm": "m"}, settings={}))
        view.show(ev.TurnCommitted(turn=1, branch=1, text="Is it?", speech_start_s=0.5, speech_end_s=1.0, reason=""))
        view.show(ev.ClauseDecoded(branch=1, clause=0, text=heard + " It goes on."))
        view.show(ev.ReplyCommitted(branch=1, turn=1, heard=heard, words=1, interrupted=True))
    session = ["--     ready: llm m", "you    Is it?"]
    cut = "~~It goes on.~~ (1 of 4 words heard)"
    assert out.getvalue().splitlines() == [*session, f"agent  Yes. {cut}", *session, f"agent  No. {cut}"]
