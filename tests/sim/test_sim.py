"""The simulation finds nothing, reaches what it is for, and does find what is broken on purpose."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from app import events as ev
from app import heard
from app.config import Config
from app.replay import scripted
from app.session import Session
from tests.sim.run import TURNS_A_DIALOGUE, found, main, perform

SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found(seed: int) -> None:
    assert found(seed) == []


def test_every_kind_of_trouble_comes_up() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        for event in perform(seed).run.events:
            seen[type(event).__name__] += 1
            if isinstance(event, ev.OverlapJudged):
                seen[event.verdict] += 1
    for wanted in ("TurnReopened", "OutputResumed", "RolledBack", "ContextTrimmed", "turn", "noise"):
        assert seen[wanted] >= 3, wanted
    assert seen["TurnCommitted"] >= len(SEEDS) * TURNS_A_DIALOGUE / 2


def all_found(config: Config | None = None) -> set[str]:
    """Names of the invariants that do not hold, in a few dialogues."""
    return {problem.split(":")[0] for seed in range(12) for problem in found(seed, config)}


def test_a_rollback_that_feeds_a_word_too_few_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scripted.ScriptedBrain.roll_back

    async def short(self: scripted.ScriptedBrain, handle: int, text: str, *, cut: bool) -> object:
        return await whole(self, handle, heard.first_words(text, 1) if len(text.split()) > 1 else text, cut=cut)

    monkeypatch.setattr(scripted.ScriptedBrain, "roll_back", short)
    assert "I1" in all_found()


def test_a_gate_that_is_never_shut_is_found() -> None:
    turns = msgspec.structs.replace(Config().turns, hold_after_ms=60_000)
    assert all_found(msgspec.structs.replace(Config(), turns=turns)) & {"I3", "I7"}


def test_a_boundary_that_is_never_forgotten_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(*_: object) -> None:
        return

    monkeypatch.setattr(scripted.ScriptedBrain, "forget", keep)
    assert "I6" in all_found()


def test_the_command_counts_and_names_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--turns", "7", "--seed", "40"]) == 0
    assert "2 dialogues" in capsys.readouterr().out
    monkeypatch.setattr(Session, "_abandon", Session._close)  # pyright: ignore[reportPrivateUsage]  # a bug put in on purpose
    assert main(["--turns", "60"]) == 1
    assert "seed " in capsys.readouterr().err
