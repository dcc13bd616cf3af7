"""G7: what is broken on purpose is noticed. Without it the other gates prove little."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from app.bench import fuzz
from app.bench.disturb import poison_scratch, scribble
from app.bench.subject import Outcome, Subject, decode
from app.bench.texts import BREAD, LIGHTHOUSE
from engine.arena import CHUNK_TOKENS, Live, Usage
from engine.capsule import Capsule
from engine.errors import StateError
from engine.fingerprint import Fingerprint
from engine.sampler import Sampling
from engine.session import Lane

POSITION_TOKENS = 200
"""At most, and never at the edge of a chunk, so that every region has something live."""
SAMPLED = Sampling(temperature=0.8, top_k=200, repetition_penalty=3.0, penalty_tokens=POSITION_TOKENS)
"""With so strong a penalty the journal is heard; what is said does not matter here."""
DRAFTS = 6
FUZZED_BYTES = 1 << 20
"""A file of so many bytes is tried in every damaged form, one that is n times as long in every nth."""
NO_TOKEN_DEPENDS_ON = frozenset({"lineage"})
"""Regions that only name the text: leaving one out changes no logits, and only the digests tell."""


class Probes(NamedTuple):
    """What a state leads to."""

    greedy: list[int]
    sampled: list[int]
    drafts: list[int]
    logits: list[tuple[list[int], str]]
    """Of a few steps."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a restore that left some regions as they were, those of another text."""

    regions: str
    noticed: bool
    """The digests of the regions told."""
    greedy: int | None
    """The first token that was another; None if none was."""
    sampled: int | None
    """The same with temperature and a repetition penalty."""
    drafts: int | None
    """The same of the draft head's guesses; None as well where there is no draft head."""
    logits: bool
    """The logits of the next steps were others."""

    @property
    def told(self) -> bool:
        """Whether anything that a user could see was different."""
        return self.logits or (self.greedy or self.sampled or self.drafts) is not None


class Controls:
    """The negative controls of one model.

    Attributes:
        left_out: What each region's absence did.
        fuzzed: How many damaged files were tried, by kind, and which of them were loaded.
    """

    def __init__(self, subject: Subject) -> None:
        self.left_out: list[LeftOut] = []
        self.fuzzed: list[fuzz.Tally] = []
        self._subject = subject
        encode = subject.engine.tokenizer.encode
        text, other = (encode(words.strip()) for words in (LIGHTHOUSE, BREAD))
        position = min(POSITION_TOKENS, len(text), len(other), subject.engine.capacity // 2)
        self._position = position - (position % CHUNK_TOKENS == 0)
        self._other = other
        self._count = min(64, max(24, subject.decoded // 4))
        self._lane = subject.lane_at(text[: self._position])
        self._capsule = self._lane.snapshot()

    @property
    def usage(self) -> list[Usage]:
        """What each buffer of a lane weighs."""
        return self._lane.usage()

    def outcomes(self) -> Iterator[Outcome]:
        """All of them."""
        yield from self._left_out()
        yield from self._closure()
        yield from self._refusals()
        yield from self._damaged_files()

    def _left_out(self) -> Iterator[Outcome]:
        engine = self._subject.engine
        expected = self._probes(self._lane)
        held = engine.lane(seed=1)
        # What would be said stands in the other text, so that its journal has the penalty fall on that.
        held.append_now([*expected.sampled, *expected.greedy, *self._other][: self._position])
        other = held.snapshot()
        # Its segments are taken out of it, so nobody else sees to it that they are filled.
        other.wait()
        regions = list(self._lane.mark().state.arena.true_regions())
        for name in (region.name for region in regions):
            found = self._without(other, [name], expected)
            yield f"{name} left out: told by its digest", found.noticed
            if name not in NO_TOKEN_DEPENDS_ON:
                yield f"{name} left out: told by what comes next", found.told
        if engine.spec.delta:
            # What is left is what an engine restores that knows only a KV cache.
            delta = [region.name for region in regions if region.live in (Live.BASE, Live.CHUNK, Live.WINDOW)]
            yield "keys and values only: the text is another", self._without(other, delta, expected).greedy is not None

    def _without(self, other: Capsule, names: Sequence[str], expected: Probes) -> LeftOut:
        kept = {name: other.segments[name] for name in names}
        broken = dataclasses.replace(self._capsule, segments={**self._capsule.segments, **kept})
        lane = self._subject.engine.lane(broken)
        noticed = lane.region_digests() != self._capsule.region_digests()
        greedy, sampled, drafts, logits = map(_first_difference, expected, self._probes(lane))
        found = LeftOut(
            regions=" ".join(names),
            noticed=noticed,
            greedy=greedy,
            sampled=sampled,
            drafts=drafts,
            logits=logits is not None,
        )
        self.left_out.append(found)
        return found

    def _probes(self, lane: Lane) -> Probes:
        """What a lane's state leads to; the lane is where it was then."""
        subject = self._subject
        mark = lane.mark()
        greedy = lane.generate_now(Sampling(), self._count, stop_ids=())
        lane.roll_back(mark)
        sampled = lane.generate_now(SAMPLED, self._count, stop_ids=())
        lane.roll_back(mark)
        drafts = lane.draft_now(DRAFTS) if subject.engine.spec.draft_head else []
        logits = [decode(lane, subject.text[self._position], subject.steps)]
        lane.roll_back(mark)
        return Probes(greedy, sampled, drafts, logits)

    def _closure(self) -> Iterator[Outcome]:
        """The registry is closed: nothing outside it is leaned on, nor what in it is derived or not live."""
        engine = self._subject.engine
        expected = self._probes(self._lane)
        state = engine.new_state()
        lane = Lane(engine, state)
        scribble(engine, state)
        lane.restore(self._capsule)
        poison_scratch(engine)
        for region in state.arena.regions:
            if region.derived:
                state.arena.tensors[region.name].fill_(float("nan"))
        yield "NaN in all other memory: nothing changes", self._probes(lane) == expected

    def _refusals(self) -> Iterator[Outcome]:
        subject, lane, capsule = self._subject, self._lane, self._capsule
        engine = subject.engine
        parts = dict(capsule.fingerprint.parts) | {"weights": "0" * 32}
        foreign = dataclasses.replace(capsule, fingerprint=Fingerprint(parts))
        lacking = {name: chain for name, chain in capsule.segments.items() if name != "kv"}
        evicted = subject.lane_at(subject.text[:5]).snapshot()
        shorter = subject.lane_at(subject.text[:5]).snapshot()
        counters = {**capsule.segments, "counters": shorter.segments["counters"]}
        evicted.evict()
        stale = engine.lane()
        stale.append_now(subject.text[:5])
        mark = stale.mark()
        stale.restore(capsule)
        attempts: tuple[tuple[str, Lane, Callable[[], object]], ...] = (
            ("a stale mark", stale, lambda: stale.roll_back(mark)),
            ("another lane's mark", lane, lambda: lane.roll_back(mark)),
            ("a capsule of other weights", lane, lambda: lane.restore(foreign)),
            ("an evicted capsule", lane, lambda: lane.restore(evicted)),
            ("a region missing", lane, lambda: lane.restore(dataclasses.replace(capsule, segments=lacking))),
            ("another position", lane, lambda: lane.restore(dataclasses.replace(capsule, segments=counters))),
            ("a stranger as parent", lane, lambda: lane.snapshot(parent=shorter)),
        )
        for what, refusing, attempt in attempts:
            yield f"{what} is refused, the state untouched", self._refuses(refusing, attempt)

    def _refuses(self, lane: Lane, attempt: Callable[[], object]) -> bool:
        before = lane.digest()
        try:
            attempt()
        except StateError:
            return lane.digest() == before and not lane.dead
        return False

    def _damaged_files(self) -> Iterator[Outcome]:
        engine, before = self._subject.engine, self._lane.digest()
        small = self._subject.lane_at(self._subject.text[:3]).snapshot()
        with tempfile.TemporaryDirectory(prefix="backtalk-verify-") as directory:
            path = Path(directory) / "capsule"
            engine.save(small, path)
            whole = path.read_bytes()
            yield "the file as it was saved is read", engine.load_capsule(path).digest() == small.digest()

            def refuses(data: bytes) -> bool:
                path.write_bytes(data)
                try:
                    engine.load_capsule(path)
                except StateError:
                    return True
                return False

            every = max(1, len(whole) // FUZZED_BYTES)
            self.fuzzed = fuzz.tally(itertools.islice(fuzz.cases(whole, 1), 0, None, every), refuses)
        for kind in self.fuzzed:
            yield f"{kind.cases} files with {kind.kind} are refused", not kind.let_through
        yield "all that touched no state", self._lane.digest() == before


def _first_difference(expected: Sequence[object], found: Sequence[object]) -> int | None:
    """Counted from 1."""
    pairs = enumerate(zip(expected, found, strict=True), 1)
    return next((place for place, (one, other) in pairs if one != other), None)
