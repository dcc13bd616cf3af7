"""The packaged dialogues and what the benchmarks make of a dialogue that was performed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app import config as configuration
from app.bench import barge_in, talks, turn
from app.bench.talks import Talk
from app.brain import CUT
from app.config import Config
from app.latency import SPANS
from app.replay import script as scripts_format
from app.replay.runner import run_virtual
from engine.chat import Example

DIALOGUE = """
title: An answer that is cut off, and one that is not
config: {turns: {short_silence_ms: 400}}
user:
  - {say: "Tell me about the river.", at: 0.5}
  - {say: "Wait, how long is it?", after: {reply: 1, heard_words: 4}}
replies:
  - "The river comes from the hills in the west. It passes three towns, and then it meets the sea."
  - "It has three hundred kilometres."
"""


def performed() -> Talk:
    """The dialogue on virtual time; its state as a model that holds what was heard has it."""
    script = scripts_format.parse(DIALOGUE, Path("river.yaml"))
    run, brain = run_virtual(script, Config())
    said = brain.said
    state = [Example(user.text, agent.text) for user, agent in zip(said[::2], said[1::2], strict=True)]
    return Talk(run.told({}), state)


def test_the_packaged_dialogues_can_be_read_and_have_enough_turns() -> None:
    asked = talks.scripts("turn")
    cut = talks.scripts("barge_in")
    assert (len(asked), sum(len(script.lines) for script in asked)) == (8, 20)
    assert sum(check.checks.get("interrupted", False) for script in cut for check in script.expectations) >= 6
    for script in (*asked, *cut):
        assert configuration.parse(dict(script.overrides), str(script.path)) == Config()


def test_spans_have_a_row_each_and_sum_to_the_whole() -> None:
    talk = performed()
    rows = {row.name: row for row in turn.measure([talk])}
    assert list(rows) == ["voice_to_voice", *SPANS]
    assert {row.n for row in rows.values()} == {2}
    for answered in talk.turns:
        assert sum(answered["spans_ms"].values()) == pytest.approx(answered["voice_to_voice_ms"], abs=0.001)
    name, share = turn.longest_span([talk])
    # Both medians of two turns are means, so the shares of the rows are those of the sums.
    assert share == pytest.approx(rows[name].p50 / rows["voice_to_voice"].p50, rel=1e-5)
    assert all(rows[name].p50 >= rows[other].p50 for other in SPANS)


def test_an_interruption_is_measured_from_its_onset() -> None:
    talk = performed()
    rows = {row.name: row for row in barge_in.measure([talk])}
    cut = talk.turns[0]["barge_in"]
    assert rows["onset_to_silence"].p50 == cut["stop_ms"]
    assert rows["onset_to_duck"].p50 <= rows["onset_to_silence"].p50
    assert rows["next_first_audio"].p50 == talk.turns[1]["voice_to_voice_ms"]
    assert rows["heard"].p50 == talk.turns[0]["heard_words"]
    assert rows["heard_not_in_state"].p50 == rows["in_state_not_heard"].p50 == 0


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
    talk = performed()
    heard = " ".join(talk.turns[0]["reply_heard"].split()[:4])
    told: dict[str, Any] = talk.told
    told["turns"][0]["reply_heard"] = heard
    wrong = Example("", assistant.format(heard=heard))
    found = barge_in.agreements_of(replace(talk, in_state=[wrong, *talk.in_state[1:]]))
    assert found == [barge_in.Agreement(4, lost, unheard)]


def test_a_turn_that_left_the_state_has_lost_all_words() -> None:
    talk = performed()
    heard = talk.turns[0]["heard_words"]
    assert barge_in.agreements_of(replace(talk, in_state=[])) == [barge_in.Agreement(heard, heard, 0)]
