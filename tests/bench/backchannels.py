"""Does a reply go on through "mm-hm" and end at "no, wait"? `python -m tests.bench.backchannels` prints JSON.

Phrases in many voices go through the real voice activity and the real recogniser as LiveEars would send them, and each
transcript to app/overlap.py. Lists and rules were made while looking at the part "seen". The phrases and voices of the
part "unseen" were run once they were done, and showed only that "When?" must not be taken for a murmur. Wants espeak-ng
and flite; a voice that is not installed is left out and named on stderr. "-o clips.json" keeps what was heard.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import soxr

from app import models
from app.language import Language, load, words_of
from app.machine import describe
from app.overlap import Overlap, Verdict, judge
from app.timing import Turns
from audio.agree import Agreement
from audio.asr import Whisper
from audio.frame import MIC_HZ, SPEAKER_HZ, Samples
from audio.tts import PiperVoice
from audio.vad import WINDOW_SAMPLES, SileroVad, SpeechGate
from audio.wav import read_wav

Kind = Literal["backchannel", "stop", "turn"]
Part = Literal["seen", "unseen"]

ENDS_REPLY = ("turn", "stop")
TAIL_S, PARTIAL_S = 0.1, 0.4  # as app/listening.py has them
DECODE_S = 0.12
"""Taken for a decode, so that times don't depend on what else the machine does; bench/turn measures the real ones."""
SPEECH_DBFS, ROOM_DBFS = -26.0, -65.0
BEFORE_S, AFTER_S = 0.7, 1.2

PHRASES: dict[Part, dict[Kind, tuple[str, ...]]] = {
    "seen": {
        "backchannel": (
            *("Uh-huh.", "Yeah.", "Right.", "Okay.", "I see.", "Sure.", "Got it.", "Oh, wow.", "Hmm.", "Yes."),
            *("Aha.", "Yeah, yeah.", "Oh, really?", "Cool.", "Nice.", "I understand.", "That makes sense.", "Yep."),
            *("Okay, sure.", "Oh, yeah.", "All right.", "Of course.", "Interesting.", "Oh, I see.", "Exactly."),
            *("Yup.", "Great.", "True.", "Okay, okay.", "Oh, nice.", "Really?", "Makes sense.", "Uh-huh, right."),
            *("Huh.", "Ah, okay.", "Gotcha.", "Good point.", "Fair enough.", "That's right.", "Oh, my goodness."),
            *("Well, yeah.", "Oh, good."),
        ),
        "stop": (
            *("Stop.", "Stop it.", "Be quiet.", "That's enough.", "Shut up.", "Okay, stop.", "Stop talking."),
            *("Please stop.", "Enough.", "Quiet, please.", "Stop right there.", "No, stop.", "Okay, that's enough."),
        ),
        "turn": (
            *("Wait.", "No, tell me about Greece instead.", "What about Rome?", "No.", "Hold on.", "But why?"),
            *("What?", "Actually, I want to hear something else.", "Can you speak louder?"),
            *("That's not what I asked.", "Why?", "How old is it?", "Sorry, what was that?", "I have a question."),
            *("Tell me about the weather.", "Who built it?", "Okay, but what about the price?"),
            *("Yeah, but how long does it take?", "Excuse me.", "Skip to the end, please.", "Hang on a second."),
            *("No, no, I meant the other one.", "Where is that?", "When did that happen?", "Who?"),
            *("I don't understand.", "Hey, listen.", "Let me ask you something.", "Is it far from here?"),
            *("Not that one.", "And what about Spain?", "Right, but is it safe?", "You already said that."),
            *("Can we talk about music?", "Please speak more slowly.", "How much does it cost?"),
            *("Could you repeat the last part?", "Hello?", "I wanted to know the date."),
            *("Sure, but which bus do I take?", "Actually, what can I eat there?"),
        ),
    },
    "unseen": {
        "backchannel": (
            *("Oh, okay.", "Yes, yes.", "Right, okay.", "Hmm, okay.", "I know.", "Very nice.", "Oh, cool."),
            *("Sounds good.", "Definitely.", "Absolutely.", "Uh-huh, sure.", "That's true.", "That's great."),
            *("Yeah, right.", "Ah, I see.", "No way.", "Really? Wow.", "Fascinating.", "You're right."),
            *("Yeah, sure.", "Oh, right.", "Good.", "Perfect."),
        ),
        "stop": ("Stop, please.", "Be silent.", "Stop speaking.", "Never mind.", "That will do.", "Silence."),
        "turn": (
            *("Hold on a moment.", "No, not that.", "What does that mean?", "Why is that?", "Say that again."),
            *("I want to talk about football.", "How far is it?", "Wait a second.", "Is that true?"),
            *("But that's wrong.", "My question was about Italy.", "Yes, but when?", "Okay, now tell me a joke."),
            *("Can you help me?", "Listen to me.", "Which one?", "Who told you that?", "That's wrong."),
            *("Louder, please.", "When?", "I already know that."),
        ),
    },
}
HUMS: dict[Part, dict[str, tuple[str, str]]] = {
    "seen": {"mm-hm": ("m:_hm'm:", "m m hh m m"), "mm": ("m'm:m:", "m m m")},
    "unseen": {"hm": ("hm'm:", "hh m m m"), "mhm": ("mhm'm", "m hh m")},
}
"""Text to speech spells these out, so their phonemes are given: espeak-ng's names and flite's."""
HUMMERS: dict[Part, tuple[float, ...]] = {"seen": (105.0, 190.0), "unseen": (85.0, 130.0, 230.0)}
"""Pitches in Hz."""


class Speaker(NamedTuple):
    """A voice: a program with its options, or Piper."""

    name: str
    part: Part
    program: Literal["piper", "espeak-ng", "flite"]
    options: tuple[str, ...] = ()


SPEAKERS = (
    Speaker("joe", "seen", "piper"),
    Speaker("en-us+f3", "seen", "espeak-ng", ("-v", "en-us+f3", "-s", "165")),
    Speaker("en-gb+m3", "seen", "espeak-ng", ("-v", "en-gb+m3", "-s", "180")),
    Speaker("en-us", "seen", "espeak-ng", ("-v", "en-us", "-s", "200", "-p", "35")),
    Speaker("slt", "seen", "flite", ("-voice", "slt")),
    Speaker("awb", "seen", "flite", ("-voice", "awb")),
    Speaker("rms", "seen", "flite", ("-voice", "rms")),
    Speaker("kal", "seen", "flite", ("-voice", "kal16")),
    Speaker(
        "slt, deep and slow",
        "unseen",
        "flite",
        ("-voice", "slt", "--setf", "int_f0_target_mean=130", "--setf", "duration_stretch=1.15"),
    ),
    Speaker("rms, hurried", "unseen", "flite", ("-voice", "rms", "--setf", "duration_stretch=0.85")),
    Speaker("en-gb-x-rp+f2", "unseen", "espeak-ng", ("-v", "en-gb-x-rp+f2", "-s", "160")),
    Speaker("en-us-nyc+m1", "unseen", "espeak-ng", ("-v", "en-us-nyc+m1", "-s", "185")),
)


class Clip(NamedTuple):
    """Something said over a reply, and what should come of it."""

    part: Part
    kind: Kind
    voice: str
    text: str
    sound: Samples


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a clip."""

    part: Part
    kind: Kind
    voice: str
    text: str
    heard: tuple[str, ...]
    verdict: str
    reason: str
    ms: float | None
    partials: int
    right: bool
    heard_right: bool
    """Some transcript has the very words."""


class Overheard(NamedTuple):
    """What was made of a clip."""

    heard: list[str]
    """All transcripts, "…" behind a partial."""
    verdict: Verdict | None
    """The first that ends the reply, else the last."""
    after_s: float | None
    """From the onset to the verdict."""
    partials: int
    """Partials with words until then."""


def overhear(sound: Samples, vad: SileroVad, whisper: Whisper, language: Language, turns: Turns) -> Overheard:
    """Listen to one clip over a reply, decoding as LiveEars does."""
    gate = SpeechGate()
    vad.reset()
    heard: list[str] = []
    last: tuple[Verdict | None, float | None, int] = (None, None, 0)
    onset = partial_from = stopped_at = partials = 0
    agreement, settled = Agreement(), True
    for end in range(WINDOW_SAMPLES, sound.size + 1, WINDOW_SAMPLES):
        transition = gate.update(vad.score(sound[end - WINDOW_SAMPLES : end]), end)
        if transition is not None and not transition.speaking:
            stopped_at = transition.at_sample
        elif transition is not None and settled:
            onset = partial_from = transition.at_sample
            agreement, partials, settled = Agreement(), 0, False
        start = max(0, onset - turns.preroll_ms * MIC_HZ // 1000)
        if gate.speaking and end - partial_from >= PARTIAL_S * MIC_HZ:
            partial_from = until = end
            text = " ".join(agreement.update(whisper.transcribe(sound[start:end]).text)).strip()
            partials += bool(text)
            heard.append(f"{text} …")
        elif not gate.speaking and not settled and end - stopped_at >= turns.probe_ms * MIC_HZ // 1000:
            settled, until = True, stopped_at
            text = whisper.transcribe(sound[start : min(end, stopped_at + round(TAIL_S * MIC_HZ))]).text
            heard.append(text)
        else:
            continue
        speech_ms = 1000 * (until - onset) / MIC_HZ
        verdict = judge(Overlap(text, settled, speech_ms, question=False, said=()), language, turns)
        if verdict is not None:
            last = (verdict, (end - onset) / MIC_HZ + DECODE_S, partials)
            if verdict.kind in ENDS_REPLY:
                break
    return Overheard(heard, *last)


def judged(clip: Clip, vad: SileroVad, whisper: Whisper, language: Language, turns: Turns) -> Outcome:
    """The outcome of a clip: a backchannel must not end the reply, a stop word must be known, a turn must end it.

    A stop word may also be known later, from the whole utterance, when something else has ended the reply before.
    """
    heard, verdict, after_s, partials = overhear(clip.sound, vad, whisper, language, turns)
    kind = verdict.kind if verdict else "none"
    ended = kind in ENDS_REPLY
    known = kind == "stop" or (ended and language.command(whisper.transcribe(clip.sound).text) == "stop")
    right = {"backchannel": not ended, "stop": known, "turn": ended}
    return Outcome(
        part=clip.part,
        kind=clip.kind,
        voice=clip.voice,
        text=clip.text,
        heard=tuple(heard),
        verdict=kind,
        reason=verdict.reason if verdict else "",
        ms=None if after_s is None else round(1000 * after_s),
        partials=partials,
        right=right[clip.kind],
        heard_right=words_of(clip.text) in [words_of(text) for text in heard],
    )


# ---- the sounds ----


def clips(voice_path: Path) -> Iterator[Clip]:
    """All phrases in all voices of the same part that are installed."""
    piper = PiperVoice(voice_path)
    for speaker in SPEAKERS:
        if speaker.program != "piper" and not shutil.which(speaker.program):
            print(f"left out: {speaker.name}, for {speaker.program} is not installed", file=sys.stderr)
            continue
        say = teller(speaker, piper)
        for kind, texts in PHRASES[speaker.part].items():
            for text in texts:
                yield Clip(speaker.part, kind, speaker.name, text, in_a_room(say(text, False)))
        if speaker.program != "piper":
            for name, (espeak, flite) in HUMS[speaker.part].items():
                sound = say(espeak if speaker.program == "espeak-ng" else flite, True)
                yield Clip(speaker.part, "backchannel", speaker.name, name, in_a_room(sound))
    for part, pitches_hz in HUMMERS.items():
        for pitch_hz in pitches_hz:
            for name, syllables in (("mm-hm", 2), ("mm", 1), ("mm-hm, mm-hm", 4)):
                yield Clip(part, "backchannel", f"hum {pitch_hz:.0f} Hz", name, in_a_room(hum(pitch_hz, syllables)))


def teller(speaker: Speaker, piper: PiperVoice) -> Callable[[str, bool], Samples]:
    """A function from text, or phonemes, to float32[n] at 16 kHz."""

    def say(text: str, phonemes: bool) -> Samples:
        if speaker.program == "piper":
            return spoken(piper, text)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "phrase.wav")
            if speaker.program == "espeak-ng":
                command = ["espeak-ng", *speaker.options, "-w", str(path), f"[[{text}]]" if phonemes else text]
            else:
                command = ["flite", *speaker.options, "-p" if phonemes else "-t", text, str(path)]
            subprocess.run(command, check=True, capture_output=True)
            return read_wav(path, MIC_HZ)

    return say


def spoken(piper: PiperVoice, text: str) -> Samples:
    """The text in Piper's voice, float32[n] at 16 kHz."""
    return soxr.resample(piper.synthesise(text).samples, SPEAKER_HZ, MIC_HZ)


def hum(pitch_hz: float, syllables: int) -> Samples:
    """A murmur with closed lips: a buzz through the resonances of the nose, each pair of syllables joined by a breath.

    The resonances are about those of [m] in Fant, Acoustic Theory of Speech Production (1960); the pitch falls in the
    first syllable of a pair and rises in the second. Returns float32[n] at 16 kHz.
    """
    rng = np.random.default_rng(int(pitch_hz))
    seconds = 0.22 if syllables > 1 else 0.35
    time_s = np.arange(int(seconds * MIC_HZ)) / MIC_HZ
    harmonics_hz = pitch_hz * np.arange(1, int(3500 / pitch_hz))
    levels = sum(level / (1 + ((harmonics_hz - at_hz) / width_hz) ** 2) for at_hz, width_hz, level in _NASAL)
    levels /= np.sqrt(harmonics_hz)
    pieces: list[Samples] = []
    for syllable in range(syllables):
        first = syllable % 2 == 0
        pitch = pitch_hz * (1 + (-0.08 if first else 0.18) * time_s / seconds)
        phase = 2 * np.pi * np.cumsum(pitch) / MIC_HZ
        buzz = np.sin(np.outer(phase, harmonics_hz / pitch_hz)) @ levels
        pieces.append((buzz / np.abs(buzz).max() * np.hanning(time_s.size) ** 0.4).astype(np.float32))
        pause = rng.normal(0, 0.02, int(0.06 * MIC_HZ)) if first else np.zeros(int(0.16 * MIC_HZ))
        pieces.append(pause.astype(np.float32))
    return np.concatenate(pieces[:-1])


_NASAL = ((270.0, 60.0, 1.0), (1000.0, 120.0, 0.12), (2200.0, 180.0, 0.08))
"""Resonances: Hz, half their width in Hz, level."""


def in_a_room(sound: Samples) -> Samples:
    """The sound at a speaking level, with faint noise around it."""
    rng = np.random.default_rng(sound.size)
    loud = sound[np.abs(sound) > 0.05 * np.abs(sound).max()]
    level = 10 ** (SPEECH_DBFS / 20) / max(1e-9, float(np.sqrt(np.mean(loud**2))))
    room = rng.normal(0, 10 ** (ROOM_DBFS / 20), int((BEFORE_S + AFTER_S) * MIC_HZ) + sound.size).astype(np.float32)
    start = int(BEFORE_S * MIC_HZ)
    room[start : start + sound.size] += level * sound
    return room


# ---- the report ----


def rows(outcomes: list[Outcome]) -> Iterator[dict[str, object]]:
    """One line for each part and kind."""
    for part in PHRASES:
        for kind, aim in (("backchannel", 0.9), ("stop", 0.9), ("turn", 0.97)):
            chosen = [outcome for outcome in outcomes if (outcome.part, outcome.kind) == (part, kind)]
            if not chosen:
                continue
            times = [outcome.ms for outcome in chosen if outcome.ms is not None and outcome.verdict != "noise"]
            p50, p95 = np.percentile(times, [50, 95]) if times else (0, 0)
            yield {
                "name": {"backchannel": "continued", "stop": "stop word known", "turn": "yielded"}[kind],
                "params": {"part": part},
                "unit": "share",
                "n": len(chosen),
                "value": share(chosen),
                "value_where_heard_right": share([outcome for outcome in chosen if outcome.heard_right]),
                "aim": aim,
                "verdict_ms": {"p50": round(float(p50)), "p95": round(float(p95))},
                "by_second_partial": round(_early(chosen), 4),
            }


def share(outcomes: list[Outcome]) -> float | None:
    """Of right ones."""
    return round(sum(outcome.right for outcome in outcomes) / len(outcomes), 4) if outcomes else None


def _early(outcomes: Iterable[Outcome]) -> float:
    """Share of right outcomes that took at most two partials with words."""
    right = [outcome for outcome in outcomes if outcome.right]
    return sum(outcome.partials <= 2 for outcome in right) / max(1, len(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--asr", default="whisper-tiny.en")
    parser.add_argument("--voice", default="en_US-joe-medium")
    parser.add_argument("--part", choices=list(PHRASES), action="append", help="default: all parts")
    parser.add_argument("-o", "--clips", type=Path, help="where to write what was heard of every clip")
    options = parser.parse_args()
    whisper, vad = Whisper(models.resolve(options.asr, "asr")), SileroVad()
    language, turns = load("en"), Turns()
    parts = options.part or list(PHRASES)
    voice_path = models.resolve(options.voice, "voice")
    outcomes = [judged(clip, vad, whisper, language, turns) for clip in clips(voice_path) if clip.part in parts]
    if options.clips:
        options.clips.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes), indent=1))
    report = {
        "bench": "backchannels",
        "machine": msgspec.to_builtins(describe()),
        "model": options.asr,
        "device": "cpu",
        "dtype": "int8",
        "decode_ms_taken": 1000 * DECODE_S,
        "rows": list(rows(outcomes)),
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
