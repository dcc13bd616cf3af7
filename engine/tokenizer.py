"""Text to tokens and back, built from a model's vocabulary.

Byte-level BPE runs in the `tokenizers` library; what stands here is how a file's metadata become such a tokenizer, and
a rule: only text that we wrote ourselves may become a control token. What a user said never does, whatever it spells.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from engine.errors import ModelFileError
from engine.weights.gguf import GGUFFile

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# GGUF's types of tokens. Normal, unused and bytes are text; all others (control, user-defined, unknown) are marks.
NORMAL, CONTROL, UNUSED, BYTE = 1, 3, 5, 6


class Part(NamedTuple):
    """A piece of a prompt."""

    text: str
    trusted: bool
    """Whether names of control tokens in it are control tokens."""


class Splitter(NamedTuple):
    """How text is cut before merging."""

    cut: pre_tokenizers.PreTokenizer
    """Turns text into GPT-2's alphabet of bytes as well, and loses none."""
    whole_words_first: bool
    """Whether a word that is a token by itself is taken without merging."""


class Tokenizer:
    """Byte-level BPE with control tokens kept apart.

    Attributes:
        size: Tokens in the vocabulary.
        bos_id: The token that a sequence begins with, if the model has one.
        add_bos: Whether raw text is to begin with it (chat templates write it themselves).
        eos_ids: Tokens that end a turn or a text.
        control_ids: Every token that is a mark and not text.
    """

    def __init__(
        self, tokens: Sequence[str], types: Sequence[int], merges: Sequence[str], split: str | Splitter
    ) -> None:
        """Build a tokenizer from its parts.

        Args:
            tokens: All tokens; bytes are written in GPT-2's alphabet.
            types: GGUF's type of each token.
            merges: Pairs in order of rank, each "left right".
            split: How text is cut before merging; GGUF has names for some ways.

        Raises:
            ValueError: `split` is unknown, or the parts don't fit together.
        """
        if len(types) != len(tokens):
            raise ValueError(f"there are {len(tokens)} tokens and {len(types)} token types")
        text_ids = {token: id for id, token in enumerate(tokens) if types[id] in (NORMAL, UNUSED, BYTE)}
        pairs = [tuple(merge.split(" ")) for merge in merges]
        if any(len(pair) != 2 or not text_ids.keys() >= {*pair, "".join(pair)} for pair in pairs):
            raise ValueError("a merge does not make a token of the vocabulary from two others")
        pre_tokenizer, whole_words_first = _splitter(split) if isinstance(split, str) else split
        model = models.BPE(text_ids, pairs, ignore_merges=whole_words_first)  # pyright: ignore[reportArgumentType]  # pairs, checked above
        self._backend: Any = Backend(model)
        self._backend.pre_tokenizer = pre_tokenizer
        self._tokens = list(tokens)
        self._names = {token: id for id, token in enumerate(tokens) if token not in text_ids and token}
        self._bytes = [_as_bytes(token) if token in text_ids else token.encode() for token in tokens]
        longest_first = sorted(self._names, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self.size = len(tokens)
        self.control_ids = frozenset(self._names.values())
        self.bos_id: int | None = None
        self.add_bos = False
        self.eos_ids: frozenset[int] = frozenset()

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> Tokenizer:
        """Build the tokenizer of a model file.

        Raises:
            ModelFileError: The file has no vocabulary, a damaged one, or one of a kind that is not supported.
        """
        kind = file.require("tokenizer.ggml.model", str)
        split = file.get("tokenizer.ggml.pre", str) or "default"
        if kind != "gpt2" or split not in SPLITS:
            raise ModelFileError(
                f"the vocabulary of {file.path} can't be used",
                f"it is of the kind {kind!r}, split {split!r}; supported is 'gpt2' with {', '.join(SPLITS)}",
                "Choose a model of another family, such as SmolLM2, Llama 3, Qwen 2.5 or Qwen 3",
            )
        tokens, types, merges = (
            file.require(f"tokenizer.ggml.{name}", list) for name in ("tokens", "token_type", "merges")
        )
        try:
            tokenizer = cls(tokens, types, merges, split)
            ids = {name: file.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos", "eot", "eom")}
            if not all(id is None or 0 <= id < tokenizer.size for id in ids.values()):
                raise ValueError(f"of its special tokens {ids} some lie outside its {tokenizer.size} tokens")
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelFileError(
                f"the vocabulary of {file.path} can't be used",
                str(error),
                "Fetch the file again, or choose another model",
            ) from error
        tokenizer.bos_id = ids.pop("bos")
        tokenizer.add_bos = bool(file.get("tokenizer.ggml.add_bos_token", bool))
        tokenizer.eos_ids = frozenset(id for id in ids.values() if id is not None)
        return tokenizer

    def encode(self, text: str, special: bool = False) -> list[int]:
        """Tokens of a text.

        Characters that need a byte the vocabulary lacks (rare control characters) are left out.

        Args:
            text: What to encode.
            special: Whether names of control tokens in it are control tokens. Never True for what a user wrote.
        """
        return self.encode_parts([Part(text, special)])

    def encode_parts(self, parts: Iterable[Part]) -> list[int]:
        """Tokens of the parts put together as one text, with control tokens from trusted parts only."""
        ids: list[int] = []
        run = ""
        for part in parts:
            begin = 0
            for name in self._control.finditer(part.text) if part.trusted else ():
                ids += self._encode_run(run + part.text[begin : name.start()])
                ids.append(self._names[name.group()])
                run, begin = "", name.end()
            run += part.text[begin:]
        return ids + self._encode_run(run)

    def _encode_run(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some tokens. Control tokens give their names, bytes that are no UTF-8 give U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token: UTF-8, but a character may be spread over several tokens."""
        return self._bytes[id]

    def token_text(self, id: int) -> str:
        """The token as the vocabulary spells it, such as `<|im_end|>`."""
        return self._tokens[id]


class IncrementalDecoder:
    """Tokens to text while they arrive, never splitting a character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id: int) -> str:
        """What this token completes; empty while a character is still unfinished."""
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    @property
    def pending(self) -> bool:
        """Whether a character has begun and is not finished."""
        return bool(self._utf8.getstate()[0])

    def finish(self) -> str:
        """U+FFFD if the text ended within a character, else nothing. The decoder is as new after it."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


SPLITS: dict[str, str | None] = {
    "smollm": None,
    "gpt-2": None,
    "llama-bpe": _LLAMA3_SPLIT,
    "qwen2": _QWEN2_SPLIT,
    "qwen35": _QWEN35_SPLIT,
}
"""GGUF's names for the ways to cut text, with their expressions where it is not GPT-2's own.

From the tokenizer.json of each family. The NFC normalisation of Qwen's is left out, as in llama.cpp: the text of a
state must stay what it was.
"""


def _splitter(name: str) -> Splitter:
    if name not in SPLITS:
        raise ValueError(f"the split {name!r} is not supported")
    expression = SPLITS[name]
    if expression is not None:
        cut = pre_tokenizers.Split(Regex(expression), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return Splitter(pre_tokenizers.Sequence([cut, to_bytes]), name == "llama-bpe")
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    return Splitter(pre_tokenizers.Sequence([digits, gpt2]) if name == "smollm" else gpt2, False)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: Latin-1 where that shows something, else the next free one from U+0100 on."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + index): byte for index, byte in enumerate(hidden)}


_BYTE_OF = _byte_alphabet()


def _as_bytes(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()
