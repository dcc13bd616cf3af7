"""What was heard of a reply by an independent witness: the recogniser reads the recording of the assistant's channel.

The reading is aligned, letter by letter, with the beginning of what the model wrote, and the place where it ends is
compared with the number of words that the log says were heard. The witness knows nothing of playheads, word spans or
blocks, so a clock that is off, a wrong word span, or a reply that went on after it was called silent is seen. What it
can't see is what it writes the same: whether a word that was cut in its middle counts. A recogniser completes such a
word or leaves it out, so one word more or less is no finding, and neither is a word repeated after a hold.
"""

from __future__ import annotations

import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr

from app.sound_ports import Recogniser, Samples
from audio.frame import MIC_HZ

_AFTER_S = 0.3
"""Of what should be silence is read too."""
_MOST_S = 28.0
"""What the recogniser takes at once."""
_HEARD_SHARE = 0.6
"""Letters of a word that must have been read for it to count, as of its sound."""
_SAME, _OTHER, _GAP = 1, -2, -1
"""Of two letters in an alignment, and of one without another."""


class Ducked(NamedTuple):
    """The end of a stretch is lower than the rest."""

    since_s: float
    level_db: float


def read(
    path: Path, begins_s: float, ends_s: float, recogniser: Recogniser, ducked: Ducked | None = None
) -> str | None:
    """What the recogniser makes of a stretch of the right channel; None if it is too long to be read.

    Args:
        path: A stereo recording of 16 bits.
        begins_s: From here
        ends_s: until a little after here, s from its beginning.
        recogniser: The witness.
        ducked: An end that is raised again, for it was meant to be heard.
    """
    ends_s += _AFTER_S
    if ends_s - begins_s > _MOST_S:
        return None
    sound = right_channel(path, begins_s, ends_s)
    if ducked is not None:
        sound[max(0, round((ducked.since_s - begins_s) * MIC_HZ)) :] *= 10 ** (-ducked.level_db / 20)
    return recogniser.transcribe(np.clip(sound, -1, 1)).text


def right_channel(path: Path, begins_s: float, ends_s: float) -> Samples:
    """A stretch of it, float32[n] at 16 kHz."""
    with wave.open(str(path), "rb") as file:
        rate_hz = file.getframerate()
        file.setpos(min(round(max(0.0, begins_s) * rate_hz), file.getnframes()))
        raw = file.readframes(round((ends_s - max(0.0, begins_s)) * rate_hz))
    right = np.frombuffer(raw, "<i2").reshape(-1, 2)[:, 1].astype(np.float32) / 32768
    return soxr.resample(right, rate_hz, MIC_HZ).astype(np.float32)


def words_read(reading: str, reply: str) -> int:
    """How many words of a reply a reading of its beginning goes on for.

    The best alignment of both beginnings, letter by letter, blanks and marks aside: that of Smith and Waterman (J. Mol.
    Biol. 147, 1981), but anchored where both begin. It ends where more only makes it worse, so what a recogniser
    invents after the last true word does not count.
    """
    got = _letters(reading)
    words = [_letters(word) for word in reply.split()]
    wanted = "".join(words)
    row = [_GAP * at for at in range(len(wanted) + 1)]
    best, end = 0, 0
    for letter in got:
        above, row[0] = row[0], row[0] + _GAP
        for at, other in enumerate(wanted, 1):
            fits = above + (_SAME if letter == other else _OTHER)
            above, row[at] = row[at], max(fits, row[at] + _GAP, row[at - 1] + _GAP)
            if row[at] > best:
                best, end = row[at], at
    heard, begin = 0, 0
    for word in words:
        if end - begin < _HEARD_SHARE * len(word):
            break
        heard, begin = heard + 1, begin + len(word)
    return heard


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
