"""The scorer on sound whose scores are known, and on a dialogue whose report is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.replay.scoring import Scores, Span, score, score_spans
from app.sound_ports import Samples
from audio.errors import WavError
from audio.wav import StereoWriter, write_wav

HZ = 16_000


def side(spans: list[Span], seconds: float, level: float = 0.1, noise: float = 10 ** (-75 / 20)) -> Samples:
    """Syllables in spans, faint noise between them."""
    random = np.random.default_rng(3)
    time_s = np.arange(round(seconds * HZ)) / HZ
    sound = random.standard_normal(time_s.size) * noise
    for start_s, end_s in spans:
        inside = (time_s >= start_s) & (time_s < end_s)
        sound[inside] += level * random.standard_normal(int(inside.sum()))
    return sound.astype(np.float32)


def scored(path: Path, user: list[Span], agent: list[Span], seconds: float = 12.0, noise_db: float = -75.0) -> Scores:
    with StereoWriter(path / "o.wav", HZ) as writer:
        writer.write(side(user, seconds, noise=10 ** (noise_db / 20)), side(agent, seconds))
    return score(path / "o.wav")


def test_a_plain_turn(tmp_path: Path) -> None:
    scores = scored(tmp_path, [(1.0, 2.0)], [(2.5, 4.0)])
    assert scores.user == [(1.0, 2.0)]
    assert scores.agent == [(2.5, 4.0)]
    assert scores.responses_ms == [500.0]
    assert (scores.overlaps, scores.unanswered, scores.interruptions) == ([], 0, 0)


def test_pauses_are_part_of_speech(tmp_path: Path) -> None:
    scores = scored(tmp_path, [(1.0, 2.0), (2.6, 3.0)], [(4.0, 4.5), (5.0, 6.0)])
    assert scores.user == [(1.0, 3.0)]
    assert scores.agent == [(4.0, 6.0)]
    longer = scored(tmp_path, [(1.0, 2.0), (2.7, 3.0)], [(4.0, 4.5), (5.1, 6.0)])
    assert len(longer.user) == len(longer.agent) == 2
    assert longer.unanswered == 1


def test_giving_way_and_answering(tmp_path: Path) -> None:
    (over,) = (scores := scored(tmp_path, [(1.0, 2.0), (4.0, 6.0)], [(2.5, 4.3), (6.8, 8.0)])).overlaps
    assert over == (4.0, 2000.0, 300.0, 300.0, None)
    assert scores.responses_ms == [500.0, 800.0]


def test_going_on_after_a_hole_and_without_one(tmp_path: Path) -> None:
    user, first = [(1.0, 2.0), (4.0, 4.4)], (2.5, 4.25)
    (paused,) = scored(tmp_path, user, [first, (4.9, 8.0)]).overlaps
    assert (paused.stop_ms, paused.hole_ms) == (250.0, 650.0)
    (brief,) = scored(tmp_path, user, [first, (4.6, 8.0)]).overlaps
    assert (brief.stop_ms, brief.hole_ms) == (None, 350.0)
    (none,) = scored(tmp_path, user, [(2.5, 8.0)]).overlaps
    assert (none.both_ms, none.stop_ms, none.hole_ms) == (400.0, None, 0.0)
    (silent,) = scored(tmp_path, user, [first]).overlaps
    assert silent.hole_ms is None


def test_an_assistant_that_talks_over_the_user_or_says_nothing(tmp_path: Path) -> None:
    scores = scored(tmp_path, [(1.0, 3.0), (8.0, 9.0)], [(2.0, 4.0)])
    assert scores.interruptions == 1
    assert scores.unanswered == 2
    assert scores.responses_ms == []


def test_a_noisy_microphone_is_no_speech(tmp_path: Path) -> None:
    assert scored(tmp_path, [(1.0, 2.0)], [(2.5, 4.0)], noise_db=-45.0).user == [(1.0, 2.0)]


def test_silence_and_what_is_no_recording(tmp_path: Path) -> None:
    assert scored(tmp_path, [], [], 1.0) == score_spans([], [])
    write_wav(tmp_path / "mono.wav", np.zeros(100, np.float32), HZ)
    write_wav(tmp_path / "slow.wav", np.zeros((100, 2), np.float32), 50)
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "o.wav").read_bytes()[:20])
    for name in ("mono.wav", "text.wav", "cut.wav", "slow.wav", "none.wav"):
        with pytest.raises(WavError, match="can't be scored"):
            score(tmp_path / name)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050])
def test_times_hold_at_any_rate(tmp_path: Path, rate_hz: int) -> None:
    sound = np.zeros((60 * rate_hz, 2), np.float32)
    sound[50 * rate_hz : 51 * rate_hz, 0] = sound[52 * rate_hz : 53 * rate_hz, 1] = 0.1
    write_wav(tmp_path / "o.wav", sound, rate_hz)
    scores = score(tmp_path / "o.wav")
    assert np.array([scores.user, scores.agent]) == pytest.approx(np.array([[[50, 51]], [[52, 53]]]), abs=0.02)


def test_a_damaged_header_is_one_clear_error(tmp_path: Path) -> None:
    scored(tmp_path, [(1.0, 2.0)], [], 3.0)
    raw, random = (tmp_path / "o.wav").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        damaged = bytearray(raw)
        damaged[int(random.integers(44))] = int(random.integers(256))
        (tmp_path / "o.wav").write_bytes(damaged)
        try:
            score(tmp_path / "o.wav")
        except WavError:
            refused += 1
    assert refused > 100


def test_what_is_told() -> None:
    told = score_spans([(1.0, 2.0), (4.0, 4.4), (9.0, 9.5)], [(2.5, 4.25), (4.9, 8.0)]).told()
    assert told["response_ms"] == [500.0, 500.0]
    assert (told["response_p50_ms"], told["stop_p50_ms"], told["hole_p50_ms"]) == (500.0, 250.0, 650.0)
    assert told["unanswered"] == 1
    assert told["overlaps"][0]["onset_s"] == 4.0
