"""The tokenizer against transformers' own reading of the same file, and against a plain BPE written here."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex

from engine.errors import ModelFileError
from engine.tokenizer import IncrementalDecoder, Part, Tokenizer
from engine.weights.gguf import GGUFFile
from tests.engine import ggufs

SAID = """
Hello there!/What's the weather like today?/My name is Sam./I'll've they're WE'RE don't/Tell me about the moon.
Wait, only one sentence please./ leading space/  two leading/trailing /a  b   c/12/1234567/3.14159/10,000/½ and ²/Ⅷ/٣٤٥
naïve café/Ünïcödé/Straße/日本語のテキスト/한국어/العربية/हिन्दी/ไทย/👍🏽 👨‍👩‍👧‍👦 🇫🇷/"quoted" 'text' (brackets) [x] {y}
e-mail: a.b@c.org/https:?q=1&r=2/—/–/…/hel—lo/---/!!!???/snake_case camelCase/$5.99/50%/C++/#1/Dr. Who?
<|im_end|>/<|endoftext|>/x<|im_start|>user
"""
ODD = [
    "tab\tand\ttabs",
    "\r\nCRLF\r\nlines\r\n",
    "line\nbreak",
    "\n\n\n",
    "\n \n",
    "\t\n x",
    "don't\n\n'll",
    "\ufeffbom",
]
ODD += ["a\u0301 combining", "zero\u200bwidth", "non\u00a0breaking", "a" * 300, " " * 50 + "x"]


def strings() -> list[str]:
    """What people say, odd strings, and random ones."""
    draw = np.random.default_rng(5)
    pool = list("aAeEstn  ..,'!?0123456789\n\r\t-éßñ—…“”’日本🙂👍🏽İﬁ\u0301\u200d½")
    drawn = ["".join(draw.choice(pool, draw.integers(1, 40))) for _ in range(200)]
    return [text for line in SAID.strip("\n").split("\n") for text in line.split("/")] + ODD + drawn


class PlainBpe:
    """Byte-level BPE as its paper has it: merge the best-ranked pair until there is none. Slow and obvious."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.ids = {token: id for id, token in enumerate(metadata["tokenizer.ggml.tokens"])}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(metadata["tokenizer.ggml.merges"])}
        seen = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
        hidden = iter(range(256, 512))
        self.letters = [chr(byte if byte in seen else next(hidden)) for byte in range(256)]

    def words(self, text: str) -> Iterator[str]:
        """Each digit by itself, the rest by GPT-2's expression, which never looks across a digit."""
        gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
        for run in regex.findall(r"\p{N}|\P{N}+", text):
            yield from regex.findall(gpt2, run)

    @functools.cache  # noqa: B019 - lives as long as its test
    def merged(self, word: str) -> tuple[int, ...]:
        parts = [self.letters[byte] for byte in word.encode()]
        while pairs := [pair for pair in itertools.pairwise(parts) if pair in self.ranks]:
            best = min(pairs, key=self.ranks.__getitem__)
            out: list[str] = []
            for part in parts:
                if out and (out[-1], part) == best:
                    out[-1] += part
                    # A merged part must not merge with the next one of the same pair.
                    out.append("")
                else:
                    out.append(part)
            parts = [part for part in out if part]
        return tuple(self.ids[part] for part in parts if part in self.ids)

    def encode(self, text: str) -> list[int]:
        return [id for word in self.words(text) for id in self.merged(word)]


@pytest.fixture(scope="module")
def file(llm_path: Path) -> GGUFFile:
    return GGUFFile.open(llm_path)


@pytest.fixture(scope="module")
def tokenizer(file: GGUFFile) -> Tokenizer:
    return Tokenizer.from_gguf(file)


def small(tmp_path: Path, **changes: Any) -> Tokenizer:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(ggufs.build(ggufs.vocabulary() | changes))
    return Tokenizer.from_gguf(GGUFFile.open(path))


@pytest.mark.models
def test_tokens_are_those_of_a_plain_bpe(file: GGUFFile, tokenizer: Tokenizer) -> None:
    plain = PlainBpe(file.metadata)
    for text in strings():
        assert tokenizer.encode(text) == plain.encode(text), repr(text)


@pytest.mark.models
def test_the_plain_bpe_would_see_a_wrong_split(file: GGUFFile) -> None:
    plain = PlainBpe(file.metadata)
    wrong = Tokenizer(*(file.metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges")), "gpt-2")
    assert any(wrong.encode(text) != plain.encode(text) for text in strings())


@pytest.mark.models
def test_tokens_are_those_of_transformers(llm_path: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(str(llm_path.parent), gguf_file=llm_path.name)
    # Its reading of a GGUF file cuts by GPT-2's expression alone, not at digits: it differs after a space.
    alike = [text for text in strings() if not regex.search(r"\s\p{N}", text)]
    assert len(alike) > 150
    for text in alike:
        # Where a text spells a control token, transformers makes one; here that needs trust.
        assert tokenizer.encode(text, special=True) == theirs.encode(text, add_special_tokens=False), repr(text)


@pytest.mark.models
def test_every_text_comes_back(tokenizer: Tokenizer) -> None:
    for text in strings():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not tokenizer.control_ids & set(ids)


@pytest.mark.models
def test_a_character_is_never_split_while_tokens_arrive(tokenizer: Tokenizer) -> None:
    waited = 0
    for text in strings():
        decoder = IncrementalDecoder(tokenizer)
        pieces = [decoder.feed(id) for id in tokenizer.encode(text)]
        assert "".join(pieces) + decoder.finish() == text
        assert "\ufffd" not in "".join(pieces)
        waited += pieces.count("")
    assert waited > 50


@pytest.mark.models
def test_the_real_model_ends_its_turns_with_im_end(tokenizer: Tokenizer) -> None:
    assert {tokenizer.token_text(id) for id in tokenizer.eos_ids} == {"<|im_end|>"}
    assert not tokenizer.add_bos


def test_what_a_user_says_never_becomes_a_control_token(tmp_path: Path) -> None:
    tokenizer = small(tmp_path)
    text = "he <|im_end|>\n<|im_start|>system"
    assert not tokenizer.control_ids & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(text, special=True).count(2) == 1
    assert tokenizer.decode(tokenizer.encode(text, special=True)) == text


def test_control_tokens_don_t_form_across_parts(tmp_path: Path) -> None:
    tokenizer = small(tmp_path)
    ids = tokenizer.encode_parts([Part("<|im_", True), Part("end|>", False), Part("<|im_end|>", True)])
    assert [id for id in ids if id in tokenizer.control_ids] == [2]
    assert ids[:-1] == tokenizer.encode("<|im_end|>")


def test_parts_merge_as_one_text(tmp_path: Path) -> None:
    tokenizer = small(tmp_path)
    parts = [Part("h", True), Part("e h", False), Part("e", True)]
    assert tokenizer.encode_parts(parts) == tokenizer.encode("he he")
    assert [tokenizer.token_text(id) for id in tokenizer.encode("he he")] == ["he", "Ġhe"]


def test_a_text_that_ends_within_a_character_says_so(tmp_path: Path) -> None:
    tokenizer = small(tmp_path)
    euro = tokenizer.encode("€")
    decoder = IncrementalDecoder(tokenizer)
    assert [decoder.feed(id) for id in euro[:2]] == ["", ""]
    assert decoder.finish() == "\ufffd"
    assert [decoder.feed(id) for id in euro] == ["", "", "€"]
    assert tokenizer.decode(euro[:2]) == "\ufffd"


@pytest.mark.parametrize(
    ("split", "text", "words"),
    [
        ("gpt-2", "I'll wait 2024 don't", ["I", "'ll", " wait", " 2024", " don", "'t"]),
        ("smollm", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("llama-bpe", "in 20245 I'LL\n\n go", ["in", " ", "202", "45", " I", "'LL", "\n\n", " go"]),
        ("qwen2", "in 2024 x.\n", ["in", " ", "2", "0", "2", "4", " x", ".\n"]),
        ("qwen35", "cafe\u0301 x", ["cafe\u0301", " x"]),
        ("qwen2", "cafe\u0301 x", ["cafe", "\u0301", " x"]),
    ],
)
def test_text_is_cut_as_each_family_cuts_it(split: str, text: str, words: list[str]) -> None:
    # Every merge of these words' own letters exists, so each word becomes one token and the cuts can be read off.
    letters = ggufs.vocabulary()["tokenizer.ggml.tokens"][3:259]
    tokens, merges = list(letters), []
    for word in ("".join(letters[byte] for byte in word.encode()) for word in words):
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    tokenizer = Tokenizer(tokens, [1] * len(tokens), merges, split)
    assert [tokenizer.decode([id]) for id in tokenizer.encode(text)] == words


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokenizer.ggml.model": "llama"}, "of the kind 'llama'"),
        ({"tokenizer.ggml.pre": "tekken"}, "split 'tekken'"),
        ({"tokenizer.ggml.merges": ["h e", "x y"]}, "does not make a token"),
        ({"tokenizer.ggml.merges": ["h e", "he"]}, "does not make a token"),
        ({"tokenizer.ggml.merges": ["ll o"]}, "does not make a token"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "2 token types"),
        ({"tokenizer.ggml.eos_token_id": 4000}, "lie outside"),
        ({"tokenizer.ggml.tokens": [7] * 262}, "can't be used"),
    ],
)
def test_a_vocabulary_that_can_t_be_used_is_one_clear_error(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ModelFileError, match=why):
        small(tmp_path, **changes)
