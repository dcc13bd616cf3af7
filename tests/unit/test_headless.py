"""Headless: events as lines of JSON, and ends in order on a signal."""

from __future__ import annotations

import asyncio
import io
import os
import signal

import msgspec
import pytest

from app import events as ev
from app import headless

EVENTS = [
    ev.SessionOpened(clock="wall", seed=0, models={"llm": "m"}),
    ev.TurnCommitted(turn=1, branch=1, text="a\nb \x1b[31m", speech_start_s=0, speech_end_s=1, reason="silence"),
    ev.SessionClosed(t_s=2.0, reason="stopped"),
]


def test_each_event_is_one_line_that_reads_back() -> None:
    out = io.StringIO()
    write = headless.JsonLines(out)
    for event in EVENTS:
        write(event)
    lines = out.getvalue().splitlines()
    assert [msgspec.json.decode(line, type=ev.Event) for line in lines] == EVENTS
    assert all("\x1b" not in line for line in lines)


async def conversation(stop: asyncio.Event, log: list[str], signals: int) -> None:
    """Ends in order when asked to; unless it hangs in what it is doing."""
    for _ in range(signals):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0)
    try:
        await stop.wait()
        if signals > 1:
            await asyncio.Event().wait()
        log.append("ended in order")
    finally:
        log.append("closed")


@pytest.mark.parametrize(("signals", "log"), [(1, ["ended in order", "closed"]), (2, ["closed"])])
def test_one_signal_ends_it_in_order_and_a_second_at_once(signals: int, log: list[str]) -> None:
    told: list[str] = []

    async def session() -> None:
        stop = asyncio.Event()
        await headless.until_signal(conversation(stop, told, signals), stop)

    before = signal.getsignal(signal.SIGTERM)
    asyncio.run(session())
    assert told == log
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_of_the_conversation_comes_through() -> None:
    async def broken() -> None:
        raise ValueError("a bug")

    async def session() -> None:
        await headless.until_signal(broken(), asyncio.Event())

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(session())
