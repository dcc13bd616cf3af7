"""Voice activity: the Silero model that ships inside faster-whisper, and the gate that turns scores into on and off."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime

from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, Samples

WINDOW_SAMPLES = 512
_CONTEXT_SAMPLES = 64  # the model sees the last 4 ms of the window before
_STATE_SHAPE = (1, 1, 128)
# Measured on 28 synthetic clips of known edges over faint noise, each at three places of the window grid: the window in
# which the score rises ends 49 ms (median; 5 to 95 %: 22 to 100) after the first sound, the one in which it falls 80 ms
# (35 to 104) after the last.
_ONSET_LEAD_SAMPLES = 49 * MIC_HZ // 1000
_OFFSET_LEAD_SAMPLES = 80 * MIC_HZ // 1000


class SileroVad:
    """Probability of speech in each window of 32 ms (Silero VAD v6, MIT licence). Streaming, about 0.1 ms a window.

    Raises:
        SpeechModelError: The installed faster-whisper carries no such model (from the constructor).
    """

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(_model_path(), options, providers=["CPUExecutionProvider"])
        self._input = np.zeros((1, _CONTEXT_SAMPLES + WINDOW_SAMPLES), np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next window is the first."""
        self._hidden = np.zeros(_STATE_SHAPE, np.float32)
        self._cell = np.zeros(_STATE_SHAPE, np.float32)
        self._input[:] = 0

    def score(self, window: Samples) -> float:
        """Probability that the window, float32[512] at 16 kHz, holds speech. Windows come in order, without gaps."""
        self._input[0, :_CONTEXT_SAMPLES] = self._input[0, -_CONTEXT_SAMPLES:]
        self._input[0, _CONTEXT_SAMPLES:] = window
        scores, self._hidden, self._cell = self._session.run(
            None, {"input": self._input, "h": self._hidden, "c": self._cell}
        )
        return float(np.asarray(scores).item())


class Transition(NamedTuple):
    """Speech began or ended."""

    speaking: bool
    at_sample: int
    """Our best estimate of where it really did, 16 kHz index."""


class SpeechGate:
    """Scores to transitions, with hysteresis. Pure. Transitions never go back behind the one before.

    Args:
        start: Score from which on silence becomes speech.
        end: Score below which speech becomes silence.
        onset_lead_samples: How long before the end of the first loud window speech began, on average.
        offset_lead_samples: How long before the end of the first quiet window speech ended, on average.
    """

    def __init__(
        self,
        start: float = 0.5,
        end: float = 0.35,
        onset_lead_samples: int = _ONSET_LEAD_SAMPLES,
        offset_lead_samples: int = _OFFSET_LEAD_SAMPLES,
    ) -> None:
        self._start, self._end = start, end
        self._lead_samples = {True: onset_lead_samples, False: offset_lead_samples}
        self._speaking = False
        self._last_at_sample = 0

    @property
    def speaking(self) -> bool:
        return self._speaking

    def update(self, score: float, window_end_sample: int) -> Transition | None:
        """Take the score of the window that ends before `window_end_sample`; windows come in order."""
        speaking = score >= (self._end if self._speaking else self._start)
        if speaking == self._speaking:
            return None
        self._speaking = speaking
        at_sample = max(self._last_at_sample, window_end_sample - self._lead_samples[speaking])
        self._last_at_sample = at_sample
        return Transition(speaking, at_sample)


def _model_path() -> str:
    """Found without importing faster_whisper, which would load its whole decoder."""
    package = importlib.util.find_spec("faster_whisper")
    roots = (package.submodule_search_locations if package else None) or []
    found = sorted(path for root in roots for path in Path(root, "assets").glob("silero_vad*.onnx"))
    if not found:
        raise SpeechModelError(
            "the voice-activity model is missing",
            "faster-whisper carries no silero_vad*.onnx",
            "reinstall: pip install 'faster-whisper>=1.2,<2'",
        )
    return str(found[-1])
