"""What the gates look at: a loaded model, texts to read, and what a lane that nothing disturbs makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from engine.arena import digest_of
from engine.session import Engine, Lane

CONTEXT_TOKENS = 1088
"""The gates' own context, whatever is configured: 17 chunks, which a slow machine fills in a few seconds."""
POSITIONS = (1, 2, 3, 4, 63, 64, 65, 127, 128, 255, 256, 257, 1023, 1024, 1025)
"""Where capsules are tried, beside the last one but one of the context: around the edges of chunks and of the rings."""
FAST_BYTES = 256 << 20
"""A model whose step reads no more is tried with more steps."""

Outcome = tuple[str, bool]
"""A case's name, and whether it held."""


class Cold(NamedTuple):
    """What a lane had at a position of the text that it read from the start, with no capsule near it."""

    regions: Mapping[str, str]
    """Digest of each region."""
    logits: list[str]
    """Digests of the logits after each of the next tokens of the text."""


class Subject:
    """A loaded model under test.

    Attributes:
        engine: The model.
        text: Tokens drawn from a seed, as many as a lane can hold.
        other: The same from another seed.
        steps: How many tokens are read one by one after each way to a state.
        decoded: How many tokens are decoded where a long text is wanted.
        positions: Where capsules are tried.
        cold: What the text leaves at those positions.
    """

    def __init__(self, engine: Engine) -> None:
        """Read the text once, from its start to its end."""
        self.engine = engine
        fast = engine.model.step_bytes <= FAST_BYTES
        self.steps, self.decoded = (8, 256) if fast else (3, 32)
        self.text = draw(engine, 1)
        self.other = draw(engine, 2)
        last = engine.capacity - 1
        self.positions = [*(position for position in POSITIONS if position < last), last]
        self.cold = self._read_cold()

    def lane_at(self, tokens: list[int]) -> Lane:
        """A new lane that has read some tokens at once."""
        lane = self.engine.lane()
        lane.append_now(tokens)
        return lane

    def goes_on(self, lane: Lane, position: int) -> bool:
        """Whether the next tokens of the text, one by one, give the logits of the cold run."""
        after = self.text[position : position + self.steps]
        return [digest_of([lane.score_now([token])]) for token in after] == self.cold[position].logits

    def stands(self, lane: Lane, position: int) -> bool:
        """Whether a lane is where the cold run was, in every byte of every region, and goes on as it did."""
        return lane.region_digests() == self.cold[position].regions and self.goes_on(lane, position)

    def _read_cold(self) -> dict[int, Cold]:
        lane, regions, logits = self.engine.lane(), dict[int, Mapping[str, str]](), dict[int, str]()
        scored = {position + step for position in self.positions for step in range(self.steps)}
        for position in [*self.positions, lane.capacity]:
            while (here := lane.position) < position:
                # One by one where the logits are wanted, and else at once up to the next such place.
                if here in scored:
                    logits[here] = digest_of([lane.score_now([self.text[here]])])
                else:
                    lane.append_now(self.text[here:position])
            regions[position] = lane.region_digests()
        places = {position: range(position, position + self.steps) for position in self.positions}
        return {
            position: Cold(regions[position], [logits[place] for place in near if place < lane.capacity])
            for position, near in places.items()
        }


def draw(engine: Engine, seed: int) -> list[int]:
    """Tokens drawn from a seed, as many as a lane can hold."""
    vocabulary = engine.spec.vocabulary
    return np.random.default_rng(seed).integers(min(64, vocabulary // 2), vocabulary, engine.capacity).tolist()


def decode(lane: Lane, token: int, count: int) -> tuple[list[int], str]:
    """The likeliest tokens after one, each in a step of its own, and a digest of all logits on the way."""
    digest, tokens = hashlib.blake2b(digest_size=16), list[int]()
    for _ in range(count):
        logits = lane.score_now([token])
        digest.update(digest_of([logits]).encode())
        token = int(logits.argmax())
        tokens.append(token)
    return tokens, digest.hexdigest()
