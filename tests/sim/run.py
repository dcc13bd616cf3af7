"""`python -m tests.sim.run --turns N [--seed S]`: random dialogues on virtual time, and what must hold in all of them.

A failure names the seed of its dialogue: `--turns 1 --seed SEED --show` performs that one alone and prints its log.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Iterator

from app import events as ev
from app.config import Config
from app.journal import encode
from app.replay.runner import run_virtual
from tests.sim.checks import Outcome, violations
from tests.sim.dialogues import Author

TURNS_A_DIALOGUE = 6
# I8 performs a dialogue twice; so many dialogues share the cost.
_TWICE_EVERY = 8
_SEEDS_A_TASK = 8


def perform(seed: int) -> Outcome:
    """The dialogue of a seed, in the world of that seed."""
    scene = Author(seed).write(TURNS_A_DIALOGUE, Config())
    return Outcome(*run_virtual(scene.script, scene.config, jitter=scene.jitter, times=scene.times))


def log(outcome: Outcome) -> bytes:
    """All events, one a line."""
    return b"".join(encode(event) + b"\n" for event in outcome.events)


def found(seed: int) -> list[str]:
    """What does not hold in the dialogue of a seed, I8 (the same seed gives the same log and tree) included."""
    try:
        outcome = perform(seed)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    problems = list(violations(outcome))
    if seed % _TWICE_EVERY == 0 and log(outcome) != log(perform(seed)):
        problems.append("I8: the same seed gave another log")
    last = outcome.events[-1]
    if not isinstance(last, ev.SessionClosed) or not last.tree:
        problems.append("I8: the log does not end with the digest of the tree")
    return problems


def _all_found(seeds: range) -> Iterator[tuple[int, list[str]]]:
    """Seeds in order and what was found, from as many processes as there are cores."""
    workers = min(os.cpu_count() or 1, len(seeds))
    if workers == 1:
        yield from ((seed, found(seed)) for seed in seeds)
        return
    with multiprocessing.Pool(workers) as pool:
        yield from zip(seeds, pool.imap(found, seeds, _SEEDS_A_TASK), strict=True)


def main(argv: list[str] | None = None) -> int:
    """Returns 0 if everything held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--turns", type=int, default=400, help="turns in all (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first dialogue (default: 0)")
    parser.add_argument("--show", action="store_true", help="print the logs")
    arguments = parser.parse_args(argv)
    seeds = range(arguments.seed, arguments.seed - (-arguments.turns // TURNS_A_DIALOGUE))
    if arguments.show:
        for seed in seeds:
            sys.stdout.write(log(perform(seed)).decode())
    failed = 0
    for seed, problems in _all_found(seeds):
        for problem in problems:
            failed += 1
            print(f"seed {seed}: {problem}", file=sys.stderr)
        if sys.stderr.isatty():
            print(f"\r{seed + 1 - seeds.start} of {len(seeds)} dialogues", end="", file=sys.stderr, flush=True)
    print(f"{len(seeds)} dialogues of {TURNS_A_DIALOGUE} turns, {failed} violations")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
