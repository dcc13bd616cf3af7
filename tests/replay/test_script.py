"""Reading scripts: what is understood, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ScriptError
from app.replay import script
from app.replay.script import AfterHeard, AfterReply, AfterTurn, At, Noise

WHOLE = """\
title: Cuts a long answer short
voice: en_US-joe-medium
seed: 7
config: {turns: {hold_after_ms: 180}}
user:
  - say: "Tell me about the moon."
    at: 0.5
  - say: "Wait, only one sentence please."
    hears: "Wait only one sentence"
    after: {reply: 1, heard_words: 4}
  - audio: yes.wav
    after: {reply: 2, end: 0.6}
  - noise: {kind: cough, db: -30, seconds: 0.8}
    after: {turn: 3, end: 0.2}
replies: ["One.", "Two."]
expect:
  - {turn: 1, user_contains: [moon], voice_to_voice_ms_max: 4000}
  - {reply: 1, interrupted: true, stop_ms_max: 500, heard_words: [3, 9]}
  - {replies: 3, clock: wall}
"""


def test_everything_of_the_format_is_understood(tmp_path: Path) -> None:
    (tmp_path / "yes.wav").write_bytes(b"")
    read = script.parse(WHOLE, tmp_path / "a.yaml")
    assert (read.title, read.voice, read.seed) == ("Cuts a long answer short", "en_US-joe-medium", 7)
    assert read.overrides == {"turns": {"hold_after_ms": 180}}
    assert [line.cue for line in read.lines] == [At(0.5), AfterHeard(1, 4), AfterReply(2, 0.6), AfterTurn(3, 0.2)]
    assert read.lines[1].hears == "Wait only one sentence"
    assert read.lines[2].audio == tmp_path / "yes.wav"
    assert read.lines[3].noise == Noise("cough", -30, 0.8)
    assert len(read.speech()) == 3
    assert read.replies == ("One.", "Two.")
    assert [(e.subject, e.number, e.clock) for e in read.expectations] == [
        ("turn", 1, None),
        ("reply", 1, None),
        ("dialogue", 1, "wall"),
    ]
    assert read.expectations[1].checks == {"interrupted": True, "stop_ms_max": 500, "heard_words": (3, 9)}


def with_line(text: str) -> str:
    return f'title: A\nuser:\n  - say: "Hello."\n    at: 0.5\n  {text}\n'


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("titel: A\nuser: []", 1, "did you mean `title`"),
        ("title: A", 1, "`user` is missing"),
        ("title: A\ntitle: B\nuser: []", 2, "twice"),
        ("title: yes\nuser: []", 1, "quotes"),
        ("title: A\nuser:\n  say: B", 3, "list"),
        ("title: A\nseed: -1\nuser: []", 2, "whole number"),
        ("title: A\nconfig: {turns: {hold_afterms: 1}}\nuser: []", 2, "did you mean `hold_after_ms`"),
        ("title: [\n", 2, "not YAML"),
        (with_line('- {sya: "B", at: 1}'), 5, "did you mean `say`"),
        (with_line('- {say: "B"}'), 5, "exactly one of at, after"),
        (with_line('- {say: "B", at: 1, after: {turn: 1, end: 1}}'), 5, "exactly one of at, after"),
        (with_line('- {say: "B", audio: c.wav, at: 1}'), 5, "exactly one of say, audio, noise"),
        (with_line('- {say: "", at: 1}'), 5, "empty"),
        (with_line('- {say: "B", at: soon}'), 5, "'soon' is no number"),
        (with_line('- {say: "B", at: .nan}'), 5, "no number"),
        (with_line('- {say: "B", after: {reply: 1}}'), 5, "exactly one of heard_words, end"),
        (with_line('- {say: "B", after: {reply: 1, heard_word: 1}}'), 5, "did you mean `heard_words`"),
        (with_line('- {say: "B", after: {reply: 2, end: 1}}'), 5, "no more replies"),
        (with_line('- {say: "B", after: {turn: 2, end: 1}}'), 5, "1 lines of speech"),
        (with_line('- {say: "B", after: {turn: 1, heard_words: 1}}'), 5, "needs its `end`"),
        (with_line("- {noise: {kind: couhg, db: -30, seconds: 1}, at: 1}"), 5, "did you mean cough"),
        (with_line("- {noise: {kind: cough, db: 3, seconds: 1}, at: 1}"), 5, "from -90 to 0"),
        (with_line("- {noise: {kind: cough, db: -3}, at: 1}"), 5, "`seconds` is missing"),
        (with_line("- {audio: clpi.wav, at: 1}"), 5, "did you mean clip.wav"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {turn: 1, heard_words: [1, 2]}'), 7, "says nothing of a turn"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {reply: 1, heard_words: [2, 1]}'), 7, "a least and a most"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {reply: 1, turn: 1}'), 7, "make two of it"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {reply: 1}'), 7, "expects nothing"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {replies: 1, clock: vitual}'), 7, "did you mean virtual"),
        ("[" * 100_000, None, "recursion"),
        ("", None, "empty"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path, text: str, line: int | None, words: str) -> None:
    (tmp_path / "clip.wav").write_bytes(b"")
    with pytest.raises(ScriptError) as refused:
        script.parse(text, tmp_path / "a.yaml")
    told = str(refused.value)
    assert words in told
    assert str(tmp_path / "a.yaml") in told
    if line is not None:
        assert f"line {line}:" in told


def test_a_missing_script_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="No such file"):
        script.read(tmp_path / "none.yaml")
