"""Whether there is an echo is told at the first sound, and again when headphones are plugged in or out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from audio.echo_notice import EchoNotice
from audio.frame import FRAME_SAMPLES

Frames = list[NDArray[np.float32]]
SILENCE = np.zeros(FRAME_SAMPLES, np.float32)


def noise(seed: int, frames: int, dbfs: float) -> Frames:
    sound = np.random.default_rng(seed).standard_normal(frames * FRAME_SAMPLES) * 10 ** (dbfs / 20)
    return list(sound.astype(np.float32).reshape(frames, FRAME_SAMPLES))


def played(floor_dbfs: float, echo_dbfs: float | None, late_frames: int = 4) -> tuple[Frames, Frames, Frames]:
    """2 s of silence and 1 s of playback, whose echo comes late: microphone, reference, echo alone."""
    floor, speaker = noise(1, 150, floor_dbfs), noise(2, 50, -20)
    far = [SILENCE] * 100 + speaker
    gain = np.float32(0 if echo_dbfs is None else 10 ** ((echo_dbfs + 20) / 20))
    echo = [SILENCE] * (100 + late_frames) + [frame * gain for frame in speaker[: 50 - late_frames]]
    return [one + other for one, other in zip(floor, echo, strict=True)], far, echo


def told(notice: EchoNotice, near: Frames, far: Frames, echo: Frames) -> list[float]:
    rises = [notice.add(*frames) for frames in zip(near, far, echo, strict=True)]
    return [rise for rise in rises if rise is not None]


@pytest.mark.parametrize("floor_dbfs", [-90, -75, -50])
def test_an_echo_is_noticed_once_with_its_level(floor_dbfs: float) -> None:
    notice = EchoNotice()
    (rise_db,) = told(notice, *played(floor_dbfs, -30))
    assert rise_db == pytest.approx(-30 - floor_dbfs, abs=1.5)
    assert notice.present


@pytest.mark.parametrize("floor_dbfs", [-90, -75, -40])
def test_without_an_echo_there_is_none(floor_dbfs: float) -> None:
    notice = EchoNotice()
    assert told(notice, *played(floor_dbfs, None)) == [0.0]
    assert notice.present is False


def test_an_echo_under_the_noise_of_the_room_is_none() -> None:
    assert told(EchoNotice(), *played(-40, -55)) == [0.0]


def test_what_the_user_said_just_before_hides_no_echo() -> None:
    near, far, echo = played(-75, -30)
    near[25:75] = noise(4, 50, -25)
    (rise_db,) = told(EchoNotice(), near, far, echo)
    assert rise_db > 30


def test_a_user_who_speaks_already_when_playback_begins_is_no_echo() -> None:
    near, far, echo = played(-75, None)
    near[95:115] = noise(4, 20, -25)
    assert told(EchoNotice(), near, far, echo) == [0.0]


def test_an_echo_under_a_user_who_speaks_already_is_noticed_by_what_the_canceller_explains() -> None:
    near, far, echo = played(-75, -30)
    near[95:115] = [one + other for one, other in zip(near[95:115], noise(4, 20, -30), strict=True)]
    (rise_db,) = told(EchoNotice(), near, far, echo)
    assert rise_db > 30


@pytest.mark.parametrize(("after_frames", "echo"), [(4, True), (10, False)])
def test_a_user_who_goes_on_just_after_the_reply_began_is_no_echo(after_frames: int, echo: bool) -> None:
    near, far, nothing = played(-75, None)
    near[100 + after_frames :] = noise(4, 50 - after_frames, -25)
    notice = EchoNotice()
    assert bool(told(notice, near, far, nothing)) == echo, "in the very moment it can't be told"
    assert notice.present is (True if echo else None)


def test_a_click_is_no_echo() -> None:
    near, far, echo = played(-75, None)
    near[110] = noise(3, 1, -20)[0]
    assert told(EchoNotice(), near, far, echo) == [0.0]


def test_before_playback_nothing_is_told() -> None:
    notice = EchoNotice()
    assert told(notice, noise(1, 200, -10), [SILENCE] * 200, [SILENCE] * 200) == []
    assert notice.present is None


def test_headphones_plugged_in_and_out_again_are_noticed() -> None:
    notice = EchoNotice()
    assert [rise > 0 for _ in range(3) for rise in told(notice, *played(-75, -30))] == [True]
    assert told(notice, *played(-75, None)) == [0.0]
    (rise_db,) = told(notice, *played(-75, -30))
    assert rise_db > 30


def test_a_user_who_talks_over_headphones_is_no_echo() -> None:
    notice = EchoNotice()
    told(notice, *played(-75, None))
    user = noise(6, 100, -25)
    wrong = [frame * np.float32(0.2) for frame in user]  # a canceller that has learned a little of the user
    assert told(notice, user, noise(7, 100, -20), wrong) == []
    assert notice.present is False


def test_clicks_one_after_the_other_are_no_echo() -> None:
    near, far, echo = played(-75, None)
    for at in (105, 115):
        near[at] = noise(3, 1, -20)[0]
    assert told(EchoNotice(), near, far, echo) == [0.0]


def test_an_echo_that_hardly_rises_over_the_room_is_noticed_by_what_the_canceller_explains() -> None:
    near, far, echo = played(-40, -32)
    notice = EchoNotice()
    (rise_db,) = told(notice, near, far, echo)
    assert rise_db > 0
    assert notice.present
