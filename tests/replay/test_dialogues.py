"""Every dialogue holds on virtual time, gives the same log each time, and would fail if the policy were broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from app import config as configuration
from app import events as ev
from app import language
from app.config import Config
from app.journal import encode
from app.latency import percentile
from app.replay import script as scripts_format
from app.replay.runner import Run, run_virtual
from app.replay.script import Script
from app.replay.scripted import ScriptedBrain
from tests.sim.checks import Outcome, violations

SCRIPTS = sorted((Path(__file__).parents[1] / "dialogues").glob("*.yaml"))


def settled(script: Script, seed: int = 1) -> Config:
    return configuration.parse({**script.overrides, "seed": seed}, str(script.path))


def the(name: str) -> Script:
    return scripts_format.read(next(path for path in SCRIPTS if path.stem == name))


def performed(script: Script, seed: int = 1, jitter: float = 0.0) -> tuple[Run, ScriptedBrain]:
    return run_virtual(script, settled(script, seed), jitter=jitter)


def log(run: Run) -> bytes:
    return b"\n".join(encode(event) for event in run.events)


def test_there_are_the_dialogues_that_were_promised() -> None:
    assert len(SCRIPTS) >= 28


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_it_holds(path: Path) -> None:
    run, brain = performed(scripts_format.read(path))
    assert run.told({})["failures"] == []
    assert list(violations(Outcome(run, brain))) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_same_seed_gives_the_same_log(path: Path) -> None:
    script = scripts_format.read(path)
    first = log(performed(script, seed=3, jitter=0.3)[0])
    assert first == log(performed(script, seed=3, jitter=0.3)[0])
    assert first != log(performed(script, seed=4, jitter=0.3)[0]).replace(b'"seed":4', b'"seed":3')


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_interruptions_outlast_the_confirmation_and_replies_outlast_interruptions(path: Path) -> None:
    script = scripts_format.read(path)
    run, _ = performed(script)
    for reply in run.told({})["turns"]:
        barge_in = reply["barge_in"] or {"onset_s": None}
        cut = next((sound for sound in run.director.sounds if sound.start_s == barge_in["onset_s"]), None)
        # A stop word and an answer to a question are short by nature, and a key takes no time at all.
        if cut is not None and len((cut.line.say or "").split()) > 2:
            assert cut.end_s - cut.start_s >= settled(script).turns.hold_after_ms / 1000 + 0.3
            assert (reply["reply_words"] - reply["heard_words"]) * 0.3 >= 2.0


AT_ONCE = dict.fromkeys(("sure_ms", "likely_ms", "even_ms", "unlikely_ms", "unfinished_ms"), 200)
SLOWLY = dict.fromkeys(AT_ONCE, 2000)


@pytest.mark.parametrize(
    ("name", "broken", "missed"),
    [
        ("barge_in_early", {"hold_after_ms": 60_000}, "interrupted True"),
        ("barge_in_late", {"hold_after_ms": 800}, "stop_ms_max"),
        ("pause_mid_sentence", AT_ONCE, "overlaps 0"),
        ("thinks_before_the_end", AT_ONCE, "no sound"),
        ("interruption_pauses", {"wait_ms": 300}, "turn 2: user_is"),
        ("plain_turn", SLOWLY, "voice_to_voice_ms_max"),
        ("cough", {"hold_after_ms": 1000}, "overlap 1"),
        ("babble", {"wordless_hold_ms": 2500}, "hole_ms_max"),
        ("hold_on", {"wait_ms": 300}, "turn 1"),
        ("hold_on_and_nothing", {"wait_ms": 20_000}, "note 1"),
        ("stop_then_go_on", {"tail_ms": 1000}, "command 2"),
        ("stop_key", {"tail_ms": 1000}, "command 2: taken"),
        ("check_in", {"check_in": "never"}, "reply 2"),
        ("barge_in_unheard", {"collision_words": 0, "collision_ms": 0}, "turns 1"),
    ],
)
def test_a_broken_policy_fails_its_dialogue(name: str, broken: dict[str, Any], missed: str) -> None:
    script = the(name)
    turns = msgspec.structs.replace(settled(script).turns, **broken)
    run, _ = run_virtual(script, msgspec.structs.replace(settled(script), turns=turns))
    failures = run.told({})["failures"]
    assert any(missed in failure["expect"] for failure in failures), failures


@pytest.mark.parametrize(
    ("name", "lists", "missed"),
    [
        ("mm_hm", ("backchannels", "fillers"), "overlap 1"),
        ("stop_then_go_on", ("stop",), "verdict stop"),
        ("hold_on", ("wait",), "turn 1"),
        ("scratch_that", ("undo",), "command 1"),
        ("regenerate", ("regenerate",), "turn 1"),
    ],
)
def test_a_language_without_the_words_fails_its_dialogue(
    name: str, lists: tuple[str, ...], missed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    english = language.load("en")
    poorer = msgspec.structs.replace(english, **dict.fromkeys(lists, ("xyzzy",)))
    monkeypatch.setattr(language, "load", {"en": poorer}.__getitem__)
    run, _ = performed(the(name))
    failures = run.told({})["failures"]
    assert any(missed in failure["expect"] for failure in failures), failures


def test_an_agent_that_forgets_its_question_fails_its_dialogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language.Language, "asks", lambda *_: False)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # a lambda says nothing of its arguments
    failures = performed(the("yeah_is_an_answer"))[0].told({})["failures"]
    assert any("interrupted True" in failure["expect"] for failure in failures), failures


def of_all_seeds(name: str, key: str) -> list[float]:
    """A figure of the first interruption or overlap of a dialogue, over seeds of lateness."""
    figures: list[float] = []
    for seed in range(40):
        told = performed(the(name), seed, jitter=0.5)[0].told({})
        found = told["overlaps"][0] if key == "hole_ms" else told["turns"][0]["barge_in"]
        figures.append(found[key])
    return figures


def test_the_user_gets_the_word_in_time_over_many_seeds() -> None:
    ducked_ms, stopped_ms = of_all_seeds("barge_in_late", "duck_ms"), of_all_seeds("barge_in_late", "stop_ms")
    assert percentile(ducked_ms, 50) <= 110
    assert percentile(stopped_ms, 50) <= 280
    assert percentile(stopped_ms, 95) <= 400


def test_the_hole_after_a_murmur_is_short_over_many_seeds() -> None:
    for name in ("mm_hm", "cough"):
        holes_ms = of_all_seeds(name, "hole_ms")
        assert percentile(holes_ms, 50) <= 700, name
        assert max(holes_ms) <= 1200, name


def test_a_cue_that_can_not_come_is_a_failure_and_no_hang() -> None:
    text = """\
title: A
replies: ["Short."]
user:
  - {say: "Hello there you.", at: 0.5}
  - {say: "B", after: {reply: 1, heard_words: 9}}
"""
    run, _ = performed(scripts_format.parse(text, Path("a.yaml")))
    (failure,) = run.told({})["failures"]
    assert failure == {
        "expect": 'the cue of line 5, "B"',
        "got": "it never came, the dialogue was over",
    }


def test_after_an_unheard_reply_the_state_has_the_whole_turn_and_no_trace_of_the_reply() -> None:
    run, brain = performed(the("goes_on_while_the_answer_is_made"))
    assert [turn.role for turn in brain.said] == ["user", "agent"]
    assert brain.said[0].text == "I would like to book a table. For two people at seven."
    assert sum(isinstance(event, ev.TurnReopened) for event in run.events) == 1


def forty_turns() -> Script:
    """Forty turns, every fourth of which interrupts the reply before it."""
    long = (
        "There is a great deal to be said about that, and one could begin almost anywhere. Let me begin at the start."
    )
    user: list[dict[str, Any]] = [{"say": "Tell me about the first of them.", "at": 0.5}]
    for turn in range(2, 41):
        cue = {"heard_words": 4 + turn % 5} if turn % 4 == 0 else {"end": 0.7}
        user.append({"say": f"And now tell me about number {turn}.", "after": {"reply": turn - 1, **cue}})
    expect: list[dict[str, Any]] = [{"turns": 40, "replies": 40, "overlaps": 10}]
    expect += [{"reply": turn - 1, "interrupted": turn % 4 == 0} for turn in range(2, 41)]
    text = yaml.safe_dump({"title": "Forty turns", "user": user, "replies": [long], "expect": expect})
    return scripts_format.parse(text, Path("forty_turns.yaml"))


def test_forty_turns_with_ten_interruptions_leave_nothing_behind() -> None:
    script = forty_turns()
    config = configuration.parse({"llm": {"context_tokens": 600}}, "here")
    run, brain = run_virtual(script, config, jitter=0.3)
    told = run.told({})
    assert told["failures"] == []
    assert list(violations(Outcome(run, brain))) == []
    assert sum(turn["interrupted"] for turn in told["turns"]) == 10
    assert sum(isinstance(event, ev.ContextTrimmed) for event in run.events) >= 2
    assert told["totals"]["capsules_live"] == brain.live_boundaries <= 41
