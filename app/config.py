"""The one configuration: frozen structs read from a TOML file, then changed by flags the user typed.

An unknown key is refused with its place and the nearest known name. Units are in the names.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs

from app.decisions import Mode
from app.errors import ConfigError
from app.timing import Share, Turns


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The root of all sections: unknown keys are errors."""


class Models(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which models hear, think and speak. Names of the catalogue, or local paths."""

    llm: str = "smollm2-135m"
    asr: str = "whisper-tiny.en"
    voice: str = "en_US-joe-medium"
    turn: str = "smart-turn-v3.2"
    """Hears whether an utterance sounds finished; empty: nobody listens for that, and only the words tell."""


class Llm(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the language model runs."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    format: Literal["auto", "fp32", "bf16", "int4"] = "auto"
    """Weights in memory; int4 has a 4-bit body and an 8-bit head."""
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    context_tokens: Annotated[int, msgspec.Meta(ge=512)] = 2048
    max_reply_tokens: Annotated[int, msgspec.Meta(ge=8)] = 96
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """0 decodes greedily."""
    top_k: Annotated[int, msgspec.Meta(ge=0)] = 40
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] = 1.1
    persona: str = ""
    """System prompt; empty for the built-in one, which has a few turns of example."""


class Audio(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sound devices. Empty names mean the default of the system."""

    input: str = ""
    output: str = ""
    block_ms: Annotated[int, msgspec.Meta(ge=5, le=100)] = 20
    duck_db: Annotated[float, msgspec.Meta(le=0)] = -15.0
    mode: Mode = "duplex"
    """duplex: an echo canceller lets you talk over the loudspeaker. headset: there is no echo. half: the microphone is
    shut while the loudspeaker plays. ptt: it is open while the talk key is down."""
    speech_start: Share = 0.5
    """Probability of speech from which on silence becomes speech."""
    speech_end: Share = 0.35
    """Probability of speech below which speech becomes silence."""


class Journal(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The log of each conversation, one JSON object a line."""

    keep: bool = True
    directory: str = ""
    """Empty for the state directory of the user."""


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration."""

    models: Models = msgspec.field(default_factory=Models)
    llm: Llm = msgspec.field(default_factory=Llm)
    turns: Turns = msgspec.field(default_factory=Turns)
    audio: Audio = msgspec.field(default_factory=Audio)
    journal: Journal = msgspec.field(default_factory=Journal)
    language: str = "en"
    """What is spoken: en, de, es or fr. Decides backchannels, stop words and the agent's own lines."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    offline: bool = False


def default_path() -> Path:
    """Where `backtalk` looks for its configuration."""
    return platformdirs.user_config_path("backtalk") / "config.toml"


def load(path: Path | None) -> Config:
    """Read a configuration.

    Args:
        path: The file the user named, which must exist; None for the default place, which need not.

    Raises:
        ConfigError: The file is missing, not TOML, or has a key or value that can't be used.
    """
    chosen = path or default_path()
    if path is None and not chosen.exists():
        return Config()
    try:
        table = tomllib.loads(chosen.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"the configuration {chosen} can't be read", "there is no such file", "check the path given to --config"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"the configuration {chosen} can't be read", str(error), f"mend it, then: backtalk config check {chosen}"
        ) from error
    return parse(table, str(chosen))


def parse(table: dict[str, Any], source: str, base: Config | None = None) -> Config:
    """Turn a table of sections into a configuration.

    Args:
        table: Sections and keys as in the TOML file.
        source: Named in errors.
        base: What keys that are not in `table` keep; None for the defaults.

    Raises:
        ConfigError: A key or value can't be used.
    """
    merged = merge(msgspec.to_builtins(base or Config()), table)
    try:
        return msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"the configuration in {source} can't be used", _told(error), "`backtalk config show` lists every key"
        ) from None


def merge(base: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `table` laid over it, section by section."""
    merged = dict(base)
    for key, value in table.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value  # pyright: ignore[reportUnknownArgumentType]  # TOML tables have string keys
    return merged


def as_toml(config: Config) -> str:
    """The configuration as a file that `load` reads to the same value."""
    table = msgspec.to_builtins(config)
    # A JSON string, number or boolean is a TOML one too; DEL is the one character that TOML wants escaped and JSON not.
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for name, section in table.items():
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in section.items())]
    return "\n".join(lines) + "\n"


def _toml(value: str | float | bool) -> str:
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _told(error: msgspec.ValidationError) -> str:
    text = str(error)
    if "unknown field" not in text:
        return text
    unknown = text.split("`")[1]
    section = text.partition("at `$.")[2].rstrip("`")
    close = difflib.get_close_matches(unknown, keys_of(section), n=1)
    return f"{text}; did you mean `{close[0]}`?" if close else text


def keys_of(section: str = "") -> list[str]:
    """The keys of a section; without a name those of the file itself, its sections included."""
    table = msgspec.to_builtins(Config())
    return sorted(table[section] if section else table)
