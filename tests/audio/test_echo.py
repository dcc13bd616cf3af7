"""Both echo cancellers in simulated rooms that are known exactly, on noise and on sound that is like speech."""

from __future__ import annotations

import numpy as np
import pytest

from app.replay.room import ROOMS, Box, Echo, response
from app.sound_ports import EchoCanceller, Samples
from audio.echo import WebRtcCanceller
from audio.echo_meter import EchoMeasure, EchoMeter, delay_s
from audio.frame import FRAME_SAMPLES, MIC_HZ
from audio.linear_echo import LinearCanceller
from audio.probe import speech_like

LEAD = 640
DRY = Box((4.0, 3.0, 2.5), (1.0, 1.0, 1.0), (2.0, 2.0, 1.0), 0.15, 0.0)


def frames(sound: Samples) -> list[Samples]:
    return [sound[at : at + FRAME_SAMPLES] for at in range(0, sound.size - FRAME_SAMPLES + 1, FRAME_SAMPLES)]


def heard_in(box: Box, far: Samples, echo_db: float = 0.0, seed: int = 0) -> Samples:
    """The echo over a floor of noise."""
    room = Echo(box, FRAME_SAMPLES, echo_db)
    echo = np.concatenate([room.process(frame) for frame in frames(far)])
    return (echo + np.random.default_rng(seed).normal(0, 10**-3.5, echo.size)).astype(np.float32)


def ahead(far: Samples, samples: int = LEAD) -> Samples:
    """The reference as it is read: so much before its time (or after it, if negative)."""
    silence = np.zeros(abs(samples), np.float32)
    return np.append(far[samples:], silence) if samples >= 0 else np.append(silence, far[:samples])


def cleaned(canceller: EchoCanceller, near: Samples, far: Samples) -> Samples:
    return np.concatenate([canceller.process(*pair) for pair in zip(frames(near), frames(far), strict=True)])


def erle_db(near: Samples, left: Samples, from_s: float, to_s: float) -> float:
    part = slice(round(from_s * MIC_HZ), round(to_s * MIC_HZ))
    return float(10 * np.log10(np.sum(near[part] ** 2) / np.sum(left[part] ** 2)))


@pytest.fixture(scope="module")
def voice() -> Samples:
    return speech_like(MIC_HZ, 8.0)


@pytest.mark.parametrize("room", ["laptop", "speakerphone"])
@pytest.mark.parametrize("echo_db", [-6.0, 6.0])
def test_webrtc_takes_25_db_within_two_seconds(voice: Samples, room: str, echo_db: float) -> None:
    near = heard_in(ROOMS[room], voice, echo_db)
    left = cleaned(WebRtcCanceller(), near, ahead(voice))
    assert erle_db(near, left, 2.0, 3.0) > 25
    assert erle_db(near, left, 3.0, 8.0) > 25


def test_a_reference_after_its_echo_is_worthless(voice: Samples) -> None:
    near = heard_in(DRY, voice)
    good, late = (cleaned(WebRtcCanceller(), near, ahead(voice, lead)) for lead in (LEAD, -480))
    assert erle_db(near, good, 2, 8) > erle_db(near, late, 2, 8) + 15


@pytest.mark.parametrize("canceller", [WebRtcCanceller, LinearCanceller])
def test_after_a_reset_it_is_as_new(voice: Samples, canceller: type[WebRtcCanceller | LinearCanceller]) -> None:
    near, far, used = heard_in(DRY, voice), ahead(voice), canceller()
    first = cleaned(used, near, far)
    assert not np.array_equal(cleaned(used, near, far), first)
    used.reset()
    assert np.allclose(cleaned(used, near, far), first, atol=1e-6)


def test_the_linear_one_learns_the_very_room() -> None:
    """Against the impulse response that the room was computed with, with white noise, which tells everything."""
    far = np.random.default_rng(1).normal(0, 0.05, 12 * MIC_HZ).astype(np.float32)
    canceller = LinearCanceller()
    near = heard_in(DRY, far)
    left = cleaned(canceller, near, ahead(far))
    learned = np.zeros(0, np.float32)
    impulse = np.zeros(FRAME_SAMPLES, np.float32)
    impulse[0] = 1.0
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    for _ in range(20):
        canceller.process(silence, silence)  # the reference leaves the filter
    for far_frame in (impulse, *[silence] * 9):
        learned = np.append(learned, -canceller.process(silence, far_frame))
    true = np.append(np.zeros(LEAD), response(DRY))[: learned.size]
    mistake = np.sum((learned[: true.size] - true) ** 2) / np.sum(true**2)
    assert 10 * np.log10(mistake) < -20
    assert erle_db(near, left, 6, 12) > 20


def test_the_linear_one_leaves_the_user_alone_and_webrtc_does_not(voice: Samples) -> None:
    """The user talks as loud as the echo; what is lost or added is told from the user's true sound."""
    user = np.zeros_like(voice)
    user[4 * MIC_HZ :] = speech_like(MIC_HZ, 8.0, seed=7)[4 * MIC_HZ :]
    echo = heard_in(ROOMS["laptop"], voice, 0.0)
    wrong_db: dict[str, float] = {}
    for name, canceller in {"linear": LinearCanceller(), "webrtc": WebRtcCanceller()}.items():
        left = cleaned(canceller, echo + user, ahead(voice))
        part = slice(4 * MIC_HZ, 8 * MIC_HZ)
        # The high-pass of WebRTC shifts phases, so levels are compared, per band of 100 Hz and frame.
        true, got = (np.abs(np.fft.rfft(np.reshape(sound[part], (-1, 160)))) for sound in (user, left))
        wrong_db[name] = float(10 * np.log10(np.sum((got - true) ** 2) / np.sum(true**2)))
    assert wrong_db["linear"] < -12
    assert wrong_db["linear"] < wrong_db["webrtc"] - 4


def test_without_playback_the_linear_one_gives_the_microphone_bit_for_bit(voice: Samples) -> None:
    canceller = LinearCanceller()
    cleaned(canceller, heard_in(DRY, voice), ahead(voice))
    silence = np.zeros(FRAME_SAMPLES, np.float32)
    tail = [canceller.process(silence, silence) for _ in range(21)]
    assert np.abs(tail[0]).max() > 0, "the end of the echo is still taken away"
    for frame in frames(speech_like(MIC_HZ, 0.5, seed=3)):
        assert np.array_equal(canceller.process(frame, silence), frame)


def measures(near: Samples, far: Samples, left: Samples, echo: Samples, speech: list[bool]) -> list[EchoMeasure]:
    meter = EchoMeter()
    rows = zip(frames(near), frames(far), frames(left), frames(echo), speech, strict=True)
    told = [meter.add(*sounds, speech=is_speech) for *sounds, is_speech in rows]
    return [measure for measure in told if measure is not None]


def test_the_meter_tells_erle_and_delay() -> None:
    random = np.random.default_rng(2)
    far = random.normal(0, 0.1, 12 * MIC_HZ).astype(np.float32)
    echo = 0.5 * np.append(np.zeros(800, np.float32), far[:-800])
    told = measures(echo, far, echo * np.float32(0.01), echo, [False] * (12 * 50))
    assert len(told) == 2
    for measure in told:
        assert measure.erle_db == pytest.approx(40, abs=0.1)
        assert measure.delay_s == pytest.approx(0.05)
        assert measure.residual_share == 0
    assert delay_s(echo[: 2 * MIC_HZ], far[: 2 * MIC_HZ]) == pytest.approx(0.05)


def test_the_meter_counts_only_playback() -> None:
    silence = np.zeros(20 * MIC_HZ, np.float32)
    assert measures(silence, silence, silence, silence, [True] * 1000) == []


def test_the_meter_keeps_the_user_and_the_echo_apart() -> None:
    random = np.random.default_rng(3)
    far, user = random.normal(0, 0.1, (2, 10 * MIC_HZ)).astype(np.float32)
    user[: 3 * MIC_HZ] = 0
    user[4 * MIC_HZ :] = 0
    echo = far * np.float32(0.3)
    talking = [150 <= frame < 200 for frame in range(500)]
    told, again = measures(echo + user, far, echo * np.float32(0.03) + user, echo, talking)
    assert told.erle_db == pytest.approx(30.5, abs=0.5), "the user's second does not count"
    assert told.residual_share == again.residual_share == 0
    leaks = [frame % 50 < 5 for frame in range(500)]
    assert [round(one.residual_share, 2) for one in measures(echo, far, echo, echo, leaks)] == [0.1, 0.1]
    assert measures(echo + 9 * user, far, user, echo, [True] * 500)[0].residual_share == pytest.approx(1)


def test_an_echo_that_comes_late_is_learned_within_seconds(voice: Samples) -> None:
    """Nothing comes back for 6 s, as at volume zero: a filter that is sure of silence must come to doubt it."""
    far = np.concatenate([voice, voice])
    near = heard_in(ROOMS["laptop"], far)
    near[: 6 * MIC_HZ] = np.random.default_rng(1).normal(0, 10**-3.5, 6 * MIC_HZ)
    left = cleaned(LinearCanceller(), near, ahead(far))
    assert erle_db(near, left, 10.0, 14.0) > 12
