"""What can go wrong in the engine, told in three parts: what happened, why, and what to do next.

    EngineError              anything the caller or the user can mend
    ├── ModelFileError       a model's file that is damaged, or of a kind the engine can't run
    ├── PromptError          messages that the model's chat template can't put into words
    ├── ContextFull          more tokens than the state has rows for; nothing was appended
    ├── StateError           a capsule or mark that can't be restored: refused, the live state is untouched
    │   ├── LaneDead         a restore that failed half way: the state is gone, and made again from its tokens
    │   └── CapsuleLost      a capsule that a store has no more; its tokens are left
    ├── PoolFull             no memory for another capsule; nothing was copied
    └── BackendError         a device or operation that this machine lacks, or what computes no number

The three attributes are those of the application's errors, so one printer serves both trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.capsule import Capsule


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


class LaneDead(StateError):
    """A restore failed half way, or more was asked of the lane after that. Its state is made again from its tokens."""


class PoolFull(EngineError):
    """No memory for another capsule. Nothing was copied, and nothing evicted.

    Attributes:
        sizes_bytes: The pieces that were asked for.
        pinned_bytes: Names of pinned capsules, and what comes free if that one may go.
    """

    def __init__(
        self,
        what: str,
        why: str,
        fix: str,
        sizes_bytes: Sequence[int] = (),
        pinned_bytes: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(what, why, fix)
        self.sizes_bytes = tuple(sizes_bytes)
        self.pinned_bytes = dict(pinned_bytes or {})


class CapsuleLost(StateError):
    """A capsule that a store can't give back.

    Attributes:
        capsule: What is left of it: the tokens and the seed that `Lane.rebuild` takes.
    """

    def __init__(self, what: str, why: str, fix: str, capsule: Capsule) -> None:
        super().__init__(what, why, fix)
        self.capsule = capsule


class BackendError(EngineError):
    """A device, or an operation of it, that this machine lacks, or that does not compute what it should."""
