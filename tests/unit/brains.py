"""Brains with their lane in view, on the real model and on tiny ones of both kinds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Coroutine, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from app.brain import LaneBrain
from app.config import Llm
from app.personas import BUILT_IN
from app.ports import BoundaryMark
from engine.chat import Example
from engine.session import Engine
from tests.engine import lanes

Result = TypeVar("Result")
CONFIG = Llm(context_tokens=640, max_reply_tokens=48)
TINY = Llm(context_tokens=512, max_reply_tokens=40, persona="Be terse.")
"""For models whose tokens are bytes."""


class Ticks:
    """A clock that goes one second further each time it is read."""

    def __init__(self) -> None:
        self.at_s = 0.0

    def now_s(self) -> float:
        self.at_s += 1.0
        return self.at_s

    async def sleep_until(self, at_s: float) -> None:
        self.at_s = max(self.at_s, at_s)


class Bench:
    """A brain with its lane in view, and a way to say what the model shall decode."""

    def __init__(self, engine: Engine, config: Llm = CONFIG, seed: int = 0) -> None:
        self.engine = engine
        self.lane = engine.lane()
        self.brain = LaneBrain(_OneLane(engine, self.lane), config, clock=Ticks(), seed=seed)

    def text(self) -> str:
        return self.engine.tokenizer.decode(self.lane.journal)

    def force(self, ids: Sequence[int]) -> None:
        """Let the reply from here on be these tokens, fed one by one as sampled ones are."""

        begin = self.lane.position

        async def generate(sampling: Any, max_tokens: int, stop_ids: Collection[int]) -> AsyncGenerator[int, None]:
            for id in ids[self.lane.position - begin :][:max_tokens]:
                if id in stop_ids:
                    return
                yield id
                await self.lane.append([id])

        self.lane.generate = generate

    def force_text(self, text: str) -> None:
        self.force([*self.engine.tokenizer.encode(text), *self.engine.tokenizer.eos_ids])

    async def hear(self, pieces: int = 1000, *, again: bool = False) -> list[str]:
        """Decode a reply up to and including its n-th piece, and stop there."""
        heard: list[str] = []
        async with aclosing(self.brain.reply(1, again=again)) as stream:
            async for piece in stream:
                heard.append(piece)
                if len(heard) == pieces:
                    break
        return heard

    async def exchange(self, user: str, reply: str) -> BoundaryMark:
        await self.brain.read_user(user)
        self.force_text(reply)
        await self.hear()
        return await self.brain.close_reply()


class _OneLane:
    """Hands the brain the lane that the test looks at."""

    def __init__(self, engine: Engine, lane: Any) -> None:
        self.tokenizer, self.chat, self.store = engine.tokenizer, engine.chat, engine.store
        self.lane = lambda: lane


def tiny_engine(directory: Path, kind: str, capsule_bytes: int = lanes.CAPSULE_BYTES) -> Engine:
    """A tiny engine of a kind of `lanes.KINDS`, with a store of its own."""
    model = lanes.checkpoint(directory, kind.split()[0])
    context_tokens = TINY.context_tokens
    return Engine(
        model, kind.split()[1], context_tokens, threads=1, capsule_bytes=capsule_bytes, copier=lanes.NoCopier()
    )


async def opened(engine: Engine) -> Bench:
    """A conversation with a tiny model that has just begun."""
    bench = Bench(engine, TINY)
    await bench.brain.open()
    return bench


def straight(bench: Bench) -> str:
    """The digest of a state that has read the text of another from its start on."""
    lane = bench.engine.lane(seed=bench.lane.seed)
    lane.append_now(bench.lane.journal)
    return lane.digest()


def rendered(bench: Bench, turns: Sequence[Example], question: str | None = None) -> str:
    """The whole conversation by the template itself."""
    messages = [{"role": "system", "content": BUILT_IN.system}]
    for turn in (*BUILT_IN.examples, *turns):
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.assistant}]
    if question is not None:
        messages.append({"role": "user", "content": question})
    return bench.engine.chat.template.render(messages, add_generation_prompt=question is not None)


def run(job: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(job)
