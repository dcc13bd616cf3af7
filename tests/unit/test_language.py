"""Phrases: the four languages as data, and how transcripts are compared with them."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigError
from app.language import Language, codes, cover, load, parse, squeezed, words_of

EN = load("en")
LANGUAGES = {code: load(code) for code in codes()}
COMMANDS = ("stop", "go_on", "undo", "regenerate", "wait")
LISTS = ("backchannels", *COMMANDS, "courtesy", "fillers", "weak", "dangling", "questions")


def keys(language: Language, field: str) -> list[tuple[str, ...]]:
    return [squeezed(words_of(phrase)) for phrase in getattr(language, field)]


# ---- the data ----


def test_four_languages_are_installed_and_each_knows_its_code() -> None:
    assert set(codes()) == {"de", "en", "es", "fr"}
    assert {code: language.code for code, language in LANGUAGES.items()} == {code: code for code in codes()}


@pytest.mark.parametrize("code", codes())
def test_a_phrase_stands_once_and_means_one_thing(code: str) -> None:
    language = LANGUAGES[code]
    for field in LISTS:
        found = keys(language, field)
        assert sorted(found) == sorted(set(found)), field
    for one, other in itertools.combinations(("backchannels", *COMMANDS), 2):
        assert not set(keys(language, one)) & set(keys(language, other)), (one, other)


@pytest.mark.parametrize("code", codes())
def test_no_command_is_made_of_courtesy(code: str) -> None:
    language = LANGUAGES[code]
    for field in COMMANDS:
        for phrase in getattr(language, field):
            assert cover(words_of(phrase), language.courtesy + language.fillers) is None, phrase


@pytest.mark.parametrize("code", codes())
def test_every_phrase_is_recognised_as_what_it_is(code: str) -> None:
    language = LANGUAGES[code]
    for phrase in language.backchannels:
        assert language.is_backchannel(words_of(phrase)), phrase
    for name in ("stop", "go_on", "undo", "regenerate"):
        for phrase in getattr(language, name):
            assert language.command(phrase.capitalize() + ".") == name, phrase
    for phrase in language.wait:
        assert language.only_waits(phrase)
        assert language.command(phrase) is None
        assert language.waits(f"xyzzy, {phrase}.")
        assert not language.waits(f"{phrase}, xyzzy")
    for phrase in language.fillers:
        assert language.ends_in_filler(["xyzzy", *words_of(phrase)])
    for phrase in language.dangling:
        assert language.ends_dangling(["xyzzy", *words_of(phrase)])
        assert not language.ends_dangling([*words_of(phrase), "xyzzy"])


@pytest.mark.parametrize("code", codes())
def test_what_the_agent_says_fits_its_own_lists(code: str) -> None:
    language = LANGUAGES[code]
    assert language.asks(language.check_in)
    assert language.command(language.go_on_text) == "go_on"
    assert "Tokio" in language.cut_note.format(heard="Tokio")


# ---- comparing ----


def test_words_are_bare_and_hyphens_part_them() -> None:
    assert words_of("  “Mm-hmm,” she’s… OK!") == ["mm", "hmm", "she's", "ok"]
    assert words_of("¿Qué? Ça, c’est l’été; STRASSE straße") == ["qué", "ça", "c'est", "l'été", "strasse", "strasse"]
    assert words_of("- ... ♪") == []


@pytest.mark.parametrize(
    "heard", ["MMM.", "Mm-hmm.", "Hmm", "Uh huh.", "uh-huh", "Mhm.", "HN", "M-hm.", "Mmm, mm-hmm."]
)
def test_a_hum_is_a_hum_however_it_is_spelt(heard: str) -> None:
    assert all(language.is_backchannel(words_of(heard)) for language in LANGUAGES.values())


@pytest.mark.parametrize(
    ("code", "heard"),
    [
        *(("en", heard) for heard in ("Yeahhh.", "Okay, sure.", "Oh, really?", "I see.", "Right, right.", "Um, yeah.")),
        *(("de", heard) for heard in ("Ach so, okay.", "Genau!", "Ja, ja.", "Na klar.", "Ich weiß.")),
        *(("es", heard) for heard in ("¡Ajá!", "Sí, claro.", "Vale, vale.", "¿En serio?", "Ya veo.")),
        *(("fr", heard) for heard in ("D’accord.", "Ah bon ?", "Oui, oui.", "Hum, je vois.", "C'est ça.")),
    ],
)
def test_backchannels(code: str, heard: str) -> None:
    assert LANGUAGES[code].is_backchannel(words_of(heard))


@pytest.mark.parametrize(
    ("code", "heard"),
    [
        *(("en", heard) for heard in ("", "No.", "Yeah, but why?", "Right, left, right.", "Yeah yeah yeah yeah.", "I")),
        *(("de", heard) for heard in ("Ja, aber warum?", "Nein.", "Und in Rom?")),
        *(("es", heard) for heard in ("Sí, pero no.", "¿Por qué?", "No.")),
        *(("fr", heard) for heard in ("Oui, mais non.", "Pourquoi ?", "Non.")),
    ],
)
def test_interruptions_are_no_backchannels(code: str, heard: str) -> None:
    assert not LANGUAGES[code].is_backchannel(words_of(heard))


def test_the_beginning_of_a_backchannel_is_told_from_that_of_a_turn() -> None:
    for begun in ("I", "I s", "That makes", "Okay, s", "Yeah", "Oh, my g", "Uh"):
        assert EN.may_be_backchannel(words_of(begun)), begun
    for begun in ("", "I want", "That made", "Okay, but", "Why", "Tell"):
        assert not EN.may_be_backchannel(words_of(begun)), begun


@pytest.mark.parametrize(
    ("code", "said", "command"),
    [
        ("en", "Stop!", "stop"),
        ("en", "Okay, um, stop it now, please.", "stop"),
        ("en", "Could you please be quiet?", "stop"),
        ("en", "Stop by the market on your way.", None),
        ("en", "Don't stop.", "go_on"),
        ("en", "Yeah, go on.", "go_on"),
        ("en", "Please continue.", "go_on"),
        ("en", "Go on a trip with me.", None),
        ("en", "No, scratch that.", "undo"),
        ("en", "Scratch that itch.", None),
        ("en", "Sorry, could you say that differently?", "regenerate"),
        ("en", "Okay, please.", None),
        ("en", "", None),
        ("de", "Hör bitte auf.", "stop"),
        ("de", "Kannst du bitte aufhören?", "stop"),
        ("de", "Halt mal!", "stop"),
        ("de", "Ja, erzähl weiter.", "go_on"),
        ("de", "Nein, vergiss das.", "undo"),
        ("de", "Sag das bitte noch mal.", None),
        ("es", "¡Para ya!", "stop"),
        ("es", "¿Para qué sirve?", None),
        ("es", "Sigue, por favor.", "go_on"),
        ("es", "Olvida eso.", "undo"),
        ("es", "Dilo de otra manera.", "regenerate"),
        ("fr", "Arrête, s’il te plaît.", "stop"),
        ("fr", "Vas-y, continue.", "go_on"),
        ("fr", "Annule ça.", "undo"),
        ("fr", "Une autre réponse, s'il vous plaît.", "regenerate"),
        ("fr", "Arrête-toi à Lyon.", None),
    ],
)
def test_commands(code: str, said: str, command: str | None) -> None:
    assert LANGUAGES[code].command(said) == command


@pytest.mark.parametrize(
    ("code", "said", "waits", "only"),
    [
        ("en", "Hold on.", True, True),
        ("en", "Um, let me think.", True, True),
        ("en", "Tell me about, uh, hold on a second.", True, False),
        ("en", "What about... wait.", True, False),
        ("en", "I can't wait.", False, False),
        ("en", "Wait, what about Rome?", False, False),
        ("en", "How long does it take to hold on?", False, False),
        ("de", "Moment mal, bitte.", True, True),
        ("de", "Und wie ist das Wetter... lass mich kurz überlegen.", True, False),
        ("de", "In diesem Moment.", False, False),
        ("es", "A ver, espera un momento.", True, True),
        ("es", "No quiero esperar.", False, False),
        ("fr", "Attends, laisse-moi réfléchir.", True, True),
        ("fr", "Je ne veux pas attendre.", False, False),
    ],
)
def test_asking_for_time(code: str, said: str, waits: bool, only: bool) -> None:
    assert (LANGUAGES[code].waits(said), LANGUAGES[code].only_waits(said)) == (waits, only)


@pytest.mark.parametrize(
    ("code", "clause", "asks"),
    [
        ("en", " Would you like to hear more about", True),
        ("en", " Which one?", True),
        ("en", "He said “why?”", True),
        ("en", " Is it true that cats purr.", False),
        ("en", " When the rain stops,", False),
        ("en", "", False),
        ("de", "Möchtest du mehr über Rom", True),
        ("de", "Das weiß ich nicht.", False),
        ("es", "¿Quieres que te cuente", True),
        ("es", "Quieres decir eso.", False),
        ("fr", "Est-ce que tu veux", True),
        ("fr", "Veux-tu en savoir plus ?", True),
        ("fr", "C'est une belle ville.", False),
    ],
)
def test_questions(code: str, clause: str, asks: bool) -> None:
    assert LANGUAGES[code].asks(clause) is asks


def test_words_that_ask_for_another() -> None:
    assert EN.ends_dangling(words_of("Tell me about the history of"))
    assert EN.ends_dangling(words_of("Can you add milk and"))
    assert not EN.ends_dangling(words_of("The history of Rome"))
    assert LANGUAGES["de"].ends_dangling(words_of("Erzähl mir etwas über die"))
    assert not LANGUAGES["de"].ends_dangling(words_of("Das weiß ich"))
    assert LANGUAGES["fr"].ends_dangling(words_of("Parle-moi de la"))
    assert LANGUAGES["es"].ends_dangling(words_of("Háblame de los"))
    assert EN.ends_in_filler(words_of("So I was, um"))
    assert not EN.ends_in_filler(words_of("Um, hello"))


def by_pattern(words: list[str], phrases: tuple[str, ...], free: tuple[str, ...]) -> bool:
    """An independent reference: a regular expression over the joined words."""
    choices = "|".join(re.escape(phrase) for phrase in sorted(phrases + free, key=len, reverse=True))
    return re.fullmatch(rf"(?:(?:{choices})(?: |$))*", " ".join(words)) is not None


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7)
PHRASES = st.lists(WORDS.filter(lambda words: 0 < len(words) < 4).map(" ".join), min_size=1, max_size=4).map(tuple)


@given(WORDS, PHRASES, PHRASES)
def test_covering_agrees_with_a_regular_expression(
    words: list[str], phrases: tuple[str, ...], free: tuple[str, ...]
) -> None:
    words = [word for word, _ in itertools.groupby(words)]
    covered = cover(words, phrases, free)
    assert (covered is not None) == by_pattern(words, phrases, free)
    assert covered is None or covered <= len(words)


def test_covering_counts_the_fewest_phrases() -> None:
    assert cover(["a", "b", "a"], ("a", "b", "a b")) == 2
    assert cover(["x", "a", "b", "x"], ("a b",), ("x",)) == 1
    assert cover(["x", "x"], ("a",), ("x",)) == 0


# ---- what is refused ----


def test_an_unknown_language_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean en\?.*known are de, en, es, fr"):
        load("en-US")
    for code in ("xx", "", "../config", "EN"):
        with pytest.raises(ConfigError, match="no phrases"):
            load(code)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("{heard}", "", "needs {heard}"),
        ("{heard}", "{heard} {0}", "needs {heard}"),
        ('"uh huh"', '"..."', "without words"),
        ('name = "English"', "", "name"),
        ('name = "English"', 'name = "English"\ntempo = 3', "tempo"),
        ("stop = [", "stop = 3\nstops = [", "stop"),
    ],
)
def test_a_damaged_file_is_refused(old: str, new: str, why: str) -> None:
    text = (resources.files("app") / "languages" / "en.toml").read_text("utf-8")
    assert parse(text) == EN
    assert old in text
    with pytest.raises(ValueError, match=re.escape(why)):
        parse(text.replace(old, new))
