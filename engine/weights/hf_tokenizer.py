"""Tokenizer and chat template of a model's directory: tokenizer.json, and the settings beside it.

tokenizer.json is a program of the `tokenizers` library. It is not run: its parts are taken out, and only byte-level BPE
whose every step we know becomes a tokenizer, for a text must come back as it was. As with GGUF, NFC is left out.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from tokenizers import Regex, pre_tokenizers

from engine.chat import ChatTemplate, no_template
from engine.tokenizer import CONTROL, NORMAL, Splitter, Tokenizer
from engine.weights.json_file import JsonObject, read_bounded, refuse

_UNSUPPORTED = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of a BPE that change its tokens; all must be off."""


def read_tokenizer(directory: Path, vocabulary: int, config: Sequence[JsonObject]) -> Tokenizer:
    """The tokenizer of a directory.

    Args:
        directory: Has tokenizer.json; settings in tokenizer_config.json and generation_config.json may be missing.
        vocabulary: Tokens that the model knows. Those without a name stand for no text.
        config: Parts of config.json that may name the tokens of beginning and end.

    Raises:
        ModelFileError: There is no tokenizer.json, or it is damaged or of a kind that is not supported.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        refuse(directory, "it has no tokenizer.json", "Fetch the whole directory of the model, its tokenizer included")
    file = JsonObject.open(path)
    model = file.section("model")
    _check_kind(file, model)
    names = _Names(file, vocabulary)
    settings = JsonObject.open_if_there(directory / "tokenizer_config.json")
    sources = [JsonObject.open_if_there(directory / "generation_config.json"), *config]
    bos_ids = names.ids_of(settings, "bos_token") or names.ids_in(sources, "bos_token_id")
    eos_ids = names.ids_of(settings, "eos_token") + names.ids_in(sources, "eos_token_id")
    for id in {*bos_ids, *eos_ids}:
        names.types[id] = CONTROL
    merges = [merge if type(merge) is str else _joined(model, merge) for merge in model.require("merges", list)]
    splitter = Splitter(_pre_tokenizer(file), bool(model.get("ignore_merges", bool)))
    try:
        tokenizer = Tokenizer(names.tokens, names.types, merges, splitter)
    except ValueError as error:
        file.refuse(str(error))
    tokenizer.bos_id = bos_ids[0] if bos_ids else None
    begins = settings.get("add_bos_token", bool)
    tokenizer.add_bos = tokenizer.bos_id is not None and (_begins_with_mark(file) if begins is None else begins)
    tokenizer.eos_ids = frozenset(eos_ids)
    return tokenizer


def read_template(directory: Path) -> ChatTemplate:
    """The chat template of a directory: chat_template.jinja, or what stands in tokenizer_config.json.

    Raises:
        ModelFileError: There is none, or a file is damaged.
        PromptError: It is not valid Jinja2.
    """
    settings = JsonObject.open_if_there(directory / "tokenizer_config.json")
    source = _template_source(directory / "chat_template.jinja", settings)
    if not source:
        raise no_template(directory)
    # Where the settings name no such token, templates were written for an empty text.
    return ChatTemplate(source, _token_text(settings, "bos_token") or "", _token_text(settings, "eos_token") or "")


def _template_source(path: Path, settings: JsonObject) -> str | None:
    if path.exists():
        try:
            return read_bounded(path).decode()
        except UnicodeDecodeError as error:
            refuse(path, f"it is not UTF-8: {error}")
    named = settings.values.get("chat_template")
    if not isinstance(named, list):
        return settings.get("chat_template", str)
    for entry in named:
        match entry:
            case {"name": "default", "template": str(source)}:
                return source
            case _:
                pass
    return None


class _Names:
    """Tokens by id, and GGUF's type of each. Those that no file names are marks without a name."""

    def __init__(self, file: JsonObject, vocabulary: int) -> None:
        self._file = file
        self._ids: dict[str, int] = {}
        self.tokens = [""] * vocabulary
        self.types = [CONTROL] * vocabulary
        for token, id in file.section("model").require("vocab", dict).items():
            self._place(token, id, NORMAL)
        for entry in file.get("added_tokens", list) or ():
            match entry:
                case {"id": id, "content": str(token)} if not any(map(entry.get, ("lstrip", "rstrip", "single_word"))):
                    self._place(token, id, CONTROL)
                case _:
                    _refuse_step(file, "added_tokens", entry)

    def _place(self, token: str, id: Any, type_: int) -> None:
        if type(id) is not int or not 0 <= id < len(self.tokens) or not token:
            self._file.refuse(f"its token {token!r} is number {id!r}, and the model has {len(self.tokens)}")
        if self.tokens[id] not in ("", token) or self._ids.setdefault(token, id) != id:
            self._file.refuse(f"its token {token!r} is number {id}, which is taken, or has another number as well")
        self.tokens[id], self.types[id] = token, type_

    def ids_of(self, settings: JsonObject, key: str) -> list[int]:
        """The id of the token that a setting names, if it names one."""
        token = _token_text(settings, key)
        if token is None:
            return []
        if token not in self._ids:
            settings.refuse(f"its {key} is {token!r}, which {self._file.path.name} lacks")
        return [self._ids[token]]

    def ids_in(self, sources: Sequence[JsonObject], key: str) -> list[int]:
        """The ids that settings give, each as a number or a list of them."""
        found: list[int] = []
        for source in sources:
            value = source.values.get(key)
            for id in value if isinstance(value, list) else () if value is None else (value,):
                if type(id) is not int or not 0 <= id < len(self.tokens):
                    source.refuse(f"{source.prefix}{key} is {id!r}, and the model has {len(self.tokens)} tokens")
                found.append(id)
        return found


def _token_text(settings: JsonObject, key: str) -> str | None:
    """A token in the settings: a text, or an object that has it as its content."""
    match settings.values.get(key):
        case {"content": str(text)}:
            return text
        case _:
            return settings.get(key, str)


def _refuse_step(section: JsonObject, key: str, step: Any) -> NoReturn:
    section.refuse(f"its {section.prefix}{key} has {reprlib.repr(step)}, and only byte-level BPE is read")


def _joined(model: JsonObject, merge: Any) -> str:
    match merge:
        case [str(left), str(right)]:
            return f"{left} {right}"
        case _:
            _refuse_step(model, "merges", merge)


def _check_kind(file: JsonObject, model: JsonObject) -> None:
    """Refuse what is not byte-level BPE, or changes its tokens in a way that a `Tokenizer` does not."""
    for section, key, known in ((model, "type", (None, "BPE")), (file, "normalizer", (None, {"type": "NFC"}))):
        if section.values.get(key) not in known:
            _refuse_step(section, key, section.values[key])
    for key in _UNSUPPORTED:
        if model.values.get(key):
            _refuse_step(model, key, model.values[key])


def _pre_tokenizer(file: JsonObject) -> pre_tokenizers.PreTokenizer:
    """The steps that cut a text: any that lose nothing, and at the end, once, the one that turns it into bytes."""
    steps = _steps(file, "pre_tokenizer", "pretokenizers")
    built = [_build_step(file, step) for step in steps]
    if [isinstance(step, pre_tokenizers.ByteLevel) for step in built] != [False] * (len(built) - 1) + [True]:
        _refuse_step(file, "pre_tokenizer", steps)
    return pre_tokenizers.Sequence(built)


def _build_step(file: JsonObject, step: Any) -> pre_tokenizers.PreTokenizer:
    match step:
        case {"type": "Digits", "individual_digits": bool(individual)}:
            return pre_tokenizers.Digits(individual)
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=rest.get("use_regex") is not False)
        case {"type": "Split", "pattern": {"Regex": str(expression)}, "behavior": "Isolated", "invert": False}:
            try:
                return pre_tokenizers.Split(Regex(expression), "isolated")
            except Exception as error:  # The library raises nothing narrower.
                file.refuse(f"it cuts text by an expression that is none: {error}")
        case _:
            _refuse_step(file, "pre_tokenizer", step)


def _begins_with_mark(file: JsonObject) -> bool:
    """Whether the file's own encoder puts a token before a text."""
    for step in _steps(file, "post_processor", "processors"):
        match step:
            case {"type": "TemplateProcessing", "single": [{"SpecialToken": _}, *_]}:
                return True
            case _:
                pass
    return False


def _steps(file: JsonObject, key: str, inner: str) -> list[Any]:
    """The steps of a part of the file: one, or those of a sequence."""
    outer = file.section(key)
    if not outer.values:
        return []
    return outer.require(inner, list) if outer.values.get("type") == "Sequence" else [outer.values]
