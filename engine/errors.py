"""What can go wrong in the engine, told in three parts: what happened, why, and what to do next.

    EngineError              anything the caller or the user can mend
    ├── ModelFileError       a model's file that is damaged, or of a kind the engine can't run
    ├── PromptError          messages that the model's chat template can't put into words
    ├── ContextFull          more tokens than the state has rows for; nothing was appended
    ├── StateError           a capsule or mark that can't be restored: refused, the live state is untouched
    └── BackendError         a device, or an operation of it, that this machine lacks

The three attributes are those of the application's errors, so one printer serves both trees.
"""

from __future__ import annotations


class EngineError(Exception):
    """An error that the caller can do something about.

    Attributes:
        what: What happened, in one clause.
        why: The cause, as far as it is known.
        fix: What to do next.
    """

    def __init__(self, what: str, why: str, fix: str) -> None:
        super().__init__(f"{what}: {why}. {fix}")
        self.what = what
        self.why = why
        self.fix = fix


class ModelFileError(EngineError):
    """A model's file that is damaged, or of a kind the engine can't run."""


class PromptError(EngineError):
    """Messages that the model's chat template can't put into words."""


class ContextFull(EngineError):
    """More tokens than the state has rows for. Nothing was appended."""


class StateError(EngineError):
    """A capsule or mark that can't be restored. It was refused, and the live state is untouched."""


class BackendError(EngineError):
    """A device, or an operation of it, that this machine lacks."""
