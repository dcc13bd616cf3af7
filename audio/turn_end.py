"""How finished an utterance sounds: Smart Turn v3 (BSD-2-Clause), and the slopes of pitch and level at its end.

The model reads the log-mel spectrogram of the last 8 s as Whisper's does, but of sound with mean 0 and variance 1, and
padded in front.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from audio import prosody
from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, Samples

WINDOW_S = 8
_SAMPLES = WINDOW_S * MIC_HZ
_MELS, _FRAMES = 80, 800
_FFT, _HOP = 400, 160
_QUIETEST = 1e-10
_FLOOR_DECADES = 8.0
_INPUT = "input_features"


class SmartTurn:
    """Satisfies `app.sound_ports.TurnEnd`. About 45 ms of one core a call.

    Args:
        path: smart-turn-v3.*.onnx.

    Raises:
        SpeechModelError: The file is missing, or no Smart Turn model (from the constructor).
    """

    def __init__(self, path: Path) -> None:
        self._session = _load(path)
        self._filters = mel_filters()
        self.listen(np.zeros(MIC_HZ, np.float32))  # the first run allocates; no user should wait for that

    def listen(self, samples: Samples) -> dict[str, float]:
        """How the end of float32[n] at 16 kHz sounds. Only the last 8 s count.

        Returns:
            `smart_turn`, 0..1, how finished it sounds to the model; `speech_s`, seconds of speech; `pitch_slope` in
            semitones per second and `energy_slope` in dB per second at its end, unless too little of it is voiced.
        """
        heard = samples[-_SAMPLES:]
        features = log_mel(heard, self._filters)[None]
        probability = float(np.asarray(self._session.run(None, {_INPUT: features})[0]).item())
        moves = prosody.measure(heard)._asdict()
        return {"smart_turn": probability, **{name: value for name, value in moves.items() if value is not None}}


def log_mel(samples: Samples, filters: NDArray[np.float64]) -> NDArray[np.float32]:
    """The spectrogram that Smart Turn was trained on.

    Args:
        samples: float32[n] at 16 kHz, at most 8 s.
        filters: float64[80, 201], Slaney's mel filters.

    Returns:
        float32[80, 800]: log10 of the power, at most 8 decades below the loudest, as Whisper scales it.
    """
    padded = np.zeros(_SAMPLES)
    padded[_SAMPLES - samples.size :] = samples
    level = (padded - padded.mean()) / np.sqrt(padded.var() + 1e-7)
    framed = np.lib.stride_tricks.sliding_window_view(np.pad(level, _FFT // 2, mode="reflect"), _FFT)[::_HOP][:_FRAMES]
    spectrum = np.fft.rfft(framed * np.hanning(_FFT + 1)[:-1])
    log_power = np.log10(np.maximum(filters @ np.square(np.abs(spectrum)).T, _QUIETEST))
    return ((np.maximum(log_power, log_power.max() - _FLOOR_DECADES) + 4) / 4).astype(np.float32)


def mel_filters() -> NDArray[np.float64]:
    """Slaney's, float64[80, 201], as faster-whisper makes them for Whisper."""
    from faster_whisper.feature_extractor import FeatureExtractor

    return np.asarray(FeatureExtractor.get_mel_filters(MIC_HZ, _FFT, _MELS), np.float64)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise SpeechModelError(
            f"{path} is no end-of-turn model", "there is no such file", "fetch it: backtalk models pull smart-turn-v3.2"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # two are slower
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises bare exceptions of its own for a damaged file
        raise SpeechModelError(f"the end-of-turn model {path} can't be loaded", str(error), "fetch it again") from error
    shapes = {node.name: list(node.shape)[1:] for node in session.get_inputs()}
    if shapes != {_INPUT: [_MELS, _FRAMES]}:
        raise SpeechModelError(
            f"{path} is no end-of-turn model", f"it reads {shapes}", "name a Smart Turn v3 model, an .onnx file"
        )
    return session
