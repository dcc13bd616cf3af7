"""What short phrases mean in a language: app/languages/*.toml, and how a transcript is compared with it. Pure.

A recogniser writes the same murmur as "Mm-hmm.", "MMM" or "Mhm", so phrases are compared without case and marks,
letters said long count once, and all hums are the same.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Literal
from unicodedata import normalize

import msgspec

from app.errors import ConfigError

Spoken = Literal["stop", "go_on", "undo", "regenerate"]
"""A command that can be given by voice."""

SPOKEN: tuple[Spoken, ...] = ("stop", "go_on", "undo", "regenerate")
BACKCHANNELS_MOST = 3
"""Phrases; who says more than that wants the word."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_LETTER_RUN = re.compile(r"(.)\1+")
_HUM = re.compile(r"[hmn]+")
_BREAK = re.compile(r"[.,;:?!…—–¿¡]+|\s-+\s")
_CLOSERS = "\"'”’»)] "
_QUESTION_ENDS, _OTHER_ENDS = "?", ".!…:"

Phrases = tuple[str, ...]
Words = Sequence[str]


class Language(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The phrases of a language. Lower case, without marks but apostrophes; a phrase may have several words."""

    code: str
    """ISO 639-1."""
    name: str
    backchannels: Phrases
    """What a listener says who does not want the word."""
    stop: Phrases
    go_on: Phrases
    """Asks for the rest of a reply that was cut off."""
    undo: Phrases
    """Takes back the exchange before."""
    regenerate: Phrases
    """Asks for another answer to the same."""
    wait: Phrases
    """Asks for time."""
    courtesy: Phrases
    """What may stand around a command and changes nothing."""
    fillers: Phrases
    """Sounds of thinking."""
    weak: Phrases
    """Too little to be a turn by themselves; a recogniser writes short murmurs so."""
    dangling: Phrases
    """What asks for another word: no turn ends so."""
    questions: Phrases
    """How a sentence begins that wants an answer; needed as long as its question mark is unheard."""
    check_in: str
    """Asked when nobody answers."""
    go_on_text: str
    """What the model reads when the key "go on" is pressed."""
    cut_note: str
    """Tells the model where it was cut off; `{heard}` is the last that was heard."""

    def command(self, text: str) -> Spoken | None:
        """The command that all of `text` is, courtesy and fillers aside."""
        words = words_of(text)
        for name in SPOKEN:
            if self._all(words, getattr(self, name)):
                return name
        return None

    def waits(self, text: str) -> bool:
        """Whether `text` ends with clauses that ask for time; "I can't wait" is none."""
        clauses = _BREAK.split(text)
        return any(self.only_waits(" ".join(clauses[begin:])) for begin in range(len(clauses)))

    def only_waits(self, text: str) -> bool:
        """Whether all of `text` asks for time."""
        return self._all(words_of(text), self.wait)

    def is_backchannel(self, words: Words) -> bool:
        """Whether a listener says this who does not want the word."""
        phrases = cover(words, self.backchannels + self.fillers)
        return phrases is not None and 0 < phrases <= BACKCHANNELS_MOST

    def may_be_backchannel(self, words: Words) -> bool:
        """Whether more sound may make a backchannel of this; the last word may be cut off."""
        phrases = self.backchannels + self.fillers
        for whole in range(len(words)):
            if cover(words[:whole], phrases) is not None:
                begun = " ".join(squeezed(words[whole:]))
                if any(" ".join(phrase).startswith(begun) for phrase in _keys(phrases)):
                    return True
        return False

    def says_nothing(self, words: Words) -> bool:
        """Whether these are only words that make no turn by themselves."""
        return bool(cover(words, self.weak + self.dangling + self.backchannels + self.fillers))

    def ends_dangling(self, words: Words) -> bool:
        """Whether another word must follow. Letters count: "off" may end a turn, "of" can't."""
        return any(list(words[-len(phrase) :]) == phrase for phrase in map(words_of, self.dangling))

    def ends_in_filler(self, words: Words) -> bool:
        """Whether the last is a sound of thinking."""
        said = squeezed(words)
        return any(said[-len(phrase) :] == phrase for phrase in _keys(self.fillers))

    def asks(self, clause: str) -> bool:
        """Whether a clause wants an answer: by its marks, or by its first words while its last mark is to come."""
        bare = clause.rstrip(_CLOSERS)
        if bare.endswith(_QUESTION_ENDS) or clause.lstrip().startswith("¿"):
            return True
        if not bare or bare[-1] in _OTHER_ENDS:
            return False
        words = squeezed(words_of(clause))
        return any(words[: len(start)] == start for start in _keys(self.questions))

    def _all(self, words: Words, phrases: Phrases) -> bool:
        return bool(cover(words, phrases, self.courtesy + self.fillers))


def load(code: str) -> Language:
    """The language that is installed with us under this code.

    Raises:
        ConfigError: There is none; names the nearest.
    """
    if code not in codes():
        close = difflib.get_close_matches(code.lower()[:2], codes(), n=1)
        guess = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"the language {code!r} can't be used",
            "there are no phrases for it",
            f"{guess}known are {', '.join(codes())}",
        )
    return parse((resources.files("app") / "languages" / f"{code}.toml").read_text("utf-8"))


@cache
def codes() -> tuple[str, ...]:
    """All installed languages."""
    files = (resources.files("app") / "languages").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def parse(text: str) -> Language:
    """Read a language.

    Raises:
        ValueError: It is not TOML, has wrong keys, has a phrase without words, or a `cut_note` without `{heard}`.
    """
    language = msgspec.convert(tomllib.loads(text), Language)
    if language.cut_note.count("{heard}") != 1 or len(re.findall("[{}]", language.cut_note)) != 2:
        raise ValueError("cut_note needs {heard}, once and no other braces")
    for field in msgspec.structs.fields(Language):
        value = getattr(language, field.name)
        if isinstance(value, tuple) and not all(map(words_of, value)):
            raise ValueError(f"{field.name} has a phrase without words")
    return language


def words_of(text: str) -> list[str]:
    """Words in lower case without marks; what a hyphen joins is two words."""
    return _WORD.findall(normalize("NFKC", text).replace("’", "'").casefold())


def squeezed(words: Words) -> tuple[str, ...]:
    """Words as they are compared: each run of a letter counts once, and a hum is a hum however it is spelt."""
    return tuple("hm" if _HUM.fullmatch(word) else word for word in _LETTER_RUN.sub(r"\1", " ".join(words)).split())


def cover(words: Words, phrases: Phrases, free: Phrases = ()) -> int | None:
    """The least number of `phrases` that make up all of `words`, together with any number of `free` ones.

    Returns:
        None if they can't be made up of them.
    """
    said = squeezed(words)
    counted, uncounted = _keys(phrases), _keys(free)
    longest = max(map(len, counted | uncounted))
    least: list[int | None] = [0]
    """For each number of first words."""
    for end in range(1, len(said) + 1):
        costs: list[int] = []
        for start in range(max(0, end - longest), end):
            before, phrase = least[start], said[start:end]
            if before is not None and (phrase in counted or phrase in uncounted):
                costs.append(before + (phrase not in uncounted))
        least.append(min(costs, default=None))
        if not any(cost is not None for cost in least[-longest:]):
            return None
    return least[-1]


@cache
def _keys(phrases: Phrases) -> frozenset[tuple[str, ...]]:
    return frozenset(squeezed(words_of(phrase)) for phrase in phrases)
