"""Does the short encoder window of audio/asr.py cost words? `python -m tests.bench.asr_window` prints JSON.

The same model decodes the same speech with the short window and with the 30 s on which Whisper was trained, in turn.
The texts below were not used to choose the window; the human clips (pocketsphinx-testdata) were: they are apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import soxr

from app import models
from app.machine import describe
from audio.asr import Transcript, Whisper
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice
from audio.wav import read_wav

HUMAN = Path("/usr/share/pocketsphinx/test/data")
TEXTS = (
    "The museum opens at nine and closes before sunset.",
    "Please put the green box under the kitchen table.",
    "My grandfather built this boat with his own hands.",
    "Is there a pharmacy near the market square?",
    "No.",
    "Yes, please.",
    "Hold on a second.",
    "That sounds wonderful, thank you.",
    "We ought to leave early, because the road is often blocked in the morning.",
    "I never understood why people collect old stamps.",
    "Could you say that again, but slower?",
    "The doctor told him to drink more water and to sleep longer.",
    "Everybody laughed when the clown fell into the fountain.",
    "Write a note to the teacher about the school trip.",
    "How far is it from Madrid to Paris by train?",
    "She closed the window, sat down by the fire and opened her book.",
    "Actually, I would rather hear about volcanoes.",
    "What did you just say about the second one?",
    "The farmers hope for rain, since the fields have been dry for several weeks, and the river is lower than ever.",
    "When the storm was over we walked along the beach, looked for shells and talked of the years when we were young.",
)
ESPEAK_VOICES = ("en-us", "en-gb")
_DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


class Utterance(NamedTuple):
    group: str
    text: str
    sound: Samples


def normalised(text: str) -> list[str]:
    """Words without case and punctuation, small numbers spelled out."""
    text = re.sub(r"\bmr\b", "mister", text.casefold().replace("-", " "))
    words = re.findall(r"[\w']+", text)
    return [_DIGITS[int(word)] if word.isdecimal() and int(word) < len(_DIGITS) else word for word in words]


def word_errors(said: list[str], heard: list[str]) -> int:
    """Substitutions, insertions and deletions of the cheapest alignment (Levenshtein 1966)."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        previous, row = row, [i]
        for j, other in enumerate(heard, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (word != other)))
    return row[-1]


def human() -> list[Utterance]:
    """Clips of pocketsphinx-testdata with their transcriptions, as far as they are installed."""
    found: list[Utterance] = []
    for listing in (HUMAN / "librivox" / "transcription", HUMAN / "cards" / "cards.transcription"):
        lines = listing.read_text("utf-8").splitlines() if listing.exists() else []
        for match in filter(None, (re.match(r"<s>(.*)</s>\s*\((.*)\)", line) for line in lines)):
            clip = listing.parent / f"{match[2]}.wav"
            found.append(Utterance("human", match[1].strip(), read_wav(clip, MIC_HZ)))
    return found


def synthetic(voice_path: Path) -> list[Utterance]:
    """The texts in Piper's voice, and in espeak-ng's where it is installed."""
    voice = PiperVoice(voice_path)
    spoken = [
        Utterance("piper", text, soxr.resample(voice.synthesise(text).samples, SPEAKER_HZ, MIC_HZ)) for text in TEXTS
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "line.wav")
        for name, text in itertools.product(ESPEAK_VOICES, TEXTS):
            try:
                subprocess.run(["espeak-ng", "-v", name, "-w", str(path), text], check=True)
            except FileNotFoundError:
                break
            spoken.append(Utterance("espeak", text, read_wav(path, MIC_HZ)))
    return spoken


def row(name: str, group: str, utterances: list[Utterance], transcripts: list[Transcript]) -> dict[str, object]:
    """One line of the report: errors and times of one window on one group."""
    pairs = [
        (normalised(said.text), normalised(heard.text)) for said, heard in zip(utterances, transcripts, strict=True)
    ]
    errors, words = sum(word_errors(*pair) for pair in pairs), sum(len(said) for said, _ in pairs)
    p50, p95, p99 = np.percentile([transcript.took_ms for transcript in transcripts], [50, 95, 99])
    times = {"p50": round(p50, 1), "p95": round(p95, 1), "p99": round(p99, 1)}
    score = {"errors": errors, "words": words, "word_error_rate": round(errors / words, 4)}
    return {"name": name, "params": {"speech": group}, "unit": "ms", "n": len(pairs), **times, **score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr", default="whisper-tiny.en")
    parser.add_argument("--voice", default="en_US-joe-medium")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    path = models.resolve(options.asr, "asr")
    windows = {"short": Whisper(path, options.threads), "30 s": Whisper(path, options.threads, full_window=True)}
    utterances = human() + synthetic(models.resolve(options.voice, "voice"))
    transcripts: dict[str, list[Transcript]] = {name: [] for name in windows}
    for utterance in utterances:
        for name, whisper in windows.items():
            transcripts[name].append(whisper.transcribe(utterance.sound))
    rows: list[dict[str, object]] = []
    for group in dict.fromkeys(utterance.group for utterance in utterances):
        chosen = [k for k, utterance in enumerate(utterances) if utterance.group == group]
        for name, all_of_it in transcripts.items():
            rows.append(row(name, group, [utterances[k] for k in chosen], [all_of_it[k] for k in chosen]))
    report = {
        "bench": "asr_window",
        "machine": msgspec.to_builtins(describe()),
        "model": options.asr,
        "device": "cpu",
        "dtype": "int8",
        "threads": options.threads,
        "rows": rows,
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
