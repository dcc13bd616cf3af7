"""Reading scripts: what is understood, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import commands
from app.errors import ScriptError
from app.replay import script
from app.replay.expectations import Stretch
from app.replay.script import AfterHeard, AfterReply, AfterTurn, At, Fault, Noise

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
    assert read.replies == (("One.",), ("Two.",))
    assert [(e.subject, e.number, e.clock) for e in read.expectations] == [
        ("turn", 1, None),
        ("reply", 1, None),
        ("dialogue", 1, "wall"),
    ]
    assert read.expectations[1].checks == {"interrupted": True, "stop_ms_max": 500, "heard_words": (3, 9)}


ASKED = """\
title: Asks for things by key
user:
  - {say: "Tell me about the moon.", at: 0.5, smart_turn: 0.2}
  - {key: stop, after: {reply: 1, heard_words: 4}}
  - {key: go_on, after: {reply: 1, end: 1}}
  - {type: "And the sun?", after: {reply: 2, end: 1}}
  - {mode: half, at: 30}
  - {take_up: 1, at: 31}
  - {fault: {kind: device, seconds: 1.5}, at: 32}
  - {noise: {kind: babble, db: -30, seconds: 1}, echo: true, at: 33}
replies: [["One.", "Another one."], ""]
expect:
  - {absent: sound, from: {reply: 1, end: 0.1}, until: {turn: 1, end: 9}}
  - {absent: turn, from: 30, until: 33.5, clock: virtual}
  - {note: 1, kind: backchannel, text_contains: [mm]}
  - {command: 2, name: go_on, taken: true}
  - {overlap: 1, verdict: noise, resumed: true, hole_ms_max: 700}
  - {notes: 1, commands: 2, recoveries: 0}
"""


def test_keys_typed_turns_modes_and_faults_are_lines_too() -> None:
    read = script.parse(ASKED, Path("a.yaml"))
    assert [line.ask for line in read.lines[1:5]] == [
        commands.StopPressed(),
        commands.GoOnPressed(),
        commands.TextTyped(text="And the sun?"),
        commands.ModeChosen(mode="half"),
    ]
    assert read.lines[0].smart_turn == 0.2
    assert read.lines[5].take_up == 1
    assert read.lines[6].fault == Fault("device", 1.5)
    assert read.lines[7].echo
    assert [line.is_sound for line in read.lines] == [True, *[False] * 6, True]
    assert [line.brings_reply for line in read.lines] == [True, False, True, True, *[False] * 4]
    assert read.replies == (("One.", "Another one."), ("",))
    absent, in_time, *others = read.expectations
    assert (absent.subject, absent.checks) == ("absent", {"sound": Stretch(AfterReply(1, 0.1), AfterTurn(1, 9))})
    assert (in_time.checks, in_time.clock) == ({"turn": Stretch(At(30), At(33.5))}, "virtual")
    assert [(other.subject, dict(other.checks)) for other in others] == [
        ("note", {"kind": "backchannel", "text_contains": ["mm"]}),
        ("command", {"name": "go_on", "taken": True}),
        ("overlap", {"verdict": "noise", "resumed": True, "hole_ms_max": 700}),
        ("dialogue", {"notes": 1, "commands": 2, "recoveries": 0}),
    ]


def test_what_is_expected_of_the_real_models_counts_on_both_their_clocks() -> None:
    text = "title: A\nuser: []\nexpect: [{turns: 0}, {turns: 0, clock: wall}, {turns: 0, clock: virtual}]\n"
    wanted = script.parse(text, Path("a.yaml")).expectations
    assert [one.counts_on("wall") for one in wanted] == [True, True, False]
    assert [one.counts_on("stopped") for one in wanted] == [True, True, False]
    assert [one.counts_on("virtual") for one in wanted] == [True, False, True]


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
        (with_line('- {say: "B", audio: c.wav, at: 1}'), 5, "exactly one of say, audio, noise, key"),
        (with_line('- {say: "", at: 1}'), 5, "empty"),
        (with_line('- {say: "B", at: soon}'), 5, "'soon' is no number"),
        (with_line('- {say: "B", at: .nan}'), 5, "no number"),
        (with_line('- {say: "B", after: {reply: 1}}'), 5, "exactly one of heard_words, end"),
        (with_line('- {say: "B", after: {reply: 1, heard_word: 1}}'), 5, "did you mean `heard_words`"),
        (with_line('- {say: "B", after: {reply: 2, end: 1}}'), 5, "replies and no more"),
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
        (with_line("- {key: stop, at: 1}\nconfig: {turns: {keep: 2020-99-99}}"), 6, "month"),
        (with_line("- {key: stop, at: 1}\nconfig: {turns: {keep: !unknown x}}"), 6, "could not determine"),
        (with_line("- {key: stop, at: 1}\nconfig: {[a]: 1}"), 6, "unhashable key"),
        (with_line(f"- {{audio: {'a' * 5000}, at: 1}}"), 5, "File name too long"),
        (with_line("- {key: stpo, at: 1}"), 5, "did you mean stop"),
        (with_line('- {key: stop, say: "B", at: 1}'), 5, "got `say` and `key`"),
        (with_line("- {mode: duplx, at: 1}"), 5, "did you mean duplex"),
        (with_line('- {say: "B", at: 1, smart_turn: 1.5}'), 5, "from 0 to 1"),
        (with_line("- {fault: {kind: device}, at: 1}"), 5, "`seconds` is missing"),
        (with_line('- {key: stop, at: 1}\n  - {say: "B", after: {reply: 2, end: 1}}'), 6, "replies and no more"),
        (with_line('- {say: "B", at: 1}\nreplies: [[]]'), 6, "needs an answer"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {absent: sound, from: 1}'), 7, "`until` another"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {absent: sund, from: 1, until: 2}'), 7, "did you mean sound"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {note: 1, kind: wate}'), 7, "did you mean wait"),
        (with_line('- {say: "B", at: 1}\nexpect:\n  - {overlap: 1, hole_ms: 1}'), 7, "did you mean `hole_ms_max`"),
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
