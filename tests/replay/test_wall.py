"""Three dialogues at the speed of speech, with the real models and no sound card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.cli import main

DIALOGUES = Path(__file__).parents[1] / "dialogues"


@pytest.mark.models
@pytest.mark.wall
@pytest.mark.usefixtures("model_cache", "asr_path", "voice_path")
def test_real_models_hear_answer_stop_and_go_on(tmp_path: Path) -> None:
    scripts = [DIALOGUES / f"{name}.yaml" for name in ("plain_turn", "barge_in_early", "interruption_pauses")]
    report, record = tmp_path / "r.json", tmp_path / "o.wav"
    status = main(["replay", *map(str, scripts), "--report", str(report), "--record", str(record)])
    reports = json.loads(report.read_text("utf-8"))
    assert [one["failures"] for one in reports] == [[], [], []]
    assert status == 0
    cut = reports[1]["turns"][0]
    assert cut["reply_text"].split()[: cut["heard_words"]] == cut["reply_heard"].split()
    assert_the_recording_agrees(tmp_path / "o-barge_in_early.wav", cut)


def assert_the_recording_agrees(path: Path, cut: dict[str, Any]) -> None:
    """Measured from the sound alone: when the user stopped, the reply began, and the reply fell silent."""
    sides = np.frombuffer(path.read_bytes()[44:], "<i2").astype(np.float32).reshape(-1, 2) / 32768
    powers = np.square(sides[: len(sides) // 480 * 480]).reshape(-1, 480, 2).mean(axis=1)
    user, agent = (np.flatnonzero(side > 1e-5) / 100 for side in powers.T)
    first_s, last_s = cut["first_audio_s"], cut["last_audio_s"]
    assert agent[0] == pytest.approx(first_s, abs=0.06)
    # The last heard word may end before the gate shuts, in the pause between two words.
    assert last_s - 0.25 < agent[agent < last_s + 1].max() <= last_s + 0.02
    assert user[user < first_s].max() == pytest.approx(cut["user_end_s"], abs=0.06)
