"""Text to speech: Piper, with the exact place of every word in the sound.

Piper's model predicts how many frames each phoneme takes; patched at load, it tells. What remains is which phonemes
belong to which word of the text: espeak-ng joins words ("of the"), spells numbers out, reads some symbols and drops
others. Each word is therefore phonemised alone too, and the two phoneme strings are aligned.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import soxr
from numpy.typing import NDArray

from audio.errors import SpeechModelError
from audio.frame import SPEAKER_HZ, Samples

if TYPE_CHECKING:
    from piper import PiperVoice as _Piper

# espeak-ng ends a sentence after these, and Piper makes a pause of it.
_TITLE = re.compile(r"\b(Mr|Mrs|Ms|Dr)\.(?=\s)")
_BOS, _EOS, _PAD, _SPACE = "^", "$", "_", " "
_SENTENCE_PAUSE_MS, _CLAUSE_PAUSE_MS, _OPEN_PAUSE_MS = 220, 110, 20
_LEAD_MS = 5
_QUIET = 10 ** (-45 / 20)
_PEAK = 0.97


class Word(NamedTuple):
    """Where a word lies in a clip."""

    text: str
    start: int
    """First sample, 48 kHz, from the start of the clip."""
    end: int
    """Sample after the last; equal to `start` for a word that makes no sound, such as a dash."""


class Clip(NamedTuple):
    """A spoken clause."""

    samples: Samples
    """float32[n] at 48 kHz, -1..1."""
    words: tuple[Word, ...]
    """One for each of `text.split()`, in order, not overlapping."""


class PiperVoice:
    """A Piper voice. Not to be called from two threads at once.

    Args:
        path: The .onnx file; its .onnx.json lies beside it.
        threads: Threads of one synthesis. A second one helps only where nothing else, such as the language model,
            wants the cores.
        seed: Piper's prosody is drawn at random: the same seed and the same calls give the same sound.

    Raises:
        SpeechModelError: A file is missing, or is no Piper voice (from the constructor).
    """

    def __init__(self, path: Path, threads: int = 1, seed: int = 0) -> None:
        self._piper = _load(path, threads, seed)
        self._rate_hz = self._piper.config.sample_rate
        self._phonemes_of = functools.lru_cache(maxsize=4096)(self._phonemise_word)
        self.synthesise("Hi.")  # the first run allocates; no user should wait for that

    def synthesise(self, text: str) -> Clip:
        """Speak a clause, or several sentences.

        The sound starts with the first word and ends with a pause that fits the last punctuation, so that clauses can
        be joined as they are. Text without anything to say gives an empty clip, its words all at 0.
        """
        words = text.split()
        spoken = [self._speak(phonemes) for phonemes in self._phonemise(text)]
        spoken = [sentence for sentence in spoken if sentence.samples.size]
        if not spoken:
            return Clip(np.zeros(0, np.float32), tuple(Word(word, 0, 0) for word in words))
        pauses_ms = [_pause_ms(sentence.phonemes) for sentence in spoken[:-1]] + [_pause_ms(list(text))]
        sound, starts, ends = _join(spoken, pauses_ms, self._rate_hz)
        phonemes = [phoneme for sentence in spoken for phoneme in (*sentence.phonemes, _SPACE)]
        spans = spans_of_words([self._phonemes_of(word) for word in words], phonemes)
        up = SPEAKER_HZ / self._rate_hz
        samples = soxr.resample(sound, self._rate_hz, SPEAKER_HZ).astype(np.float32, copy=False)
        samples *= min(1.0, _PEAK / max(_PEAK, float(np.abs(samples).max())))
        placed: list[Word] = []
        at = 0
        for word, span in zip(words, spans, strict=True):
            if span is not None:
                start = max(at, round(starts[span[0]] * up))
                at = max(start, min(samples.size, round(ends[span[1] - 1] * up)))
                placed.append(Word(word, start, at))
            else:
                placed.append(Word(word, at, at))
        return Clip(samples, tuple(placed))

    def _phonemise(self, text: str) -> list[list[str]]:
        """Phonemes of each sentence that espeak-ng sees, only those the voice knows."""
        known = self._piper.config.phoneme_id_map
        plain = text.replace("[[", "[ [").replace("\0", " ")  # Piper takes what is in double brackets for phonemes
        plain = _TITLE.sub(r"\1", plain)
        return [[phoneme for phoneme in sentence if phoneme in known] for sentence in self._piper.phonemize(plain)]

    def _phonemise_word(self, word: str) -> tuple[str, ...]:
        return tuple(phoneme for sentence in self._phonemise(word) for phoneme in sentence)

    def _speak(self, phonemes: list[str]) -> _Sentence:
        """Synthesise one sentence and find each phoneme's samples."""
        if not any(phoneme.isalnum() for phoneme in phonemes):
            return _Sentence(phonemes, np.zeros(0, np.float32), np.zeros(1, np.int64))
        ids = self._piper.phonemes_to_ids(phonemes)
        out: Any = self._piper.phoneme_ids_to_audio(ids, include_alignments=True)
        samples = np.asarray(out[0], np.float32).reshape(-1)
        id_map = self._piper.config.phoneme_id_map
        owners = [len(id_map[phoneme]) + len(id_map[_PAD]) for phoneme in (_BOS, *phonemes)]
        lengths = np.zeros(len(ids)) if out[1] is None else np.asarray(out[1]).reshape(-1)
        if lengths.sum() != samples.size or sum(owners) + len(id_map[_EOS]) != len(ids):
            # No alignment, or a kind of phonemes whose ids are made otherwise: every phoneme alike.
            edges = np.linspace(0, samples.size, len(phonemes) + 3).astype(np.int64)
        else:
            edges = np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], np.cumsum(owners), [len(ids)]])]
        return _Sentence(phonemes, samples, edges[1:-1].astype(np.int64))


class _Sentence(NamedTuple):
    phonemes: list[str]
    samples: Samples
    edges: NDArray[np.int64]
    """Start of each phoneme, and the end of the last, in the voice's own samples."""


def _join(
    spoken: Sequence[_Sentence], pauses_ms: Sequence[int], rate_hz: int
) -> tuple[Samples, NDArray[np.int64], NDArray[np.int64]]:
    """Put sentences one behind the other, each trimmed to its sound and followed by its pause.

    Returns:
        The sound, and start and end of each phoneme in it, with one more of no length behind each sentence (the blank).
    """
    parts: list[Samples] = []
    starts: list[NDArray[np.int64]] = []
    ends: list[NDArray[np.int64]] = []
    at = 0
    for sentence, pause_ms in zip(spoken, pauses_ms, strict=True):
        samples, edges = sentence.samples, sentence.edges
        loud = np.flatnonzero(np.abs(samples) > _QUIET * np.abs(samples).max(initial=1e-9))
        first = max(0, int(loud[0]) - _LEAD_MS * rate_hz // 1000) if loud.size else 0
        last = int(loud[-1]) + 1 if loud.size else 0
        length = last - first + pause_ms * rate_hz // 1000
        part = np.zeros(length, np.float32)
        kept = samples[first : first + length]
        part[: kept.size] = kept
        fade = min(last + _LEAD_MS * rate_hz // 1000, first + length) - first  # the voice's own hiss ends here
        part[last - first : fade] *= np.linspace(1, 0, fade - (last - first), dtype=np.float32)
        part[fade:] = 0
        inside = np.clip(edges, first, last) - first + at
        starts += [inside[:-1], inside[-1:]]
        ends += [inside[1:], inside[-1:]]
        parts.append(part)
        at += length
    return np.concatenate(parts), np.concatenate(starts), np.concatenate(ends)


def _pause_ms(end: Sequence[str]) -> int:
    """The pause behind a sentence or clause, by the punctuation that ends it."""
    last = next((mark for mark in reversed(end) if mark in ".!?…,;:—–" or mark.isalnum()), "")
    if last in ".!?…":
        return _SENTENCE_PAUSE_MS
    return _CLAUSE_PAUSE_MS if last in ",;:—–" else _OPEN_PAUSE_MS


# ---- which phonemes are whose ----

_SILENT = frozenset(" .,;:!?-\"'()«»¡¿…")
_STRESS = frozenset("ˈˌ")
# A substitution is dearer than one gap and cheaper than two, so sounds that changed in context stay paired. Blanks come
# and go cheaply, because espeak-ng joins and splits words, but never pair with a sound.
_SUBSTITUTION_COST, _GAP_COST, _BLANK_GAP_COST, _NEVER_COST = 10, 8, 3, 100


def spans_of_words(words: Sequence[Sequence[str]], phonemes: Sequence[str]) -> list[tuple[int, int] | None]:
    """Find the phonemes of each word.

    Args:
        words: For each word its phonemes as it sounds alone; empty for one that makes no sound.
        phonemes: What is spoken, with a blank between words.

    Returns:
        For each word first and last + 1 index into `phonemes`, in order and not overlapping, without blanks and
        punctuation at either end; None for one that makes no sound. Where the two sides differ too much to tell, the
        words in question share the phonemes in question by length.
    """
    source, owners = _spell(words)
    places = [i for i, phoneme in enumerate(phonemes) if phoneme == _SPACE or phoneme not in _SILENT | _STRESS]
    target = [phonemes[i] for i in places]
    sounding = [i for i, phoneme in enumerate(target) if phoneme != _SPACE]
    owner_of: dict[int, int] = {}
    for i, j in _align(source, target):
        if source[i] != _SPACE:
            owner_of[j] = owners[i]
    _settle(owner_of, sounding, target, words)
    spans: list[tuple[int, int] | None] = [None] * len(words)
    for j in sounding:
        word = owner_of[j]
        span = spans[word]
        spans[word] = (span[0] if span else _with_stress(places[j], phonemes), places[j] + 1)
    return spans


def _spell(words: Sequence[Sequence[str]]) -> tuple[list[str], list[int]]:
    """All sounds of the words with a blank behind each word, and whose each is."""
    source: list[str] = []
    owners: list[int] = []
    for number, word in enumerate(words):
        sounds = [phoneme for phoneme in word if phoneme == _SPACE or phoneme not in _SILENT | _STRESS]
        source += [*sounds, _SPACE]
        owners += [number] * (len(sounds) + 1)
    return source, owners


def _align(source: Sequence[str], target: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of a cheapest alignment (Needleman and Wunsch 1970), a row of the table at a time."""
    codes = {phoneme: code for code, phoneme in enumerate(sorted({_SPACE, *source, *target}))}
    blank = codes[_SPACE]
    across = np.array([codes[phoneme] for phoneme in target], np.int64)
    gaps = np.concatenate([[0], np.cumsum(np.where(across == blank, _BLANK_GAP_COST, _GAP_COST))]).astype(np.int64)
    table = np.empty((len(source) + 1, len(target) + 1), np.int64)
    table[0] = gaps
    for i, phoneme in enumerate(source):
        table[i + 1] = table[i] + _gap(phoneme)
        table[i + 1, 1:] = np.minimum(table[i + 1, 1:], table[i, :-1] + _pair_costs(codes[phoneme], across, blank))
        table[i + 1] = np.minimum.accumulate(table[i + 1] - gaps) + gaps
    pairs: list[tuple[int, int]] = []
    i, j = len(source), len(target)
    while i and j:
        pair = int(_pair_costs(codes[source[i - 1]], across[j - 1 : j], blank)[0])
        if table[i, j] == table[i - 1, j - 1] + pair:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif table[i, j] == table[i - 1, j] + _gap(source[i - 1]):
            i -= 1
        else:
            j -= 1
    return pairs[::-1]


def _gap(phoneme: str) -> int:
    return _BLANK_GAP_COST if phoneme == _SPACE else _GAP_COST


def _pair_costs(code: int, across: NDArray[np.int64], blank: int) -> NDArray[np.int64]:
    unlike = np.where((across == blank) | (code == blank), _NEVER_COST, _SUBSTITUTION_COST)
    return np.where(across == code, 0, unlike)


def _settle(
    owner_of: dict[int, int], sounding: Sequence[int], target: Sequence[str], words: Sequence[Sequence[str]]
) -> None:
    """Give each sound without an owner to one of the words around it."""
    speaking = [number for number, word in enumerate(words) if any(phoneme not in _SILENT for phoneme in word)]
    speaking = speaking or [0]
    owned = [j for j in sounding if j in owner_of]
    for left, right in pairwise([-1, *owned, len(target)]):
        stray = [j for j in sounding if left < j < right]
        if not stray:
            continue
        before = owner_of.get(left, -1)
        after = owner_of.get(right, len(words))
        lost = [number for number in speaking if before < number < after]
        if lost:
            shares = np.cumsum([0, *(max(1, len(words[number])) for number in lost)])
            marks = (np.arange(len(stray)) + 0.5) * shares[-1] / len(stray)
            for j, mark in zip(stray, marks, strict=True):
                owner_of[j] = lost[int(np.searchsorted(shares, mark, side="right")) - 1]
            continue
        blank = next((j for j in range(left + 1, right) if target[j] == _SPACE), right)
        for j in stray:
            owner_of[j] = before if (j < blank and before >= 0) or after == len(words) else after


def _with_stress(at: int, phonemes: Sequence[str]) -> int:
    """A stress mark is spoken as part of the sound behind it."""
    while at > 0 and phonemes[at - 1] in _STRESS:
        at -= 1
    return at


def _load(path: Path, threads: int, seed: int) -> _Piper:
    """The voice with its durations as a second output, patched in memory."""
    config_path = path.with_name(path.name + ".json")
    for needed in (path, config_path):
        if not needed.is_file():
            raise SpeechModelError(
                f"the voice {path} can't be used",
                f"there is no {needed.name}",
                "name a Piper .onnx file with its .onnx.json",
            )
    import onnx
    import onnxruntime
    from piper import PiperConfig
    from piper import PiperVoice as Piper
    from piper.patch_voice_with_alignment import add_alignment_output

    onnxruntime.set_seed(seed)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
    options.log_severity_level = 3
    try:
        config = PiperConfig.from_dict(json.loads(config_path.read_text("utf-8")))
        model = onnx.load(str(path))
        add_alignment_output(model)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # protobuf, onnx, onnxruntime and json each raise their own
        raise SpeechModelError(f"the voice {path} can't be loaded", str(error)[:300], "fetch it again") from error
    return Piper(session=session, config=config)
