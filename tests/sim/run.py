"""`python -m tests.sim.run --turns N [--seed S]`: random dialogues on virtual time, and what must hold in all of them.

A failure names the seed of its dialogue: `--turns 1 --seed SEED --show` performs that one alone and prints its log.
"""

from __future__ import annotations

import argparse
import sys

import msgspec

from app.config import Config
from app.journal import encode
from app.replay.runner import run_virtual
from tests.sim.checks import Outcome, violations
from tests.sim.dialogues import draw

TURNS_A_DIALOGUE = 6
JITTER = 0.5
# Every third dialogue has so small a context that its oldest turns have to leave.
SMALL_CONTEXT_PIECES = 200


def perform(seed: int, config: Config | None = None) -> Outcome:
    """The dialogue of a seed, with lateness drawn from the same seed."""
    settled = msgspec.structs.replace(config or Config(), seed=seed)
    if seed % 3 == 0:
        llm = msgspec.structs.replace(settled.llm, context_tokens=SMALL_CONTEXT_PIECES)
        settled = msgspec.structs.replace(settled, llm=llm)
    return Outcome(*run_virtual(draw(seed, TURNS_A_DIALOGUE), settled, jitter=JITTER))


def log(outcome: Outcome) -> bytes:
    """All events, one a line."""
    return b"".join(encode(event) + b"\n" for event in outcome.run.events)


def found(seed: int, config: Config | None = None) -> list[str]:
    """What does not hold in the dialogue of a seed, I8 (the same seed gives the same log) included."""
    try:
        outcome = perform(seed, config)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    problems = list(violations(outcome))
    if seed % 8 == 0 and log(outcome) != log(perform(seed, config)):
        problems.append("I8: the same seed gave another log")
    return problems


def main(argv: list[str] | None = None) -> int:
    """Returns 0 if everything held, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--turns", type=int, default=400, help="turns in all (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first dialogue (default: 0)")
    parser.add_argument("--show", action="store_true", help="print the logs")
    arguments = parser.parse_args(argv)
    dialogues = -(-arguments.turns // TURNS_A_DIALOGUE)
    failed = 0
    for seed in range(arguments.seed, arguments.seed + dialogues):
        if arguments.show:
            sys.stdout.write(log(perform(seed)).decode())
        for problem in found(seed):
            failed += 1
            print(f"seed {seed}: {problem}", file=sys.stderr)
    print(f"{dialogues} dialogues of {TURNS_A_DIALOGUE} turns, {failed} violations")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
