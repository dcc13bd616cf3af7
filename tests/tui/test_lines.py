"""The line view: what a dialogue looks like as text, on any terminal, whatever the words are."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import sys
import termios
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import events as ev
from app.lines import LineView, Word, has_colour, neutralised, painted, width_of, wrapped
from tui import lines as live
from tui.lines import LiveView, Status

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
REPLY = "The Moon is a rocky ball. It circles the Earth."

TURN = ev.TurnCommitted(
    t_s=1.8004, turn=1, branch=1, text="Tell me about the moon.", speech_start_s=0, speech_end_s=1.4, reason="silence"
)
DIALOGUE: list[ev.Event] = [
    ev.SessionOpened(clock="wall", seed=0, models={"llm": "m"}),
    ev.SpeechStarted(at_s=0.1),
    ev.PartialTranscribed(utterance=1, stable="Tell me", unstable="about them"),
    ev.SpeechStopped(at_s=1.4),
    TURN,
    ev.UserTurnAppended(t_s=1.8414, branch=1, tokens=9, took_ms=40),
    ev.FirstTokenDecoded(t_s=1.8558, branch=1),
    ev.ClauseDecoded(branch=1, clause=0, text="The Moon is a rocky ball.", t_s=1.9102),
    ev.ClauseSynthesised(t_s=1.9866, branch=1, clause=0, words=6, seconds=1.5, took_ms=70),
    ev.ClauseDecoded(branch=1, clause=1, text="It circles the Earth."),
    ev.PlayoutStarted(branch=1, at_s=2.0),
    ev.WordHeard(branch=1, words=4, text="a", at_s=2.9),
]
CUT = ev.ReplyCommitted(turn=1, branch=1, heard="The Moon is a", words=4, interrupted=True)
WHOLE = ev.ReplyCommitted(turn=1, branch=1, heard=REPLY, words=10, interrupted=False)


def printed(*events: ev.Event, width: int | None = None, colour: bool = False) -> str:
    out = io.StringIO()
    view = LineView(out, width, colour)
    for event in events:
        view.show(event)
    return out.getvalue()


def test_a_dialogue_as_plain_text() -> None:
    text = printed(*DIALOGUE, CUT)
    assert "you    Tell me about the moon.\n" in text
    assert "agent  The Moon is a ~~rocky ball. It circles the Earth.~~ (4 of 10 words heard)\n" in text


def test_replies_that_were_abandoned_are_forgotten() -> None:
    view = LineView(io.StringIO())
    for branch in range(1, 50):
        view.show(ev.TurnCommitted(turn=1, branch=branch, text="a", speech_start_s=0, speech_end_s=1, reason=""))
        view.show(ev.ClauseDecoded(branch=branch, clause=0, text="One two."))
        view.show(ev.TurnReopened(turn=1, branch=branch, reason=""))
    assert set(view._clauses) == {48, 49}  # pyright: ignore[reportPrivateUsage]  # growth shows nowhere else


def test_a_reply_cut_by_a_typed_turn_still_has_its_unheard_words() -> None:
    typed = ev.TurnCommitted(turn=2, branch=2, text="And Mars?", speech_start_s=3, speech_end_s=3, reason="typed")
    assert "~~rocky ball." in printed(*DIALOGUE, typed, CUT)


def test_a_reply_that_was_heard_has_no_mark() -> None:
    text = printed(*DIALOGUE, WHOLE)
    assert f"agent  {REPLY}\n" in text
    assert "~~" not in text


def test_unheard_words_are_struck_in_colour() -> None:
    text = printed(*DIALOGUE, CUT, colour=True)
    assert "\x1b[1mThe Moon is a\x1b[0m \x1b[2;9mrocky ball. It circles the Earth.\x1b[0m" in text


def test_the_parts_of_a_latency_add_up_to_what_is_shown() -> None:
    line = next(line for line in printed(*DIALOGUE, WHOLE).splitlines() if "ms to the first sound" in line)
    total, *parts = [int(number) for number in re.findall(r"\b\d+\b", line)]
    assert total == 600, "from the end of speech at 1.4 s to the first sound at 2.0 s"
    assert total == sum(parts)
    assert len(parts) == 7


def test_a_reply_that_was_never_audible_has_no_latencies() -> None:
    silent = [event for event in DIALOGUE if not isinstance(event, ev.PlayoutStarted)]
    assert "first sound" not in printed(*silent, WHOLE)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (ev.DeviceLost(device="USB", reason="unplugged"), "sound device USB is gone (unplugged); the dialogue is kept"),
        (ev.DeviceOpened(device="USB"), "sound flows through USB"),
        (ev.OutputResumed(branch=1, at_s=1, words=2), "the reply goes on"),
        (ev.TurnReopened(turn=1, branch=1, reason="went on"), "the turn goes on"),
        (ev.SoundTroubled(xruns=2, dropped_frames=1), "2 xruns, 1 dropped frames"),
        (ev.ReplyFailed(branch=1, what="a", why="b", fix="c"), "no reply: a, b. c"),
        (ev.OverlapJudged(branch=1, onset_s=0, verdict="noise", reason="a cough"), "noise: a cough"),
    ],
)
def test_what_a_person_should_know_is_noted(event: ev.Event, words: str) -> None:
    assert words in printed(event)


def test_a_real_interruption_is_shown_by_the_cut_alone() -> None:
    assert printed(ev.OverlapJudged(branch=1, onset_s=0, verdict="turn", reason="words")) == ""


@given(st.text(max_size=60), st.integers(0, 40), st.booleans())
def test_no_word_can_command_the_terminal(text: str, width: int, colour: bool) -> None:
    said = printed(
        ev.TurnCommitted(turn=1, branch=1, text=text, speech_start_s=0, speech_end_s=1, reason="r"),
        ev.ClauseDecoded(branch=1, clause=0, text=text),
        ev.ReplyCommitted(turn=1, branch=1, heard="", words=0, interrupted=True),
        width=width,
        colour=colour,
    )
    bare = SEQUENCE.sub("", said) if colour else said
    assert not [c for c in bare if unicodedata.category(c) == "Cc" and c != "\n"]


def test_the_check_above_has_teeth() -> None:
    hostile = "\x1b]0;title\x07 \x9b31m \x1b[2J \r\n \u202egnp"
    assert "\x1b" not in neutralised(hostile)
    assert not set("\x1b\x07\x9b\r\n\u202e") & set(neutralised(hostile))
    assert neutralised("naïve 日本 👩‍👩‍👧 – “ok”") == "naïve 日本 👩‍👩‍👧 – “ok”"


@given(st.lists(st.text("ab日é", min_size=1, max_size=9)), st.integers(1, 30))
def test_rows_fit_and_lose_no_word(texts: list[str], width: int) -> None:
    words = [Word(text) for text in texts]
    rows = wrapped(words, width)
    assert [word for row in rows for word in row] == words
    for row in rows:
        assert len(row) <= 1 or width_of(" ".join(word.text for word in row)) <= width


def test_runs_of_a_style_share_their_sequences() -> None:
    words = [Word("a", "dim"), Word("b", "dim"), Word("c")]
    assert painted(words, colour=True) == "\x1b[2ma b\x1b[0m c"
    assert painted(words, colour=False) == "a b c"


@pytest.mark.parametrize("width", [1, 5, 12, 30, 39, 40, 80, 200])
def test_the_live_line_fits_any_terminal(width: int) -> None:
    status = Status()
    for event in [*DIALOGUE, ev.LevelsMeasured(mic_dbfs=-12, speaker_dbfs=-80, speech=0.9)]:
        status.feed(event)
        assert width_of(SEQUENCE.sub("", status.line(width, colour=True))) <= width


def test_the_live_line_tells_the_state() -> None:
    status, states = Status(), []
    resumed = ev.OutputResumed(branch=1, at_s=3.5, words=2)
    for event in [
        *DIALOGUE,
        ev.SpeechStarted(at_s=3),
        ev.OutputHeld(branch=1, at_s=3.2, words=4),
        ev.SpeechStopped(at_s=3.3),
        resumed,
        WHOLE,
        ev.DeviceLost(device="d", reason="r"),
    ]:
        status.feed(event)
        states.append(status.state)
    changes = [state for place, state in enumerate(states) if place == 0 or states[place - 1] != state]
    expected = "listening, hearing, listening, thinking, speaking, overlap, held, speaking, listening, no sound"
    assert ", ".join(changes) == expected


def test_a_reply_held_before_its_first_sound_is_thought_of_again() -> None:
    status = Status()
    for event in [TURN, ev.OutputHeld(branch=1, at_s=1.9, words=0), ev.OutputResumed(branch=1, at_s=2.4, words=0)]:
        status.feed(event)
    assert status.state == "thinking"
    status.feed(ev.PlayoutStarted(branch=1, at_s=2.5))
    assert status.state == "speaking"


def test_the_live_line_shows_heard_and_unheard_words_apart() -> None:
    status = Status()
    for event in DIALOGUE:
        status.feed(event)
    line = status.line(120, colour=True)
    assert "\x1b[1mThe Moon is a\x1b[0m \x1b[2mrocky ball. It circles the Earth.\x1b[0m" in line
    narrow = SEQUENCE.sub("", status.line(30, colour=True))
    assert " a " in f"{narrow} ", "the newest heard word stays in sight"


def test_partial_words_are_shown_until_the_turn_is_committed() -> None:
    status = Status()
    for event in DIALOGUE[:3]:
        status.feed(event)
    assert status.line(80, colour=True).endswith("\x1b[1mTell me\x1b[0m \x1b[2mabout them\x1b[0m")
    status.feed(TURN)
    assert "Tell" not in status.line(80, colour=False)


def test_a_result_of_a_dead_branch_is_not_shown() -> None:
    status = Status()
    for event in DIALOGUE:
        status.feed(event)
    before = status.line(80, colour=False)
    status.feed(ev.ClauseDecoded(branch=99, clause=0, text="from the dead"))
    status.feed(ev.WordHeard(branch=99, words=9, text="dead", at_s=9))
    assert status.line(80, colour=False) == before


def test_the_terminal_is_given_back_as_it_was_even_after_an_error() -> None:
    out = io.StringIO()

    def fail() -> None:
        with LiveView(out, colour=True) as view:
            for event in DIALOGUE:
                view.show(event)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    text = out.getvalue()
    assert text.count("\x1b[?25l") == 1
    assert text.endswith("\r\x1b[K\x1b[?25h")
    assert text.rfind("\x1b[0m") > max(text.rfind(code) for code in ("\x1b[1m", "\x1b[2m"))


def test_keys_are_not_echoed_while_talking_and_are_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = pty.openpty()
    with os.fdopen(terminal) as keyboard, os.fdopen(controller, "wb", buffering=0):
        monkeypatch.setattr(sys, "stdin", keyboard)
        before = termios.tcgetattr(keyboard)
        with contextlib.suppress(KeyboardInterrupt), live._single_keys():
            assert not termios.tcgetattr(keyboard)[3] & termios.ECHO
            raise KeyboardInterrupt
        assert termios.tcgetattr(keyboard) == before


def test_colour_only_where_it_is_welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert has_colour(Terminal())
    assert not has_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_colour(Terminal())
