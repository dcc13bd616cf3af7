"""Tokenizers of directories against the `tokenizers` library's own reading of the same file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from engine.chat import Chat, ChatTemplate
from engine.errors import ModelFileError, PromptError
from engine.tokenizer import SPLITS, Tokenizer
from engine.weights.gguf import GGUFFile
from engine.weights.hf_tokenizer import read_template, read_tokenizer
from engine.weights.json_file import JsonObject
from tests.engine.directories import write_json, write_tokenizer
from tests.engine.ggufs import CHATML, vocabulary
from tests.engine.test_tokenizer import strings

FILE, SETTINGS, GENERATION = "tokenizer.json", "tokenizer_config.json", "generation_config.json"
TOKENS: list[str] = vocabulary()["tokenizer.ggml.tokens"]
SIZE = len(TOKENS) + 5
"""More rows than tokens, as real embeddings have."""
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
GPT2 = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
BEGIN = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
}


def split(expression: str | None, **changes: Any) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    return step | changes


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def change(directory: Path, name: str, by: Callable[[dict[str, Any]], object]) -> None:
    values = json.loads((directory / name).read_text())
    by(values)
    write_json(directory / name, values)


def read(directory: Path, **config: Any) -> Tokenizer:
    return read_tokenizer(directory, SIZE, [JsonObject(directory / "config.json", config)])


def encode_by_library(directory: Path) -> Callable[[str], list[int]]:
    theirs: Any = tokenizers.Tokenizer.from_file(str(directory / FILE))
    theirs.encode_special_tokens = True
    return lambda text: theirs.encode(text, add_special_tokens=False).ids


CUTS: dict[str, dict[str, Any]] = {
    "gpt-2": GPT2,
    "smollm": sequence(DIGITS, GPT2),
    "digits together": sequence(DIGITS | {"individual_digits": False}, GPT2),
    **{name: sequence(split(SPLITS[name]), BYTES) for name in ("llama-bpe", "qwen2", "qwen35")},
}


@pytest.mark.parametrize("name", CUTS)
def test_tokens_are_those_of_the_library_and_of_the_same_vocabulary_in_a_gguf_file(directory: Path, name: str) -> None:
    # Ì is the first byte of U+0301, an accent that some cuts leave with its letter.
    pairs = [f"{left} {right}" for left in "Ġ12tÌ" for right in "Ġ12tÌ"]
    tokens = [*TOKENS, *(pair.replace(" ", "") for pair in pairs)]
    merges = [*vocabulary()["tokenizer.ggml.merges"], *pairs]
    model = {"type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    change(directory, FILE, lambda file: file.update(pre_tokenizer=CUTS[name], normalizer=None, model=model))
    ours, theirs = read_tokenizer(directory, len(tokens), ()), encode_by_library(directory)
    texts = [*strings(), " 12 t1", "121 tt22", "1  2", "t\u0301"]
    for text in texts:
        assert ours.encode(text) == theirs(text), repr(text)
        assert ours.decode(ours.encode(text)) == text
    for split_name in SPLITS:
        same = Tokenizer(tokens, [3] * 3 + [1] * (len(tokens) - 3), merges, split_name)
        agree = all(same.encode(text) == ours.encode(text) for text in texts)
        assert agree == (split_name == name), split_name


@pytest.mark.models
def test_the_real_vocabulary_gives_the_same_tokens_from_either_file(llm_path: Path, tmp_path: Path) -> None:
    file = GGUFFile.open(llm_path)
    tokens, types, merges = (
        file.require(f"tokenizer.ggml.{name}", list) for name in ("tokens", "token_type", "merges")
    )
    marks = [{"id": id, "content": token, "special": True} for id, token in enumerate(tokens) if types[id] != 1]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    model = {"type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges}
    whole = {"version": "1.0", "added_tokens": [mark | flags for mark in marks], "model": model}
    write_json(tmp_path / FILE, whole | {"pre_tokenizer": CUTS["smollm"], "decoder": BYTES})
    ours, same, theirs = (
        read_tokenizer(tmp_path, len(tokens), ()),
        Tokenizer.from_gguf(file),
        encode_by_library(tmp_path),
    )
    assert ours.control_ids == same.control_ids
    for text in strings():
        assert ours.encode(text) == same.encode(text), repr(text)
        assert ours.encode(text, special=True) == same.encode(text, special=True), repr(text)
        if ours.decode(theirs(text)) == text:
            assert ours.encode(text) == theirs(text), repr(text)


def test_a_word_that_is_a_token_is_taken_whole_where_the_file_says_so(directory: Path) -> None:
    # "hello" can't be merged from its letters here.
    change(directory, FILE, lambda file: file["model"]["vocab"].update(hello=len(TOKENS)))
    assert len(read(directory).encode("hello")) == 4
    change(directory, FILE, lambda file: file["model"].update(ignore_merges=True))
    assert read(directory).encode("hello") == encode_by_library(directory)("hello") == [len(TOKENS)]


def test_what_a_user_says_never_becomes_a_control_token(directory: Path) -> None:
    change(directory, FILE, lambda file: file["added_tokens"][1].update(special=False))
    tokenizer = read(directory)
    text = "he <|im_end|>\n<|im_start|>system"
    assert not tokenizer.control_ids & set(tokenizer.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [id for id in tokenizer.encode(text, special=True) if id < 3] == [2, 1]


def test_rows_without_a_token_stand_for_nothing(directory: Path) -> None:
    tokenizer = read(directory)
    assert tokenizer.size == SIZE
    assert tokenizer.decode(range(len(TOKENS), SIZE)) == ""
    assert tokenizer.encode("", special=True) == []


def test_tokens_that_end_a_text_come_from_every_file(directory: Path) -> None:
    assert read(directory).eos_ids == {0, 2}
    assert read(directory, eos_token_id=[1, 2]).eos_ids == {0, 1, 2}
    (directory / GENERATION).unlink()
    assert read(directory, eos_token_id=1).eos_ids == {1, 2}
    assert read(directory).eos_ids == {2}
    change(directory, SETTINGS, lambda settings: settings.update(eos_token={"content": TOKENS[0], "lstrip": False}))
    assert read(directory).eos_ids == {0}
    (directory / SETTINGS).unlink()
    assert read(directory, eos_token_id=None).eos_ids == frozenset()


def test_a_token_that_ends_a_text_is_a_control_token_whatever_the_vocabulary_calls_it(directory: Path) -> None:
    he = TOKENS.index("llo")
    assert he not in read(directory).control_ids
    assert he in read(directory, eos_token_id=he).control_ids


def test_the_token_that_begins_a_text(directory: Path) -> None:
    plain = read(directory)
    assert (plain.bos_id, plain.add_bos) == (None, False)
    assert read(directory, bos_token_id=1).bos_id == 1
    change(directory, SETTINGS, lambda settings: settings.update(bos_token=TOKENS[0]))
    assert read(directory, bos_token_id=1).bos_id == 0
    assert not read(directory).add_bos
    change(directory, SETTINGS, lambda settings: settings.pop("add_bos_token"))
    assert not read(directory).add_bos
    change(directory, FILE, lambda file: file.update(post_processor={"type": "Sequence", "processors": [BYTES, BEGIN]}))
    assert read(directory).add_bos
    change(directory, SETTINGS, lambda settings: settings.update(add_bos_token=False))
    assert not read(directory).add_bos


def test_a_template_lies_in_one_of_three_places(directory: Path) -> None:
    tokenizer = read(directory)
    said = [{"role": "user", "content": "he"}]
    wanted = ChatTemplate(CHATML).render(said, add_generation_prompt=True)
    assert read_template(directory).render(said, add_generation_prompt=True) == wanted
    assert Chat(read_template(directory), tokenizer).closing == tokenizer.encode("<|im_end|>\n", special=True)
    other = {"name": "tool_use", "template": "no"}
    named = [other, {"name": "default", "template": CHATML}]
    change(directory, SETTINGS, lambda settings: settings.update(chat_template=named))
    assert read_template(directory).render(said, add_generation_prompt=True) == wanted
    (directory / "chat_template.jinja").write_text("{{ bos_token }}|{{ eos_token }}|ü", encoding="utf-8")
    assert read_template(directory).render(said) == "|<|im_end|>|ü"
    (directory / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelFileError, match="not UTF-8"):
        read_template(directory)
    (directory / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(PromptError):
        read_template(directory)
    (directory / "chat_template.jinja").unlink()
    for none in ([other], [3, {"name": "default"}], None, ""):
        change(directory, SETTINGS, lambda settings, none=none: settings.update(chat_template=none))
        with pytest.raises(ModelFileError, match="can't hold a conversation"):
            read_template(directory)
    change(directory, SETTINGS, lambda settings: settings.update(chat_template={"default": CHATML}))
    with pytest.raises(ModelFileError, match="chat_template is"):
        read_template(directory)


BAD: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    (
        "a unigram",
        lambda file: file["model"].update(type="Unigram"),
        "model.type has 'Unigram', and only byte-level BPE",
    ),
    ("bytes as tokens", lambda file: file["model"].update(byte_fallback=True), "model.byte_fallback has True"),
    ("an unknown token", lambda file: file["model"].update(unk_token="<unk>"), "model.unk_token has '<unk>'"),
    ("chance", lambda file: file["model"].update(dropout=0.1), "model.dropout has 0.1"),
    ("another normaliser", lambda file: file.update(normalizer={"type": "Lowercase"}), "normalizer has"),
    ("no cut", lambda file: file.update(pre_tokenizer=None), "pre_tokenizer has"),
    ("metaspace", lambda file: file.update(pre_tokenizer={"type": "Metaspace"}), "pre_tokenizer has"),
    ("no bytes", lambda file: file.update(pre_tokenizer=DIGITS), "pre_tokenizer has"),
    ("bytes first", lambda file: file.update(pre_tokenizer=sequence(BYTES, DIGITS)), "pre_tokenizer has"),
    ("bytes twice", lambda file: file.update(pre_tokenizer=sequence(BYTES, BYTES)), "pre_tokenizer has"),
    ("a space", lambda file: file.update(pre_tokenizer=BYTES | {"add_prefix_space": True}), "pre_tokenizer has"),
    ("a cut that loses", lambda file: file.update(pre_tokenizer=split("a", behavior="Removed")), "pre_tokenizer has"),
    ("no sequence", lambda file: file.update(pre_tokenizer={"type": "Sequence"}), "lacks pre_tokenizer.pretokenizers"),
    (
        "no expression",
        lambda file: file.update(pre_tokenizer=sequence(split("("), BYTES)),
        "an expression that is none",
    ),
    ("a list for a model", lambda file: file.update(model=[]), r"model is \[\], not of the kind dict"),
    ("no model", lambda file: file.pop("model"), "lacks model.vocab"),
    ("no merges", lambda file: file["model"].pop("merges"), "lacks model.merges"),
    ("a merge of three", lambda file: file["model"].update(merges=[["a", "b", "c"]]), "model.merges has"),
    ("a merge of numbers", lambda file: file["model"].update(merges=[[1, 2]]), "model.merges has"),
    ("a merge to nothing", lambda file: file["model"].update(merges=["a b"]), "does not make a token"),
    (
        "an id too large",
        lambda file: file["model"]["vocab"].update(zz=SIZE),
        "token 'zz' is number 267, and the model has",
    ),
    ("a negative id", lambda file: file["model"]["vocab"].update(zz=-1), "token 'zz' is number -1"),
    ("an id that is true", lambda file: file["model"]["vocab"].update(zz=True), "token 'zz' is number True"),
    ("an id twice", lambda file: file["model"]["vocab"].update(zz=5), "is number 5, which is taken"),
    ("a token twice", lambda file: file["added_tokens"][0].update(id=SIZE - 1), "or has another number as well"),
    ("an empty token", lambda file: file["model"]["vocab"].update({"": SIZE - 1}), "token '' is number"),
    ("a greedy mark", lambda file: file["added_tokens"][0].update(lstrip=True), "added_tokens has"),
    ("a mark without id", lambda file: file["added_tokens"][0].pop("id"), "added_tokens has"),
    ("half a character", lambda file: file["model"]["vocab"].update({"\ud800": SIZE - 1}), "not JSON"),
]


@pytest.mark.parametrize(("by", "why"), [case[1:] for case in BAD], ids=[name for name, *_ in BAD])
def test_a_tokenizer_that_can_t_be_used(directory: Path, by: Callable[[dict[str, Any]], object], why: str) -> None:
    change(directory, FILE, by)
    with pytest.raises(ModelFileError, match=why) as caught:
        read(directory)
    assert str(directory) in caught.value.what


def test_settings_that_name_no_token(directory: Path) -> None:
    for wrong in (SIZE, -1, "2", [2, None], True):
        with pytest.raises(ModelFileError, match="eos_token_id is"):
            read(directory, eos_token_id=wrong)
    change(directory, SETTINGS, lambda settings: settings.update(eos_token="<|end|>"))
    with pytest.raises(ModelFileError, match=r"eos_token is '<\|end\|>', which tokenizer.json lacks"):
        read(directory)
    change(directory, SETTINGS, lambda settings: settings.update(eos_token=[2]))
    with pytest.raises(ModelFileError, match="eos_token is"):
        read(directory)
