"""Speech to text: Whisper in CTranslate2, with an encoder window as short as the speech allows.

Whisper pads all sound to 30 s, which is where nearly all its time goes. CTranslate2 takes a shorter window as it is;
the catch is that the decoder then tends to say things twice, so loops are cut and the length is bounded by the sound's.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from audio.errors import SpeechModelError
from audio.frame import MIC_HZ, Samples

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

MAX_SECONDS = 28.0
_MIN_SAMPLES = MIC_HZ // 10  # no word is shorter than 0.1 s
_FRAMES_PER_S = 100
_SHORTEST_WINDOW_S, _SLACK_S, _FULL_WINDOW_S = 10.0, 4.0, 30.0
_FLOOR_DECADES = 8.0  # Whisper's spectrogram ends 8 decades below its loudest bin ...
_LOG_SCALE = 4.0  # ... and is divided by 4
_TOKENS_PER_S, _TOKENS_AT_LEAST = 9, 12  # the fastest speech has about 7 tokens a second

# Tried on tiny.en: noises (coughs, babble, hiss, hum, tones) have 0.64 to 0.98, and -1.1 or less where they gave words.
# Speech stays under 0.5; faint speech over hiss reaches 0.75 in a single word, and 0.6 in none that is longer.
_NO_SPEECH_SURE, _NO_SPEECH_LIKELY, _LOGPROB_POOR = 0.8, 0.6, -1.0
_NO_SPEECH_WEAK, _LOGPROB_WEAK = 0.5, -0.5

_ANNOTATION = re.compile(r"\[[^\]]*\]?|\([^)]*\)?|\*[^*]*\*?|[♪♫]+|>>")
_WORD = re.compile(r"[\w']+")
_HALLUCINATIONS = frozenset(
    {
        "you",
        "bye",
        "thank you",
        "thanks for watching",
        "thank you for watching",
        "so",
        "oh",
        "um",
        "hmm",
        "the",
        "i'm sorry",
    }
)
"""What Whisper makes of noise (it learnt from subtitles). All are real speech too, so weak evidence must join."""


class Transcript(NamedTuple):
    """One decode."""

    text: str
    """Stripped; empty where the sound was not speech."""
    no_speech: float
    """Whisper's probability that the sound is no speech, 0..1."""
    avg_logprob: float
    """Mean natural log probability of a token of `raw`."""
    raw: str
    """What the decoder said, before loops and noise were taken out."""
    took_ms: float


class Whisper:
    """A Whisper model in CTranslate2's format. Two threads may call it at once: both decode, on a core each.

    Greedy, no previous text, no timestamps: the partials and finals of a dialogue are short and must be alike.

    Args:
        path: Directory with model.bin, config.json and tokenizer.json.
        threads: Threads of one decode; with a short window a second one gains nothing.
        language: Code such as "de"; None lets a multilingual model detect it in each decode. English models ignore it.
        device: cpu or cuda.
        full_window: Pad to 30 s as Whisper was trained (the reference for benchmarks).

    Raises:
        SpeechModelError: The directory holds no Whisper model that CTranslate2 can load (from the constructor).
    """

    def __init__(
        self, path: Path, threads: int = 1, language: str | None = None, device: str = "cpu", full_window: bool = False
    ) -> None:
        self._whisper = _load(path, threads, device)
        self._tokenizer = self._whisper.hf_tokenizer
        self._shortest_window_s = _FULL_WINDOW_S if full_window else _SHORTEST_WINDOW_S
        self._start = self._token("<|startoftranscript|>")
        self._language = self._token(f"<|{language}|>") if language and self._whisper.model.is_multilingual else None
        # Only what must not be spoken is suppressed. Brackets are left in on purpose: a model that may say "[MUSIC]"
        # says so, and one that may not makes up words.
        names = ("<|transcribe|>", "<|translate|>", "<|startoftranscript|>", "<|startofprev|>", "<|startoflm|>")
        self._suppressed = [self._token(name) for name in names]
        self.transcribe(np.full(MIC_HZ, 1e-3, np.float32))  # the first decode allocates; no user should wait for that

    def transcribe(self, samples: Samples) -> Transcript:
        """Decode speech.

        Args:
            samples: float32[n] at 16 kHz, at most 28 s. Less than 0.1 s is never speech.

        Returns:
            The text without loops, annotations and what noise alone made Whisper say.
        """
        began_s = time.perf_counter()
        assert samples.size <= MAX_SECONDS * MIC_HZ, "segment longer sound"
        if samples.size < _MIN_SAMPLES or not samples.any():
            return Transcript("", 1.0, 0.0, "", 1000 * (time.perf_counter() - began_s))
        raw, no_speech, avg_logprob = self._decode(self._features(samples), samples.size / MIC_HZ)
        text = without_noise(cut_loops(raw), no_speech, avg_logprob)
        return Transcript(text, no_speech, avg_logprob, raw, 1000 * (time.perf_counter() - began_s))

    def _features(self, samples: Samples) -> NDArray[np.float32]:
        """Log-mel spectrogram, float32[mels, frames], padded with the level of silence to the window."""
        window_s = max(self._shortest_window_s, min(_FULL_WINDOW_S, samples.size / MIC_HZ + _SLACK_S))
        log_mel = np.asarray(self._whisper.feature_extractor(samples), np.float32)
        frames = 2 * round(window_s * _FRAMES_PER_S / 2)  # the encoder halves the rate
        # The extractor clipped at the floor and scaled: its loudest bin tells where the floor is.
        floor = log_mel.max() - _FLOOR_DECADES / _LOG_SCALE
        padded = np.full((log_mel.shape[0], frames), floor, np.float32)
        kept = min(frames, log_mel.shape[1])
        padded[:, :kept] = log_mel[:, :kept]
        return padded

    def _decode(self, features: NDArray[np.float32], seconds: float) -> tuple[str, float, float]:
        """Text, probability of no speech, mean log probability of a token."""
        encoded = self._whisper.encode(features)
        prompt = self._prompt(encoded)
        result = self._whisper.model.generate(
            encoded,
            [prompt],
            beam_size=1,
            sampling_temperature=0.0,
            max_length=len(prompt) + _TOKENS_AT_LEAST + int(_TOKENS_PER_S * seconds),
            suppress_tokens=self._suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )[0]
        tokens: list[int] = result.sequences_ids[0]
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip(), float(result.no_speech_prob), float(result.scores[0])

    def _prompt(self, encoded: Any) -> list[int]:
        no_timestamps = self._token("<|notimestamps|>")
        if not self._whisper.model.is_multilingual:
            return [self._start, no_timestamps]
        language = self._language
        if language is None:
            name, _ = self._whisper.model.detect_language(encoded)[0][0]
            language = self._token(name)
        return [self._start, language, self._token("<|transcribe|>"), no_timestamps]

    def _token(self, name: str) -> int:
        token = self._tokenizer.token_to_id(name)
        if token is None:
            raise SpeechModelError(
                "the recogniser can't be used",
                f"its tokenizer has no {name}",
                "name a Whisper model, and a language that it knows",
            )
        return token


def cut_loops(text: str) -> str:
    """Cut a transcript where it begins to repeat itself.

    Said again at once, one word is kept three times ("no, no, no" is speech), two words twice, more words once. A last
    repetition may be broken off up to two words before its end, if it has at least four. Words are compared without
    case and punctuation.
    """
    words = text.split()
    cores = [" ".join(_WORD.findall(word)).casefold() for word in words]
    for at in range(1, len(words)):
        for period in range(1, at + 1):
            kept = period * {1: 3, 2: 2}.get(period, 1)
            run = _run(cores, at, period)
            broken_off = at + run == len(words) and run >= max(4, period - 2)
            if run >= kept or broken_off:
                return " ".join(words[: at - period + kept])
    return text


def _run(cores: list[str], at: int, period: int) -> int:
    """How many words from `at` on equal the word `period` before."""
    run = 0
    while at + run < len(cores) and cores[at + run] == cores[at + run - period]:
        run += 1
    return run


def without_noise(text: str, no_speech: float, avg_logprob: float) -> str:
    """What of a transcript is speech.

    Args:
        text: What the decoder said.
        no_speech: Its probability of no speech.
        avg_logprob: Its mean log probability of a token.

    Returns:
        The text without annotations such as "[MUSIC]"; empty if the evidence says that nobody spoke.
    """
    if no_speech > _NO_SPEECH_SURE or (no_speech > _NO_SPEECH_LIKELY and avg_logprob < _LOGPROB_POOR):
        return ""
    kept = " ".join(_ANNOTATION.sub(" ", text).split())
    said = " ".join(_WORD.findall(kept.casefold()))
    if not said or (said in _HALLUCINATIONS and no_speech > _NO_SPEECH_WEAK and avg_logprob < _LOGPROB_WEAK):
        return ""
    return kept


def _load(path: Path, threads: int, device: str) -> WhisperModel:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        if not (path / name).is_file():
            raise SpeechModelError(
                f"{path} is not a recogniser",
                f"it has no {name}",
                "name a directory with a Whisper model for CTranslate2",
            )
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(
            str(path),
            device=device,
            cpu_threads=threads,
            num_workers=2,
            compute_type="int8" if device == "cpu" else "int8_float16",
        )
    except (RuntimeError, ValueError) as error:
        raise SpeechModelError(f"the recogniser in {path} can't be loaded", str(error), "fetch it again") from error
