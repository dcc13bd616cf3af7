"""A live conversation without a screen, and the way every live conversation ends: on Ctrl-C or SIGTERM, in order."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TextIO

import msgspec

from app.config import Config
from app.events import Event
from app.journal import Journal
from app.lines import LineView
from app.ports import Commands

Sink = Callable[[Event], None]


def main(config: Config, out: TextIO, *, as_json: bool, record: Path | None = None, events: Path | None = None) -> int:
    """Talk until SIGINT or SIGTERM, with a line of text a turn or a line of JSON an event. Returns the exit status.

    Args:
        config: The configuration.
        out: Where the lines go.
        as_json: Each is an event.
        record: Where the sound of both sides goes; None: nowhere.
        events: Where the event log goes besides the journal; None: nowhere.
    """
    view = JsonLines(out) if as_json else LineView(out).show
    with Journal(events) if events else nullcontext() as log:
        return run(config, [log, view] if log else [view], tell_on_stderr, record=record)


class JsonLines:
    """Writes each event as one line of JSON, at once."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, event: Event) -> None:
        self._out.write(msgspec.json.encode(event).decode() + "\n")
        self._out.flush()


def tell_on_stderr(line: str) -> None:
    """A word to a person who waits; stdout belongs to data."""
    print(f"backtalk: {line}", file=sys.stderr, flush=True)


def run(
    config: Config,
    sinks: Sequence[Sink],
    tell: Callable[[str], None],
    commands: Commands | None = None,
    record: Path | None = None,
) -> int:
    """A live session on this machine's sound. Returns the exit status.

    Args:
        config: The configuration.
        sinks: Take every event, on the event loop's thread.
        tell: Takes a line about what is going on while nothing can be said yet, on any thread.
        commands: Lets a keyboard or the like ask for things while the session is open.
        record: Where the sound of both sides goes; None: nowhere.
    """
    from app import wiring

    # Until there is a session to end, both signals interrupt whatever is being fetched or loaded on this thread.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    loaded = wiring.load(config, tell)

    async def session() -> None:
        stop = asyncio.Event()
        await until_signal(wiring.talk(loaded, config, sinks, stop, commands, record), stop)

    asyncio.run(session())
    return 0


async def until_signal(conversation: Awaitable[None], stop: asyncio.Event) -> None:
    """Carry a conversation on: the first signal sets `stop`, so that it ends in order; the second cancels it."""
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this is not None, "inside a coroutine there is a task"

    def end() -> None:
        if stop.is_set():
            this.cancel()
        stop.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, end)
    try:
        await conversation
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
