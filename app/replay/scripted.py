"""Parts without sound and models, for virtual time.

They are pure coroutines with the times of the real ones, and stricter: a boundary that is not there, a rollback during
a decode, or two replies at once is an assertion, not a wrong answer.
"""

from __future__ import annotations

from typing import NamedTuple

from app.config import Config
from app.ports import Clock, Parts
from app.replay.paces import Faults as Faults
from app.replay.paces import Jitter as Jitter
from app.replay.paces import Times as Times
from app.replay.script import Script
from app.replay.scripted_brain import CUT as CUT
from app.replay.scripted_brain import Said as Said
from app.replay.scripted_brain import ScriptedBrain as ScriptedBrain
from app.replay.scripted_ears import ScriptedEars as ScriptedEars
from app.replay.scripted_mouth import ScriptedMouth


class Stage(NamedTuple):
    """Scripted parts that know of each other."""

    parts: Parts
    ears: ScriptedEars
    brain: ScriptedBrain


def stage(clock: Clock, script: Script, config: Config, times: Times, jitter: float) -> Stage:
    """The parts for a script.

    Args:
        clock: The session's.
        script: It has `replies`.
        config: Its seed draws what is irregular, and its context bounds the model's.
        times: How long things take, and how often they go wrong.
        jitter: Up to this share of it is added to each time.
    """
    ears_draw, brain_draw, mouth_draw = (Jitter(config.seed + part, jitter, times.faults) for part in range(3))
    mouth = ScriptedMouth(clock, times, mouth_draw)
    ears = ScriptedEars(clock, times, ears_draw, mouth)
    brain = ScriptedBrain(times, brain_draw, script.replies, config.llm.context_tokens)
    return Stage(Parts(clock, ears, brain, mouth), ears, brain)
