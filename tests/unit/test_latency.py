"""The fold of events into spans, on logs written by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import events as ev
from app.latency import SPANS, Latency, percentile


def fed(*events: ev.Event) -> Latency:
    latency = Latency()
    for event in events:
        latency.feed(event)
    return latency


def committed(t_s: float, branch: int = 1, end_s: float = 2.0) -> ev.TurnCommitted:
    return ev.TurnCommitted(
        t_s=t_s, turn=1, branch=branch, text="hello", speech_start_s=1.0, speech_end_s=end_s, reason=""
    )


def reply(branch: int, from_s: float) -> list[ev.Event]:
    """Milestones 0.01, 0.02, 0.03 and 0.04 s after each other."""
    return [
        ev.UserTurnAppended(t_s=from_s + 0.01, branch=branch, tokens=3, took_ms=10),
        ev.FirstTokenDecoded(t_s=from_s + 0.03, branch=branch),
        ev.ClauseDecoded(t_s=from_s + 0.06, branch=branch, clause=0, text="Hi."),
        ev.ClauseDecoded(t_s=from_s + 0.07, branch=branch, clause=1, text=" You."),
        ev.ClauseSynthesised(t_s=from_s + 0.10, branch=branch, clause=0, words=1, seconds=0.3, took_ms=40),
        ev.PlayoutStarted(t_s=from_s + 0.16, branch=branch, at_s=from_s + 0.15),
    ]


def test_a_transcript_hidden_under_the_silence_costs_nothing() -> None:
    final = ev.FinalTranscribed(t_s=2.2, utterance=1, request=1, text="hello", took_ms=80)
    latency = fed(final, committed(2.3), *reply(1, 2.3))
    spans = {"endpoint": 300, "asr": 0, "append": 10, "first_token": 20, "clause": 30, "tts": 40, "device": 50}
    assert latency.turn_spans(1) == spans
    assert latency.voice_to_voice_ms(1) == 450


def test_a_transcript_that_was_waited_for_is_on_the_path() -> None:
    final = ev.FinalTranscribed(t_s=2.6, utterance=1, request=1, text="hello", took_ms=500)
    spans = fed(final, committed(2.601), *reply(1, 2.601)).turn_spans(1)
    assert spans is not None
    assert spans["endpoint"] == 100
    assert spans["asr"] == 501


def test_the_true_end_of_speech_moves_the_first_span_only() -> None:
    latency = fed(committed(2.3), *reply(1, 2.3))
    told, true = latency.turn_spans(1), latency.turn_spans(1, speech_end_s=1.95)
    assert told is not None
    assert true is not None
    assert {name for name in SPANS if told[name] != true[name]} == {"endpoint"}
    assert sum(true.values()) == latency.voice_to_voice_ms(1, speech_end_s=1.95) == 500


def test_of_a_reopened_turn_the_last_commit_counts() -> None:
    reopened = ev.TurnReopened(t_s=2.9, turn=1, branch=1, reason="")
    latency = fed(committed(2.3), *reply(1, 2.3), reopened, committed(4.0, branch=2, end_s=3.5))
    assert latency.turn_spans(1) is None
    assert latency.turns() == []
    latency.feed(ev.PlayoutStarted(t_s=4.5, branch=2, at_s=4.5))
    assert latency.voice_to_voice_ms(1) == 1000


def test_another_answer_is_counted_from_when_it_was_asked_for() -> None:
    latency = fed(committed(2.3), *reply(1, 2.3), committed(9.0, branch=2), *reply(2, 9.0))
    spans = latency.turn_spans(1, speech_end_s=1.9)
    assert spans == {"endpoint": 0, "asr": 0, "append": 10, "first_token": 20, "clause": 30, "tts": 40, "device": 50}
    assert latency.voice_to_voice_ms(1, speech_end_s=1.9) == 150


def test_another_session_begins_anew() -> None:
    first, second = [committed(2.3), *reply(1, 2.3)], [committed(2.6), *reply(1, 2.6)]
    opened = ev.SessionOpened(clock="stopped", seed=0, models={}, settings={})
    latency = fed(opened, *first, opened)
    assert latency.turns() == []
    for event in second:
        latency.feed(event)
    assert latency.turn_spans(1) == fed(*second).turn_spans(1)


def test_a_turn_after_an_undo_is_a_new_one() -> None:
    moved = ev.Moved(t_s=3.0, boundary=0, name="A0", turn=0, left=2, rollback_us=1)
    latency = fed(committed(2.3), *reply(1, 2.3), moved, committed(9.0, branch=2, end_s=8.7), *reply(2, 9.0))
    assert latency.voice_to_voice_ms(1) == 450


def test_a_turn_without_words_of_the_user_has_no_latency() -> None:
    moved = ev.Moved(t_s=3.0, boundary=0, name="A0", turn=0, left=2, rollback_us=1)
    checked_in = ev.CheckedIn(t_s=9.0, turn=1, branch=2, text="Hello?", reason="")
    latency = fed(committed(2.3), *reply(1, 2.3), moved, checked_in, *reply(2, 9.0))
    assert latency.turn_spans(1) is None
    assert latency.turns() == []


def test_a_transcript_that_the_model_had_to_weigh_is_on_the_path_with_it() -> None:
    final = ev.FinalTranscribed(t_s=2.2, utterance=1, request=1, text="hello", took_ms=80)
    read = ev.UserTextRead(t_s=2.5, utterance=1, request=1, tokens=3, end_logprob=-0.1, took_ms=300)
    spans = fed(final, read, committed(2.501), *reply(1, 2.501)).turn_spans(1)
    assert spans is not None
    assert (spans["endpoint"], spans["asr"]) == (120, 381)


def test_only_the_newest_commits_are_kept_where_that_is_asked() -> None:
    whole, bounded = Latency(), Latency(keep=2)
    for branch in range(1, 6):
        for latency in (whole, bounded):
            latency.feed(msgspec.structs.replace(committed(2.3, branch), turn=branch))
            latency.feed(ev.PlayoutStarted(branch=branch, at_s=3.0))
    assert whole.turns() == [1, 2, 3, 4, 5]
    assert bounded.turns() == [4, 5]
    assert bounded.turn_spans(3) is None
    assert bounded.turn_spans(5) == whole.turn_spans(5)


times = st.floats(0, 3600, allow_nan=False).map(lambda t: round(t, 6))


@given(end_s=times, commit_s=times, marks=st.lists(times, min_size=4, max_size=4), audible_s=times, true_s=times)
def test_spans_add_up_whatever_the_milestones_are(
    end_s: float, commit_s: float, marks: list[float], audible_s: float, true_s: float
) -> None:
    latency = fed(
        committed(commit_s, end_s=end_s),
        ev.UserTurnAppended(t_s=marks[0], branch=1, tokens=1, took_ms=1),
        ev.FirstTokenDecoded(t_s=marks[1], branch=1),
        ev.ClauseDecoded(t_s=marks[2], branch=1, clause=0, text="a"),
        ev.ClauseSynthesised(t_s=marks[3], branch=1, clause=0, words=1, seconds=1, took_ms=1),
        ev.PlayoutStarted(t_s=audible_s, branch=1, at_s=audible_s),
    )
    spans, whole_ms = latency.turn_spans(1, true_s), latency.voice_to_voice_ms(1, true_s)
    assert spans is not None
    assert whole_ms is not None
    assert tuple(spans) == SPANS
    assert sum(round(span_ms * 1000) for span_ms in spans.values()) == round(whole_ms * 1000)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)), rel=1e-9, abs=1e-6)
