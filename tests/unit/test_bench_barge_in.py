"""What the benchmark of manners makes of a dialogue: of one on virtual time, and of logs, sounds and texts by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import config as configuration
from app import events as ev
from app.bench import barge_in, manners, reading
from app.bench.barge_in import Agreement, Measured
from app.bench.manners import Kind
from app.bench.outcomes import Outcome, false_cutoffs, outcomes, self_interruptions
from app.bench.talks import Talk
from app.brain import CUT
from app.config import Config
from app.replay import script as scripts_format
from app.replay.cues import AfterHeard, AfterReply, AfterTurn, At
from app.replay.moments import UserSound
from app.replay.runner import run_virtual, settled
from app.replay.script import Line
from audio.wav import StereoWriter
from engine.chat import Example

DIALOGUE = """
title: Of each kind one
config: {turns: {note: "off"}}
user:
  - {say: "Tell me about the river.", at: 0.5}
  - {say: "Yeah, okay.", seconds: 0.6, after: {reply: 1, heard_words: 4}}
  - {say: "Stop.", after: {reply: 1, heard_words: 14}}
  - {say: "Go on.", after: {reply: 1, end: 1.0}}
  - {say: "Wait, how long is it?", after: {reply: 2, heard_words: 4}}
replies:
  - "The river comes from the hills in the west. It passes three towns, and then it meets the sea, far away from here."
  - "It has three hundred kilometres."
"""
KINDS: list[Kind] = ["ask", "backchannel", "stop", "go_on", "interrupt"]


def performed() -> tuple[Talk, Measured]:
    """The dialogue on virtual time; its state as a model that holds what was heard has it."""
    script = scripts_format.parse(DIALOGUE, Path("river.yaml"))
    run, brain = run_virtual(script, settled(script, Config()))
    said = brain.said
    state = [Example(user.text, agent.text) for user, agent in zip(said[::2], said[1::2], strict=True)]
    talk = Talk(run.told({}), state, run.events, run.director.sounds)
    dialogue = manners.Dialogue(script, dict(zip(script.lines, KINDS, strict=True)))
    return talk, barge_in.measure(dialogue, talk, Deaf(), -15.0)


class Deaf:
    """A recogniser that nobody may ask."""

    def transcribe(self, samples: object) -> Any:
        raise AssertionError("there is no recording")


# ---- the table ----


def test_the_packaged_dialogues_have_enough_of_each_kind() -> None:
    packaged = manners.dialogues()
    kinds = [kind for dialogue in packaged for kind in dialogue.kinds.values()]
    assert kinds.count("interrupt") + kinds.count("stop") >= 20
    assert kinds.count("backchannel") >= 12
    assert kinds.count("go_on") >= 4
    assert kinds.count("rest") >= 4
    lines = [line for dialogue in packaged for line in dialogue.script.lines]
    assert len({line.cue for line in lines if isinstance(line.cue, AfterHeard)}) >= 10
    for dialogue in packaged:
        settings = configuration.parse(dict(dialogue.script.overrides), "the table")
        assert settings.turns == Config().turns
        assert settings.models == Config().models


def table(acts: str) -> str:
    return f'persona = "You talk."\nmax_reply_tokens = 64\n[[dialogues]]\ntitle = "T"\nacts = [{acts}]\n'


def test_acts_become_lines_with_cues() -> None:
    acts = (
        '{do = "ask", say = "Tell me."}, {do = "backchannel", say = "Yeah.", words = 3}, '
        '{do = "stop", say = "Stop.", words = 5}, {do = "go_on", say = "Go on."}, '
        '{do = "interrupt", say = "Why?", words = 4}, {do = "ask", say = "And | then?", gap_s = 0.7}'
    )
    ((script, kinds),) = manners.parse(table(acts))
    assert [line.say for line in script.lines] == ["Tell me.", "Yeah.", "Stop.", "Go on.", "Why?", "And", "then?"]
    assert [line.cue for line in script.lines] == [
        At(0.5),
        AfterHeard(1, 3),
        AfterHeard(1, 5),
        AfterReply(1, 1.5),
        AfterHeard(2, 4),
        AfterReply(3, 1.5),
        AfterTurn(6, 0.7),
    ]
    assert list(kinds.values()) == ["ask", "backchannel", "stop", "go_on", "interrupt", "ask", "rest"]


@pytest.mark.parametrize(
    ("acts", "why"),
    [
        ('{do = "ask", say = "Tell me.", words = 3}', "`words` are for"),
        ('{do = "ask", say = "Tell me."}, {do = "stop", say = "Stop."}', "`words` are for"),
        ('{do = "ask", say = "Tell | me."}', "`gap_s` for a |"),
        ('{do = "stop", say = "Stop.", words = 3}', "no reply before it"),
        ('{do = "murmur", say = "Hm."}', "Invalid enum value 'murmur'"),
        ('{do = "ask", say = "Tell me.", word = 3}', "unknown field `word`"),
    ],
)
def test_a_wrong_act_is_refused(acts: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        manners.parse(table(acts))


# ---- a dialogue on virtual time ----


def test_each_kind_is_measured() -> None:
    talk, found = performed()
    rows = {row.name: row for row in barge_in.rows([found], "laptop")}
    first, second = (turn["barge_in"] for turn in talk.turns if turn["barge_in"])
    assert rows["onset_to_silence"].p50 == pytest.approx((first["stop_ms"] + second["stop_ms"]) / 2, abs=0.01)
    assert rows["onset_to_duck"].p50 == pytest.approx((first["duck_ms"] + second["duck_ms"]) / 2, abs=0.01)
    assert rows["onset_to_duck"].p50 < rows["onset_to_hold"].p50 <= rows["onset_to_silence"].p50
    assert rows["next_first_audio"].p50 == pytest.approx(talk.turns[2]["voice_to_voice_ms"], abs=0.01)
    assert rows["go_on_first_audio"].p50 == pytest.approx(talk.turns[1]["voice_to_voice_ms"], abs=0.01)
    assert rows["hole"].p50 == talk.told["overlaps"][0]["hole_ms"]
    assert rows["heard"].p50 == (talk.turns[0]["heard_words"] + talk.turns[1]["heard_words"]) / 2
    zeros = ("lost_at_resumption", "heard_not_in_state", "in_state_not_heard")
    assert [rows[name].p50 for name in zeros] == [0, 0, 0]
    assert barge_in.scores([found]) == {
        "yield_rate": 1.0,
        "interruptions": 2,
        "backchannel_continue_rate": 1.0,
        "backchannels": 1,
        "go_on_rate": 1.0,
        "go_ons": 1,
        "self_interruptions": 0,
    }
    assert (barge_in.troubles(found), barge_in.misses(found)) == ([], [])


@pytest.mark.parametrize(
    ("assistant", "lost", "unheard"),
    [
        ("{heard}", 0, 0),
        ("{heard} and more" + CUT, 0, 2),
        ("", 4, 0),
        ("Another text altogether", 4, 3),
    ],
)
def test_a_state_that_is_not_what_was_heard_is_noticed(assistant: str, lost: int, unheard: int) -> None:
    talk, found = performed()
    heard = " ".join(talk.turns[0]["reply_heard"].split()[:4])
    talk.told["turns"][0]["reply_heard"] = heard
    wrong = Example("", assistant.format(heard=heard))
    agreements = barge_in.agreements_of(replace(talk, in_state=[wrong, *talk.in_state[1:]]))
    assert agreements[0] == Agreement(4, lost, unheard)
    assert len(barge_in.troubles(found._replace(agreements=agreements))) == (lost + unheard > 0)


def test_a_turn_that_left_the_state_has_lost_all_words() -> None:
    talk, _ = performed()
    heard = [turn["heard_words"] for turn in talk.turns if turn["interrupted"]]
    agreements = barge_in.agreements_of(replace(talk, in_state=[]))
    assert agreements == [Agreement(words, words, 0) for words in heard]


# ---- logs by hand ----


def sound(say: str, start_s: float, end_s: float) -> UserSound:
    return UserSound(Line(At(0.0), "by hand", say), start_s, end_s)


def held(at_s: float, words: int, branch: int = 1) -> ev.OutputHeld:
    return ev.OutputHeld(t_s=at_s + 0.01, branch=branch, at_s=at_s, words=words, asked_s=at_s - 0.02)


SPOKEN: list[ev.Event] = [
    ev.ClauseDecoded(t_s=1.0, branch=1, clause=0, text="One two three four five"),
    ev.ClauseDecoded(t_s=1.1, branch=1, clause=1, text=" six seven."),
    ev.PlayoutStarted(t_s=1.2, branch=1, at_s=1.2),
]
YEAH = [sound("Yeah.", 2.0, 2.4)]


def of(events: list[ev.Event], kind: Kind = "backchannel", sounds: list[UserSound] | None = None) -> list[Outcome]:
    said = sounds or YEAH
    return outcomes([*SPOKEN, *events], said, [kind for _ in said])


def measured(found: list[Outcome], **changes: Any) -> Measured:
    return Measured("by hand", found, [], [], [], 0, 0)._replace(**changes)


def test_a_reply_that_goes_on_has_its_hole_and_loses_no_word_that_it_says_again() -> None:
    went_on: list[ev.Event] = [
        ev.OverlapStarted(t_s=2.11, branch=1, onset_s=2.02),
        held(2.25, 4),
        ev.OverlapJudged(t_s=2.6, branch=1, onset_s=2.02, verdict="backchannel", reason="only that"),
        ev.OutputResumed(t_s=2.71, branch=1, at_s=2.7, words=3),
    ]
    (outcome,) = of(went_on)
    assert (outcome.duck_ms, outcome.hold_ms, outcome.holes_ms) == (110.0, 230.0, [450.0])
    assert (outcome.cut, outcome.silence_ms, outcome.lost_words, outcome.verdict) == (None, None, 0, "backchannel")
    (skipping,) = of([*went_on[:3], ev.OutputResumed(t_s=2.71, branch=1, at_s=2.7, words=6)])
    assert skipping.lost_words == 2
    rows = {row.name: row.p50 for row in barge_in.rows([measured([skipping])], "laptop")}
    assert rows == {"hole": 450.0, "lost_at_resumption": 2.0}


def cut_off(at_s: float, words: int) -> list[ev.Event]:
    return [
        held(at_s, words),
        ev.ReplyCommitted(t_s=at_s + 0.1, turn=1, branch=1, heard="", words=words, interrupted=True),
    ]


def test_a_backchannel_that_ends_the_reply_is_a_miss_and_an_interruption_that_does_not_is_a_failure() -> None:
    killed = measured(of(cut_off(2.3, 4)))
    assert barge_in.scores([killed])["backchannel_continue_rate"] == 0.0
    assert [text[:27] for text in barge_in.misses(killed)] == ['"Yeah." ended the reply: no']
    assert barge_in.troubles(killed) == []
    ignored = measured(of([], "interrupt"))
    assert barge_in.scores([ignored])["yield_rate"] == 0.0
    assert len(barge_in.troubles(ignored)) == 1


def test_who_gives_way_late_has_not_given_way() -> None:
    late = measured(of(cut_off(4.1, 6), "stop"))
    assert barge_in.scores([late])["yield_rate"] == 0.0
    assert (len(barge_in.misses(late)), barge_in.troubles(late)) == (1, [])
    assert barge_in.scores([measured(of(cut_off(3.9, 6), "stop"))])["yield_rate"] == 1.0


def test_what_happens_after_the_next_sound_came_of_that_one() -> None:
    first, second = of(cut_off(4.3, 6), "interrupt", [*YEAH, sound("Stop.", 4.0, 4.4)])
    assert (first.cut, first.silence_ms) == (None, None)
    assert second.silence_ms == 300.0
    assert second.cut is not None
    assert (second.cut.words, second.cut.text, second.cut.silent_s) == (6, "One two three four five six seven.", 4.3)


def test_the_rest_of_a_reply_must_begin_with_its_very_next_word() -> None:
    sounds = [sound("Stop.", 2.0, 2.4), sound("Go on.", 3.5, 3.9)]

    def found(rest: str) -> Measured:
        more: list[ev.Event] = [
            ev.ClauseDecoded(t_s=4.2, branch=2, clause=0, text=rest),
            ev.PlayoutStarted(t_s=4.3, branch=2, at_s=4.3),
        ]
        return measured(outcomes([*SPOKEN, *cut_off(2.3, 4), *more], sounds, ["stop", "go_on"]))

    exact = found("five six seven. And eight.")
    assert (barge_in.scores([exact])["go_on_rate"], exact.outcomes[1].next_ms) == (1.0, 400.0)
    for wrong in ("six seven.", "four five six seven.", "One two three", ""):
        assert barge_in.scores([found(wrong)])["go_on_rate"] == 0.0
        assert len(barge_in.misses(found(wrong))) == 1


def test_a_gate_that_shuts_without_a_sound_of_the_user_is_a_self_interruption() -> None:
    assert self_interruptions([held(2.3, 4)], YEAH) == 0
    assert self_interruptions([held(3.3, 4)], YEAH) == 0
    assert self_interruptions([held(1.9, 4), held(3.5, 5)], YEAH) == 2


def test_a_reply_in_a_thinking_pause_is_a_false_cutoff() -> None:
    sounds = [sound("I would like", 0.2, 1.0), sound("a tea.", 1.7, 2.2)]

    def cut(at_s: float) -> list[bool]:
        events: list[ev.Event] = [ev.PlayoutStarted(t_s=at_s, branch=1, at_s=at_s)]
        return false_cutoffs(events, outcomes(events, sounds, ["ask", "rest"]))

    assert [cut(at_s) for at_s in (1.4, 2.0, 2.4)] == [[True], [True], [False]]
    assert barge_in.scores([measured([], cut_offs=[True, False])])["false_cutoff_rate"] == 0.5


# ---- the witness ----

REPLY = "The moon is a celestial body that orbits our planet. It's beautiful."


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ("", 0),
        ("The moon is", 3),
        ("the moon, is a celestial", 5),
        ("The moon is a celest", 5),
        ("The moon is a cel", 4),
        ("Them oon is a selestial body that", 7),
        ("The moon is a celestial body that orbits our planet, its beautiful", 12),
        ("The moon is a is a celestial body", 6),
        ("The moon is a celestial body body body.", 6),
        ("The moon is a celestial body that orbits our planet. Thank you.", 10),
        ("Something else altogether", 0),
    ],
)
def test_a_reading_ends_at_a_word_of_the_reply(read: str, words: int) -> None:
    assert reading.words_read(read, REPLY) == words


class Reader:
    """A recogniser that tells from the level of a sound what is said in it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.seconds = 0.0
        self.level = 0.0

    def transcribe(self, samples: Any) -> Any:
        self.seconds, self.level = samples.size / 16_000, float(np.abs(samples[1000:-1000]).mean())
        return self


def test_the_witness_is_asked_about_the_assistants_side_up_to_its_last_sample(tmp_path: Path) -> None:
    left, right = np.full(48_000 * 4, 0.5, np.float32), np.zeros(48_000 * 4, np.float32)
    right[48_000 : 48_000 * 3] = 0.25
    with StereoWriter(tmp_path / "o.wav", 48_000) as writer:
        writer.write(left, right)
    reader = Reader("One two three four")
    assert reading.read(tmp_path / "o.wav", 1.0, 2.7, reader) == "One two three four"
    assert (reader.seconds, reader.level) == (pytest.approx(2.0), pytest.approx(0.25, abs=0.01))
    lowered = reading.Ducked(0.5, -6.0206)
    assert reading.read(tmp_path / "o.wav", 1.0, 2.7, reader, lowered) == "One two three four"
    assert reader.level == pytest.approx(0.5, abs=0.02)
    assert reading.read(tmp_path / "o.wav", 0.0, 28.5, reader) is None


@pytest.mark.parametrize(("told", "share"), [(4, 1.0), (5, 1.0), (3, 1.0), (6, 0.0), (2, 0.0)])
def test_a_count_that_is_off_is_found_by_the_witness(told: int, share: float, tmp_path: Path) -> None:
    with StereoWriter(tmp_path / "o.wav", 48_000) as writer:
        writer.write(np.zeros(48_000 * 4, np.float32), np.zeros(48_000 * 4, np.float32))
    script = scripts_format.parse("title: T\nuser:\n  - {say: Stop., at: 2}\n", Path("t.yaml"))
    stop = UserSound(script.lines[0], 2.0, 2.4)
    talk = Talk({"turns": []}, (), [*SPOKEN, *cut_off(2.3, told)], [stop], tmp_path / "o.wav")
    dialogue = manners.Dialogue(script, {script.lines[0]: "stop"})
    found = barge_in.measure(dialogue, talk, Reader("One two three four"), -15.0)
    assert found.errors == [told - 4]
    assert barge_in.scores([found])["heard_within_one_word"] == share
    assert len(barge_in.misses(found)) == (share == 0.0)
