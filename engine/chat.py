"""A conversation as tokens, in the shape that the model's own chat template gives it.

A live state only ever grows at its end, so a conversation must be the sum of its pieces: an opening, the user's turn
with the header of the reply, the closing of the reply. The pieces are not written here. They are found by rendering the
template with marks in place of what is said, and checked by rendering a longer conversation whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.errors import ModelFileError, PromptError
from engine.tokenizer import Part, Tokenizer
from engine.weights.gguf import GGUFFile

Message = Mapping[str, str]
"""`role` (system, user, assistant) and `content`."""


class ChatTemplate:
    """A template in a sandbox: it sees the messages and nothing else."""

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        """Compile a template.

        Args:
            source: Jinja2, as `tokenizer.chat_template` holds it.
            bos: The spelling of the token that begins a text.
            eos: The spelling of the token that ends one.

        Raises:
            PromptError: The template is not valid Jinja2.
        """
        # The options that transformers compiles templates with; they are written for these.
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self._constants: dict[str, Any] = {
            "bos_token": bos,
            "eos_token": eos,
            "enable_thinking": False,
            "raise_exception": _raise_from_template,
        }
        try:
            self._template = sandbox.from_string(source)
        except Exception as error:
            raise _unusable(str(error)) from error

    @classmethod
    def from_gguf(cls, file: GGUFFile, tokenizer: Tokenizer) -> ChatTemplate:
        """The template of a model file.

        Raises:
            ModelFileError: The file has none.
            PromptError: It is not valid Jinja2.
        """
        source = file.get("tokenizer.chat_template", str)
        if not source:
            raise no_template(file.path)
        bos, eos = (file.get(f"tokenizer.ggml.{name}_token_id", int) for name in ("bos", "eos"))
        bos_text, eos_text = ("" if id is None else tokenizer.token_text(id) for id in (bos, eos))
        return cls(source, bos_text, eos_text)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The conversation as the model reads it.

        Args:
            messages: From the first to the last.
            add_generation_prompt: Whether to end with the header of the assistant's next turn.

        Raises:
            PromptError: The template refuses the messages, or fails.
        """
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._constants
            )
        except Exception as error:  # A template is a program from a file: it may fail in any way.
            raise _unusable(str(error) or type(error).__name__) from error


class Example(NamedTuple):
    """A turn that shows the model how to answer."""

    user: str
    assistant: str


class _Literals(NamedTuple):
    """What the template writes around what is said."""

    system_begin: str
    system_end: str
    user_begin: str
    reply_header: str
    past_header: str
    """The header of a reply that is already there; some templates have a longer one for the reply to come."""
    reply_end: str


class Chat:
    """Turns what is said into tokens to append."""

    def __init__(self, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        """Find the pieces of a template.

        Raises:
            PromptError: The template writes conversations that are not the sum of their pieces.
        """
        self.template = template
        self._tokenizer = tokenizer
        self._literals = _derive(template)
        self.closing: list[int] = tokenizer.encode(self._literals.reply_end, special=True)
        """Tokens that close an assistant's turn."""
        ends = tokenizer.encode(self._literals.reply_header, special=True)[:1]
        self.user_end_ids: frozenset[int] = tokenizer.eos_ids.union(ends)
        """Tokens that would end a user's turn, if one of them came next: the template's, and what ends any text."""
        self._check()

    @classmethod
    def from_gguf(cls, file: GGUFFile, tokenizer: Tokenizer) -> Chat:
        """The chat of a model file.

        Raises:
            ModelFileError: The file has no chat template.
            PromptError: The template can't be used.
        """
        return cls(ChatTemplate.from_gguf(file, tokenizer), tokenizer)

    def opening(self, system: str, examples: Sequence[Example] = ()) -> list[int]:
        """Tokens that open a conversation: the system prompt, then turns of example."""
        return self._tokenizer.encode_parts(self._opening_parts(system, examples))

    def user_turn(self, text: str) -> list[int]:
        """Tokens of a user's turn and of the header of the reply. The text can't become a control token."""
        return self._tokenizer.encode_parts(self._user_parts(text))

    def user_so_far(self, text: str) -> list[int]:
        """Tokens of a user's turn up to the end of what was said, which may go on.

        `user_turn` begins with them, unless the template ends a turn with plain text that a token may reach into.
        """
        return self._tokenizer.encode_parts(self._user_parts(text)[:-1])

    def past_turn(self, turn: Example) -> list[int]:
        """Tokens of a whole exchange of the past."""
        return self._tokenizer.encode_parts(self._past_parts(turn))

    def _opening_parts(self, system: str, examples: Sequence[Example]) -> list[Part]:
        literals = self._literals
        system_parts = [Part(literals.system_begin, True), Part(system.strip(), False), Part(literals.system_end, True)]
        return [*system_parts, *chain.from_iterable(map(self._past_parts, examples))]

    def _user_parts(self, text: str) -> list[Part]:
        literals = self._literals
        return [Part(literals.user_begin, True), Part(text.strip(), False), Part(literals.reply_header, True)]

    def _past_parts(self, turn: Example) -> list[Part]:
        literals = self._literals
        return [
            Part(literals.user_begin, True),
            Part(turn.user.strip(), False),
            Part(literals.past_header, True),
            Part(turn.assistant.strip(), False),
            Part(literals.reply_end, True),
        ]

    def _check(self) -> None:
        """Two exchanges and a question, rendered whole, must be the sum of their pieces."""
        first, second = Example("u1", "a1"), Example("u2", "a2")
        parts = [*self._opening_parts("s", [first, second]), *self._user_parts("u3")]
        said = _messages("s", "u1", "a1", "u2", "a2", "u3")
        whole = self.template.render(said, add_generation_prompt=True)
        if "".join(part.text for part in parts) != whole:
            raise _unusable("it rewrites earlier turns, so a conversation can't grow at its end")


# Stand for what is said while the pieces are found. No template has these characters.
_SYSTEM, _USER, _REPLY, _NEXT = (f"\ue000{index}\ue001" for index in range(4))


def _derive(template: ChatTemplate) -> _Literals:
    marks = [_SYSTEM, _USER, _REPLY, _NEXT]
    messages = _messages(*marks)
    growing = template.render(messages, add_generation_prompt=True)
    if any(growing.count(mark) != 1 for mark in marks):
        raise _unusable("it drops or repeats a message (perhaps it has no place for a system prompt)")
    before, system_to_user, past_header, reply_to_user, header = _cut(growing, marks)
    reply_end = template.render(messages[:3]).rpartition(_REPLY)[2]
    user_begin = reply_to_user.removeprefix(reply_end)
    if not reply_to_user.startswith(reply_end) or not user_begin or not system_to_user.endswith(user_begin):
        raise _unusable("its turns don't begin and end alike wherever they stand")
    system_end = system_to_user.removesuffix(user_begin)
    return _Literals(before, system_end, user_begin, header, past_header, reply_end)


def _messages(system: str, *turns: str) -> list[Message]:
    """Messages with these contents; users and assistant take turns."""
    roles = chain(["system"], cycle(["user", "assistant"]))
    return [{"role": role, "content": content} for role, content in zip(roles, [system, *turns], strict=False)]


def _cut(text: str, marks: Sequence[str]) -> list[str]:
    pieces: list[str] = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found:
            raise _unusable("it changes the order of the messages")
        pieces.append(before)
    return [*pieces, text]


def no_template(model: Path) -> ModelFileError:
    """The error of a model that has no chat template."""
    return ModelFileError(
        f"the model {model} can't hold a conversation",
        "it has no chat template, so it was not trained for one",
        "Choose an instruction-tuned model; their names mostly end in Instruct or Chat",
    )


def _unusable(why: str) -> PromptError:
    return PromptError("the model's chat template can't be used", why, "Choose another model")


def _raise_from_template(why: Any) -> NoReturn:
    raise ValueError(str(why))
