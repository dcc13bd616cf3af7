"""The packaged dialogues of `bench turn` and what it makes of a dialogue that was performed."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import config as configuration
from app.bench import talks, turn
from app.bench.talks import Talk
from app.config import Config
from app.latency import SPANS
from app.replay import script as scripts_format
from app.replay.runner import run_virtual

DIALOGUE = """
title: An answer that is cut off, and one that is not
user:
  - {say: "Tell me about the river.", at: 0.5}
  - {say: "Wait, how long is it?", after: {reply: 1, heard_words: 4}}
replies:
  - "The river comes from the hills in the west. It passes three towns, and then it meets the sea."
  - "It has three hundred kilometres."
"""


def performed() -> Talk:
    script = scripts_format.parse(DIALOGUE, Path("river.yaml"))
    run, _ = run_virtual(script, Config())
    return Talk(run.told({}), ())


def test_the_packaged_dialogues_can_be_read_and_have_enough_turns() -> None:
    asked = talks.scripts("turn")
    assert (len(asked), sum(len(script.lines) for script in asked)) == (8, 20)
    for script in asked:
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
