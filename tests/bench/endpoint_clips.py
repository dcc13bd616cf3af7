"""Speech that ends, and speech that breaks off to think: the sound that tests/bench/fit_endpoint.py learns from.

A voice speaks the whole sentence, and the sound is cut where the text has a bar: so the last word before it has the
melody of a sentence that goes on. Voices: Piper, espeak-ng and flite; and a few human clips, cut at their pauses.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import subprocess
import tempfile
import tomllib
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice
from audio.wav import read_wav

TEXTS = Path(__file__).with_name("endpoint_texts.toml")
HUMAN = Path("/usr/share/pocketsphinx/test/data")
BAR = "|"
ESPEAK_FIT = ("en-us", "en-gb+f3", "en-us+m3")
PIPER_FIT_SEEDS = (0, 1, 2)
FLITE_TEST = ("slt", "rms", "awb", "kal16")
HUMAN_VOICE = "human"

_LEAD_MS, _TAIL_MS, _FADE_MS = 320, 100, 15
"""As the ears cut it: the preroll, and what they add behind the end of speech."""
_QUIET = 10 ** (-45 / 20)
_NOISE_DBFS = (-75.0, -55.0)
_PEAK = 0.4
_SHORTEST_PAUSE_MS = 120


class Spoken(NamedTuple):
    """A sentence, and where in its sound each bar of the text is."""

    sound: Samples
    """float32[n] at 16 kHz."""
    bars: list[int]


class Clip(NamedTuple):
    """What the ears hear when the user falls silent."""

    text: str
    """Which text, by list and place, and the number of the bar where it breaks off; 0 at the end."""
    voice: str
    finished: bool
    sound: Samples
    """float32[n] at 16 kHz: 0.32 s before the first sound, 0.1 s after the last, over faint noise."""


Speak = Callable[[str], Spoken]
"""A voice: text with bars to sound."""


def texts(test: bool) -> dict[str, str]:
    """The texts to fit or to test, by list and place. Every third is for the test."""
    lists: dict[str, list[str]] = tomllib.loads(TEXTS.read_text("utf-8"))
    return {
        f"{name}-{place}": text
        for name, listed in lists.items()
        for place, text in enumerate(listed)
        if (place % 3 == 2) == test
    }


def clips(voice: str, speak: Speak, said: dict[str, str]) -> Iterator[Clip]:
    """All that a voice says: each text whole, and up to each of its bars."""
    for name, text in said.items():
        spoken = speak(text)
        for number, end in enumerate([spoken.sound.size, *spoken.bars]):
            label = f"{name}/{number}"
            yield Clip(label, voice, number == 0, as_heard(spoken.sound[:end], f"{voice} {label}"))


def as_heard(sound: Samples, seed: str) -> Samples:
    """The sound without the silence around it, at one level, with a little of the room."""
    loud = np.flatnonzero(np.abs(sound) > _QUIET * np.abs(sound).max(initial=1e-9))
    kept = sound[loud[0] : loud[-1] + 1].copy()
    fade = min(kept.size, _samples(_FADE_MS))
    kept[kept.size - fade :] *= np.linspace(1, 0, fade, dtype=np.float32)
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    noise = 10 ** (rng.uniform(*_NOISE_DBFS) / 20) * rng.standard_normal(
        _samples(_LEAD_MS) + kept.size + _samples(_TAIL_MS)
    )
    noise[_samples(_LEAD_MS) :][: kept.size] += kept * (_PEAK / np.abs(kept).max())
    return noise.astype(np.float32)


def plain(text: str) -> str:
    """A text without its bars."""
    return " ".join(text.replace(BAR, " ").split())


def before_bars(text: str) -> list[str]:
    """What is said before each bar."""
    parts = text.split(BAR)
    return [" ".join(" ".join(parts[:count]).split()) for count in range(1, len(parts))]


# ---- voices ----


def piper(path: Path, seed: int) -> Speak:
    """Knows where each word ends."""
    voice = PiperVoice(path, seed=seed)

    def speak(text: str) -> Spoken:
        clip = voice.synthesise(plain(text))
        ends = [clip.words[len(said.split()) - 1].end for said in before_bars(text)]
        sound = soxr.resample(clip.samples, SPEAKER_HZ, MIC_HZ)
        return Spoken(sound, [end * MIC_HZ // SPEAKER_HZ for end in ends])

    return speak


def flite(name: str) -> Speak:
    """Tells when each phone of a sentence ends: the bar is after as many phones as the part before it has alone."""

    def phones(text: str, *options: str) -> list[str]:
        command = ["flite", "-voice", name, *options, "-t", text]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return [phone for phone in told if not phone.startswith("pau")]

    def speak(text: str) -> Spoken:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "line.wav")
            ends_s = [float(phone.partition(":")[2]) for phone in phones(plain(text), "-psdur", "-o", str(path))]
            sound = read_wav(path, MIC_HZ)
        counts = [len(phones(said, "-ps", "-o", "none")) for said in before_bars(text)]
        return Spoken(sound, [round(ends_s[count - 1] * MIC_HZ) for count in counts])

    return speak


class _EspeakEvent(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position_ms", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", ctypes.c_char * 8),
    )


_SYNCHRONOUS, _CHARACTERS, _UTF8 = 2, 1, 1
_LIST_END, _WORD = 0, 1


class Espeak:
    """libespeak-ng, which tells the sample at which each word begins. One for all of its voices."""

    def __init__(self) -> None:
        self._library: Any = ctypes.CDLL(ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1")
        self._rate_hz: int = self._library.espeak_Initialize(_SYNCHRONOUS, 0, None, 0)
        callback = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_EspeakEvent)
        )
        self._callback = callback(self._take)
        self._library.espeak_SetSynthCallback(self._callback)
        self._parts: list[Samples] = []
        self._words: dict[int, int] = {}

    def voice(self, name: str) -> Speak:
        """A voice and variant such as en-gb+f3."""

        def speak(text: str) -> Spoken:
            whole = plain(text)
            self._parts, self._words = [], {}
            self._library.espeak_SetVoiceByName(name.encode())
            data = whole.encode()
            self._library.espeak_Synth(data, len(data) + 1, 0, _CHARACTERS, 0, _UTF8, None, None)
            sound = np.concatenate(self._parts)
            # The word after the bar may have been joined with one before it; then the bar is where the next one begins.
            starts = [len(said) + 1 for said in before_bars(text)]
            bars = [min(sample for place, sample in self._words.items() if place >= start) for start in starts]
            return Spoken(soxr.resample(sound, self._rate_hz, MIC_HZ), [bar * MIC_HZ // self._rate_hz for bar in bars])

        return speak

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if samples and count:
            self._parts.append(_from_int16(np.ctypeslib.as_array(samples, (count,))))
        place = 0
        while events[place].type != _LIST_END:
            if events[place].type == _WORD:
                self._words[events[place].text_position - 1] = events[place].sample
            place += 1
        return 0


# ---- people ----


def human() -> Iterator[Clip]:
    """Clips of pocketsphinx-testdata, whole and cut at their pauses; they are not part of any fit."""
    for path in sorted([*HUMAN.glob("cards/*.wav"), *HUMAN.glob("librivox/*.wav"), *HUMAN.glob("*.raw")]):
        sound = _from_int16(np.fromfile(path, "<i2")) if path.suffix == ".raw" else read_wav(path, MIC_HZ)
        for number, end in enumerate([sound.size, *pauses(sound)]):
            label = f"{path.stem}/{number}"
            yield Clip(label, HUMAN_VOICE, number == 0, as_heard(sound[:end], label))


def pauses(sound: Samples) -> list[int]:
    """Where a pause of at least 120 ms begins inside of speech, to 10 ms."""
    grain = _samples(10)
    level = np.sqrt(np.mean(np.square(sound[: sound.size // grain * grain].reshape(-1, grain)), axis=1))
    loud = np.flatnonzero(level > 0.1 * np.quantile(level, 0.95))
    gaps = np.diff(loud)
    long = np.flatnonzero(gaps * 10 > _SHORTEST_PAUSE_MS)
    # Speech on both sides: a click is not worth a pause.
    return [int(loud[at] + 1) * grain for at in long if at >= 20 and loud.size - at > 20]


def _from_int16(samples: NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / np.float32(32768)


def _samples(duration_ms: int) -> int:
    return duration_ms * MIC_HZ // 1000


def voices(piper_path: Path, test: bool) -> Sequence[tuple[str, Speak]]:
    """The voices to fit or to test, by name."""
    if test:
        return [(f"flite-{name}", flite(name)) for name in FLITE_TEST]
    espeak = Espeak()
    return [
        *((f"piper-joe-{seed}", piper(piper_path, seed)) for seed in PIPER_FIT_SEEDS),
        *((f"espeak-{name}", espeak.voice(name)) for name in ESPEAK_FIT),
    ]
