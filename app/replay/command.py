"""`backtalk replay`: a script is performed, the log of a conversation is decided again, a recording is scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from app.config import Config
from app.errors import ConfigError
from app.events import ClockName
from app.replay.stopped import Compute

_KINDS = {".jsonl": "log", ".wav": "recording"}


class Options(NamedTuple):
    """What can be typed for scripts: arguments of `runner.replay`. None: it was not."""

    clock: ClockName | None = None
    compute: Compute | None = None
    room_name: str | None = None
    echo_db: float | None = None
    report: Path | None = None
    events: Path | None = None
    record: Path | None = None
    seed: int | None = None


def run(files: Sequence[Path], config: Config, options: Options) -> int:
    """Do with files what their kind asks for, and print what came of it.

    Args:
        files: Scripts, or logs (.jsonl), or recordings (.wav).
        config: What the scripts' own settings are laid over.
        options: For scripts.

    Returns:
        The exit status.

    Raises:
        BacktalkError, EngineError, AudioError: A file or an option can't be used.
    """
    kinds = sorted({_KINDS.get(path.suffix.lower(), "script") for path in files})
    if len(kinds) > 1:
        raise ConfigError(
            "these files can't be replayed together",
            f"they are of several kinds: {' and '.join(kinds)}",
            "replay one kind after the other",
        )
    if kinds == ["script"]:
        from app.replay import runner

        typed = options._replace(clock=options.clock or "wall")
        return runner.replay(files, config=config, **typed._asdict())
    if options != Options():
        raise ConfigError(
            f"a {kinds[0]} is replayed without options",
            "those that were typed are for scripts",
            f"backtalk replay {files[0]}",
        )
    if kinds == ["log"]:
        from app.replay import trace

        return trace.replay(files)
    from app.replay import scoring

    for path in files:
        print(json.dumps({"file": str(path), **scoring.score(path).told()}))
    return 0
