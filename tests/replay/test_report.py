"""The report's keys and figures, the files it goes to, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from app import events as ev
from app.cli import main
from app.config import Config
from app.errors import MachineError
from app.replay import report, runner
from app.replay import script as scripts_format
from app.replay.check import word_error
from app.replay.runner import run_virtual

DIALOGUES = Path(__file__).parents[1] / "dialogues"

KEYS = {
    *("title", "script", "passed", "failures", "clock", "seed", "machine", "models", "turns", "overlaps", "totals"),
    *("notes", "commands", "abandoned"),
}
TURN_KEYS = {
    *("turn", "user_text", "user_start_s", "user_end_s", "committed_s", "reply_text", "reply_heard", "reply_words"),
    *("heard_words", "interrupted", "first_audio_s", "last_audio_s", "voice_to_voice_ms", "adopted", "spans_ms"),
    *("barge_in", "tail"),
}
BARGE_IN_KEYS = {
    *("onset_s", "ducked_s", "held_s", "stopped_s", "verdict", "stop_ms", "rollback_us", "boundary", "refed_tokens"),
    "duck_ms",
}
TOTALS = {
    *("xruns", "dropped_frames", "dead_branch_drops", "forks", "adoptions", "capsules_live", "capsule_bytes"),
    "recoveries",
}
MACHINE = {"cpu", "cores", "gpu", "os", "python", "torch"}


def told(name: str) -> dict[str, Any]:
    script = scripts_format.read(DIALOGUES / f"{name}.yaml")
    run, _ = run_virtual(script, runner.settled(script, Config()))
    return run.told({})


def test_keys_are_those_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert main(["replay", str(DIALOGUES / "barge_in_early.yaml"), "--clock", "virtual", "--report", str(path)]) == 0
    read = json.loads(path.read_text("utf-8"))
    assert read.keys() == KEYS
    assert read["machine"].keys() == MACHINE
    assert read["models"].keys() == {"llm", "asr", "tts", "vad"}
    assert read["totals"].keys() == TOTALS
    assert all(turn.keys() == TURN_KEYS for turn in read["turns"])
    assert read["turns"][0]["barge_in"].keys() == BARGE_IN_KEYS
    assert read["turns"][1]["barge_in"] is None


def test_an_interruption_is_told_in_full() -> None:
    turn = told("barge_in_early")["turns"][0]
    cut = turn["barge_in"]
    assert turn["interrupted"]
    assert turn["reply_heard"] == "The moon is a"
    assert (turn["heard_words"], turn["reply_words"]) == (4, 36)
    assert cut["verdict"] == "turn"
    assert cut["onset_s"] < cut["ducked_s"] < cut["held_s"] < cut["stopped_s"] == turn["last_audio_s"]
    assert cut["duck_ms"] == pytest.approx((cut["ducked_s"] - cut["onset_s"]) * 1000, abs=0.01)
    # Decided after 200 ms of speech, which voice activity places a little late; silent a block and the device later.
    assert cut["held_s"] - cut["onset_s"] == pytest.approx(0.2, abs=0.03)
    assert 0.02 < cut["stopped_s"] - cut["held_s"] < 0.1
    assert cut["stop_ms"] == pytest.approx((cut["stopped_s"] - cut["onset_s"]) * 1000, abs=0.01)
    assert cut["boundary"] == "U1"
    assert sum(turn["spans_ms"].values()) == pytest.approx(turn["voice_to_voice_ms"], abs=1e-6)
    audible_ms = (turn["first_audio_s"] - turn["user_end_s"]) * 1000
    assert turn["voice_to_voice_ms"] == pytest.approx(audible_ms, abs=0.002)


def test_a_timer_that_nobody_waits_for_any_more_is_no_hold() -> None:
    fold = report.Report()
    for event in [
        ev.SessionOpened(clock="virtual", seed=0, models={}),
        ev.TurnCommitted(turn=1, branch=1, text="a", speech_start_s=0.5, speech_end_s=1.0, reason=""),
        ev.PlayoutStarted(branch=1, at_s=1.5),
        ev.TimerFired(t_s=2.9, name="confirm", serial=1),
        ev.OutputHeld(t_s=3.01, branch=1, at_s=3.0, words=2),
        ev.OverlapJudged(branch=1, onset_s=2.8, verdict="stop", reason="the stop key"),
        ev.ReplyCommitted(turn=1, branch=1, heard="b c", words=2, interrupted=True),
    ]:
        fold(event)
    script = scripts_format.read(DIALOGUES / "yes.yaml")
    assert fold.build(script, [], machine={}, capsules=[])["turns"][0]["barge_in"]["held_s"] == 3.0


def test_a_duck_that_was_taken_back_is_not_that_of_a_later_interruption() -> None:
    fold = report.Report()
    for event in [
        ev.SessionOpened(clock="virtual", seed=0, models={}),
        ev.TurnCommitted(turn=1, branch=1, text="a", speech_start_s=0.5, speech_end_s=1.0, reason=""),
        ev.PlayoutStarted(branch=1, at_s=1.5),
        ev.OverlapStarted(t_s=1.9, branch=1, onset_s=1.8),
        ev.OutputHeld(t_s=3.01, branch=1, at_s=3.0, words=2, asked_s=2.95),
        ev.OverlapJudged(branch=1, onset_s=2.9, verdict="stop", reason="the stop key"),
        ev.ReplyCommitted(turn=1, branch=1, heard="b c", words=2, interrupted=True),
    ]:
        fold(event)
    script = scripts_format.read(DIALOGUES / "yes.yaml")
    cut = fold.build(script, [], machine={}, capsules=[])["turns"][0]["barge_in"]
    assert (cut["ducked_s"], cut["duck_ms"], cut["held_s"], cut["stopped_s"]) == (None, None, 2.95, 3.0)


def test_a_reply_that_goes_on_is_an_overlap_and_no_interruption() -> None:
    read = told("cough")
    assert read["turns"][0]["barge_in"] is None
    (overlap,) = read["overlaps"]
    assert overlap["verdict"] == "noise"
    assert overlap["resumed_s"] > overlap["onset_s"]
    assert 0 < overlap["hole_ms"] < (overlap["resumed_s"] - overlap["onset_s"]) * 1000
    assert overlap["reason"] == "the sound held no words"
    assert overlap["scores"]["words"] == 0


def test_notes_and_commands_are_told_with_their_reasons() -> None:
    read = told("stop_then_go_on")
    assert [(note["kind"], note["text"]) for note in read["notes"]] == [("stop", "Stop.")]
    assert [(command["name"], command["taken"]) for command in read["commands"]] == [("stop", True), ("go_on", True)]
    assert all(told["reason"] and told["at_s"] > 0 for told in read["notes"] + read["commands"])
    first, second = read["turns"]
    assert first["tail"] == second["reply_heard"]
    assert second["tail"] is None


def test_what_was_taken_back_is_no_turn_but_told() -> None:
    read = told("scratch_that")
    assert [turn["user_text"] for turn in read["turns"]] == ["Good morning to you.", "My favourite colour is blue."]
    assert read["abandoned"] == [
        {"turn": 2, "user_text": "My favourite colour is red.", "reply_heard": "A colour is a fine thing."}
    ]


def test_another_answer_is_measured_from_when_it_was_asked_for() -> None:
    turn = told("regenerate")["turns"][0]
    assert turn["voice_to_voice_ms"] == pytest.approx((turn["first_audio_s"] - turn["committed_s"]) * 1000, abs=0.01)
    assert sum(turn["spans_ms"].values()) == pytest.approx(turn["voice_to_voice_ms"], abs=1e-6)
    assert [one["reply_heard"] for one in told("regenerate")["abandoned"]] == [
        "Cats sleep for most",
        "Cats have whiskers.",
    ]


@pytest.mark.parametrize(
    ("absent", "got"),
    [
        ("{absent: sound, from: 0, until: 1}", None),
        ("{absent: sound, from: {reply: 1, end: 0.001}, until: 99}", None),
        ("{absent: sound, from: {reply: 1, heard_words: 2}, until: {reply: 1, heard_words: 3}}", "sound at"),
        ("{absent: reply, from: {reply: 1, heard_words: 1}, until: 99}", None),
        ("{absent: reply, from: {turn: 1, end: 0}, until: 99}", "reply at"),
        ("{absent: turn, from: {turn: 1, end: 0}, until: {turn: 1, end: 0.1}}", None),
        ("{absent: turn, from: {turn: 1, end: 0}, until: {turn: 1, end: 1}}", "turn at"),
        ("{absent: turn, from: {reply: 1, heard_words: 99}, until: 99}", "never came"),
    ],
)
def test_what_must_not_be_between_two_moments(absent: str, got: str | None) -> None:
    text = (
        'title: A\nreplies: ["Yes, I do hear you."]\nuser:\n  - {say: "Do you hear me?", at: 0.5}\n'
        f"expect:\n  - {absent}\n"
    )
    run, _ = run_virtual(scripts_format.parse(text, Path("a.yaml")), Config())
    failures = run.told({})["failures"]
    assert bool(failures) is (got is not None), failures
    assert all(got is not None and got in failure["got"] for failure in failures)


def test_what_does_not_hold_is_told_and_gives_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "a.yaml"
    script.write_text(
        'title: A\nreplies: ["Yes, I do."]\nuser:\n  - {say: "Do you hear me?", at: 0.5}\nexpect:\n'
        "  - {turn: 1, user_contains: [apple], interrupted: true}\n  - {reply: 2, interrupted: false}\n"
        "  - {turns: 1, clock: wall, replies: 9}\n"
    )
    path = tmp_path / "r.json"
    assert main(["replay", str(script), "--clock", "virtual", "--report", str(path)]) == 1
    assert json.loads(path.read_text("utf-8"))["failures"] == [
        {"expect": "turn 1: user_contains ['apple']", "got": "Do you hear me?"},
        {"expect": "turn 1: interrupted True", "got": "False"},
        {"expect": "reply 2", "got": "1 in all"},
    ]
    assert capsys.readouterr().err.count("FAILED") == 3


def test_several_scripts_make_a_list_and_a_recording_each(tmp_path: Path) -> None:
    scripts = [DIALOGUES / "yes.yaml", DIALOGUES / "plain_turn.yaml"]
    status = runner.replay(
        scripts,
        clock="virtual",
        report=tmp_path / "r.json",
        events=tmp_path / "e.jsonl",
        record=tmp_path / "o.wav",
        seed=5,
        config=Config(),
    )
    assert status == 0
    read = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert [one["script"] for one in read] == [str(path) for path in scripts]
    assert {one["seed"] for one in read} == {5}
    assert (tmp_path / "e.jsonl").read_text("utf-8").count("SessionClosed") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"r.json", "e.jsonl", "o-yes.wav", "o-plain_turn.wav"}


def test_a_script_that_can_not_be_used_gives_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text('title: A\nuser:\n  - {say: "Hello.", at: 0.5}\n')
    assert main(["replay", str(tmp_path / "a.yaml"), "--clock", "virtual"]) == 2
    told = capsys.readouterr()
    assert "it has no `replies`" in told.err
    assert told.out == ""


def test_a_report_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="can't be written"):
        report.write(tmp_path / "none" / "r.json", [{}])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "got", "rate"),
    [
        ("Wait, only one sentence please.", "wait only one sentence, please", 0.0),
        ("a b c d", "a x c d", 0.25),
        ("a b c d", "a c d", 0.25),
        ("a b c d", "a b b c d", 0.25),
        ("a b", "", 1.0),
        ("it’s", "it's", 0.0),
    ],
)
def test_word_error_rate(wanted: str, got: str, rate: float) -> None:
    assert word_error(wanted, got) == rate
