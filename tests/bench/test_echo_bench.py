"""The echo benchmark on sound that is like speech: what it counts, and that it can fail."""

from __future__ import annotations

import pytest

from app.bench import echo
from app.bench.echo import Case, Watch, early_db, measure, rows
from app.bench.echo_room import Material, RoomCard
from app.events import SpeechStarted, SpeechStopped
from app.replay.room import ROOMS
from app.sound_ports import Samples
from app.timing import Turns
from audio.frame import MIC_HZ
from audio.probe import speech_like


@pytest.fixture(scope="module")
def material() -> Material:
    return Material([speech_like(MIC_HZ, 5.0, seed) for seed in range(3)], [speech_like(MIC_HZ, 1.0, 9)])


def measured(material: Material) -> Case:
    return measure("laptop softer", ROOMS["laptop"], -6.0, material, 6, Turns(), 0)


def test_it_measures_a_room(material: Material) -> None:
    case = measured(material)
    assert len(case.erle_db) == 6
    assert early_db(case) > 20
    assert case.self_interruptions == 0
    assert len(case.holds_ms) + case.missed == 2
    assert all(100 < hold_ms < 2000 for hold_ms in case.holds_ms)
    assert {row.name.split(": ")[1] for row in rows(case)} >= {"erle", "self_interruptions", "onset_to_hold"}


class Idle:
    def process(self, near: Samples, far: Samples) -> Samples:
        return near

    def reset(self) -> None: ...


def test_without_a_canceller_it_interrupts_itself(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(echo, "WebRtcCanceller", Idle)
    monkeypatch.setattr(echo, "LinearCanceller", Idle)
    case = measured(material)
    assert case.self_interruptions > 0
    assert case.false_windows > 0.1 * case.windows
    assert max(map(abs, case.erle_db)) < 0.1


def test_speech_counts_once_it_would_have_held_the_reply(material: Material) -> None:
    card = RoomCard(ROOMS["laptop"], -6.0, material, 10, 0)
    watch = Watch(card, Turns(hold_after_ms=200, warm_up_ms=1000, warm_up_hold_ms=400))
    for started_s, told_s in ((0.5, 0.85), (2.0, 2.15), (3.0, 3.25)):
        watch(SpeechStarted(at_s=started_s))
        card.now_s = told_s
        watch(SpeechStopped(at_s=told_s - 0.08))
    assert watch.held_at_s == [3.2]
    assert watch.hold_after(2.9, 5.0) == pytest.approx(300)
    assert watch.hold_after(3.3, 5.0) is None
