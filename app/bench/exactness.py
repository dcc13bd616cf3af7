"""G5, G6, G8, G9: the same text leaves the same bytes, however a lane came to it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from app.bench.disturb import poison_scratch, scribble
from app.bench.subject import Outcome, Subject, decode
from engine.capsule import Capsule
from engine.errors import StateError
from engine.sampler import Sampling
from engine.session import Lane

PIECES = (1, 3, 4, 16, 31, 64, 100)
RANDOM_SPLITS = 4
SPLIT_TOKENS = 257
"""Of the text that is read in pieces: four chunks and one token."""
BACK_TOKENS = (1, 2, 5, 63, 64, 65, 100, 128, 191, 300)
"""Read after a mark and taken back. A ring may refuse the longest, for what it needs is gone; it may not be wrong."""
BRANCHES = 3
PARTS = 8
"""Of a decoded text, between which something is done."""


def repeats(subject: Subject) -> Iterator[Outcome]:
    """G5: three runs, one of them amid snapshots and one with NaN in all scratch memory."""
    expected = _run(subject, lambda lane: None)
    parents: list[Capsule | None] = [None]

    def snapshots(lane: Lane) -> None:
        # Not waited for: the copies are made beside the steps. Every other one grows from the one before.
        lane.snapshot()
        parents[0] = lane.snapshot(parent=parents[0])

    yield "run again", _run(subject, lambda lane: None) == expected
    yield "amid snapshots", _run(subject, snapshots) == expected
    yield "with NaN in all scratch memory", _run(subject, lambda lane: poison_scratch(subject.engine)) == expected


def _run(subject: Subject, between: Callable[[Lane], None]) -> tuple[object, ...]:
    """Tokens and logits of a greedy text, and the state at its end; something is done between its parts."""
    *prompt, token = subject.text[:130]
    lane, found = subject.lane_at(prompt), list[object]()
    for _ in range(PARTS):
        between(lane)
        tokens, logits = decode(lane, token, subject.decoded // PARTS)
        found.append((tokens, logits))
        token = tokens[-1]
    return found, lane.digest()


def capsules(subject: Subject) -> Iterator[Outcome]:
    """G6: at each position, by each way that a capsule can go, into a lane whose every byte was overwritten."""
    walker, parent = subject.engine.lane(), None
    with tempfile.TemporaryDirectory(prefix="backtalk-verify-") as directory:
        for position in subject.positions:
            walker.append_now(subject.text[walker.position : position])
            delta = walker.snapshot(parent=parent)
            yield from _ways(subject, walker, delta, Path(directory) / "capsule")
            parent = delta
    yield from _long(subject)


def _ways(subject: Subject, walker: Lane, delta: Capsule, path: Path) -> Iterator[Outcome]:
    engine, position = subject.engine, walker.position

    def from_file() -> Capsule:
        engine.save(walker.snapshot(), path)
        return engine.load_capsule(path)

    state = engine.new_state()
    lane = Lane(engine, state)
    # One after the other, so that no more than one of them fills the pool.
    for way, take in (("memory", walker.snapshot), ("delta", lambda: delta), ("file", from_file)):
        scribble(engine, state)
        lane.restore(take())
        yield f"{way} at {position}", subject.stands(lane, position)
    yield f"another lane at {position}", subject.stands(engine.lane(delta), position)
    yield f"the lane itself at {position}", walker.region_digests() == subject.cold[position].regions


def _long(subject: Subject) -> Iterator[Outcome]:
    """A long decoded text after a restore, against one that was never interrupted."""
    engine = subject.engine
    start = min(257, engine.capacity // 3)
    count = min(subject.decoded, engine.capacity - start - 1)
    state = engine.new_state()
    lane = Lane(engine, state)
    lane.append_now(subject.text[:start])
    capsule = lane.snapshot()
    capsule.wait()
    cold = subject.lane_at(subject.text[:start])
    expected = decode(cold, subject.text[start], count), cold.digest()
    scribble(engine, state)
    lane.restore(capsule)
    yield f"{count} decoded tokens at {start}", (decode(lane, subject.text[start], count), lane.digest()) == expected


def splits(subject: Subject) -> Iterator[Outcome]:
    """G8: read at once, in pieces, after a restore, and after decoding: the state is that of the tokens."""
    for position in (65, 257, 1025):
        if position in subject.cold:
            yield f"{position} tokens at once", subject.stands(subject.lane_at(subject.text[:position]), position)
    end = max(position for position in subject.positions if position <= SPLIT_TOKENS)
    for size in PIECES:
        yield f"pieces of {size}", subject.stands(_in_pieces(subject, range(0, end, size), end), end)
    draw = np.random.default_rng(3)
    for turn in range(RANDOM_SPLITS):
        cuts = [0, *sorted(draw.choice(np.arange(1, end), min(12, end - 1), replace=False).tolist())]
        yield f"random pieces, draw {turn + 1}", subject.stands(_in_pieces(subject, cuts, end), end)
    yield from _after_restore(subject, end)
    yield from _after_decoding(subject)


def _in_pieces(subject: Subject, starts: range | list[int], end: int) -> Lane:
    lane = subject.engine.lane()
    for first, after in zip(starts, [*starts[1:], end], strict=True):
        lane.append_now(subject.text[first:after])
    return lane


def _after_restore(subject: Subject, end: int) -> Iterator[Outcome]:
    engine = subject.engine
    walker, state = engine.lane(), engine.new_state()
    lane = Lane(engine, state)
    for position in (position for position in subject.positions if position < end):
        walker.append_now(subject.text[walker.position : position])
        scribble(engine, state)
        lane.restore(walker.snapshot())
        lane.append_now(subject.text[position:end])
        yield f"restored at {position}, read on to {end}", subject.stands(lane, end)


def _after_decoding(subject: Subject) -> Iterator[Outcome]:
    lane = subject.lane_at(subject.text[:100])
    lane.generate_now(Sampling(), 40, stop_ids=())
    lane.append_now(subject.other[:30])
    cold = subject.lane_at(lane.journal)
    yield "40 tokens decoded, 30 read: as if all had been read at once", lane.digest() == cold.digest()


def branches(subject: Subject) -> Iterator[Outcome]:
    """G9: what was read and taken back leaves no trace, and branches don't see each other."""
    walker = subject.engine.lane()
    for position in subject.positions[:-1]:
        walker.append_now(subject.text[walker.position : position])
        mark = walker.mark()
        walker.append_now(subject.other[: min(9, walker.capacity - position)])
        walker.roll_back(mark)
        yield f"9 tokens taken back at {position}", subject.stands(walker, position)
        walker.roll_back(mark)
    yield from _far_back(subject)
    yield from _forks(subject)


def _far_back(subject: Subject) -> Iterator[Outcome]:
    position = max(position for position in subject.positions if position <= 65)
    lane = subject.lane_at(subject.text[:position])
    capsule = lane.snapshot()
    for count in (count for count in BACK_TOKENS if position + count <= lane.capacity):
        mark = lane.mark()
        lane.append_now(subject.other[:count])
        try:
            lane.roll_back(mark)
        except StateError:
            # Only a ring can lose what a mark needs.
            held = subject.engine.spec.delta is not None and lane.position == position + count
            yield f"{count} tokens to take back at {position}: refused", held
        else:
            yield f"{count} tokens taken back at {position}", subject.stands(lane, position)
        lane.restore(capsule)


def _forks(subject: Subject) -> Iterator[Outcome]:
    prompt, count = subject.text[:150], max(8, subject.decoded // 16)
    starts = [subject.other[index * 7 : index * 7 + 5] for index in range(BRANCHES)]
    solo = [_alone(subject, [*prompt, *start], count) for start in starts]
    parent = subject.lane_at(prompt)
    before, capsule = parent.digest(), parent.snapshot()
    lanes = [parent.fork(), subject.engine.lane(capsule), parent.fork()]
    for lane, start in zip(lanes, starts, strict=True):
        lane.append_now(start[:-1])
    found: list[list[tuple[list[int], str]]] = [[] for _ in starts]
    tokens = [start[-1] for start in starts]
    for _ in range(count):
        # A step of each in turn.
        for branch, lane in enumerate(lanes):
            found[branch].append(decode(lane, tokens[branch], 1))
            tokens[branch] = found[branch][-1][0][0]
    for branch, lane in enumerate(lanes):
        yield f"branch {branch + 1} as if alone", (found[branch], lane.digest()) == solo[branch]
    yield "the parent untouched", parent.digest() == before == capsule.digest()


def _alone(subject: Subject, text: list[int], count: int) -> tuple[list[tuple[list[int], str]], str]:
    lane = subject.lane_at(text[:-1])
    token, found = text[-1], list[tuple[list[int], str]]()
    for _ in range(count):
        found.append(decode(lane, token, 1))
        token = found[-1][0][0]
    return found, lane.digest()
