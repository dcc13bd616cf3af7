"""What can go wrong, told in three parts: what happened, why, and what to type next.

    BacktalkError            anything a user can mend; printed once, on stderr, without a traceback
    ├── ConfigError          a configuration file or option that can't be used
    ├── ScriptError          a dialogue script that can't be used
    ├── ModelError           a model that is missing, damaged or unknown
    └── MachineError         something this machine lacks (a library, a device, memory)

`engine` and `audio` import nothing of ours and have trees of their own (engine/errors.py, audio/errors.py) with the
same three attributes, so one printer serves all of them.
"""

from __future__ import annotations


class BacktalkError(Exception):
    """An error that the user can do something about.

    Attributes:
        what: What happened, in one clause.
        why: The cause, as far as it is known.
        fix: What to type or change next.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}: {why}. {fix}")
        self.what = what
        self.why = why
        self.fix = fix


class ConfigError(BacktalkError):
    """A configuration file or a command-line option that can't be used."""


class ScriptError(BacktalkError):
    """A dialogue script that can't be used."""


class ModelError(BacktalkError):
    """A model that is missing, damaged, unknown or can't be fetched."""


class MachineError(BacktalkError):
    """Something that this machine lacks."""


def leaf(error: BaseException) -> BaseException:
    """The first error inside nested groups: what went wrong, without the tasks it went wrong in."""
    return leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def explain(error: BaseException) -> str | None:
    """The text for stderr, or None if `error` is not one of ours (then it is a bug, and deserves its traceback).

    A group, which is how a TaskGroup fails, is one of ours if all its members are.
    """
    if isinstance(error, BaseExceptionGroup):
        members = [explain(member) for member in error.exceptions]
        told = [member for member in members if member is not None]
        return "\n".join(told) if len(told) == len(members) else None
    parts = [getattr(error, name, None) for name in ("what", "why", "fix")]
    if not all(isinstance(part, str) for part in parts):
        return None
    what, why, fix = parts
    return f"backtalk: {what}\n  why:  {why}\n  next: {fix}"
