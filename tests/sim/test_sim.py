"""The simulation finds nothing, reaches what it is for, and does find what is broken on purpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from app import agent_region, barge_in, stuck, user_region, work
from app.replay.paces import Jitter
from app.replay.scripted_brain import ScriptedBrain
from app.replay.scripted_mouth import ScriptedMouth
from app.reply import Reply
from app.state import AgentPhase
from app.step import Step
from app.tree import Tree
from tests.sim.run import TURNS_A_DIALOGUE, found, main, perform

# In the last one a turn is taken back for which the context had just been trimmed.
SEEDS = (*range(32), 5595)


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_found(seed: int) -> None:
    assert found(seed) == []


def test_every_kind_of_trouble_comes_up() -> None:
    seen: Counter[str] = Counter()
    seeds = range(96)
    for seed in seeds:
        for event in perform(seed).events:
            seen[type(event).__name__] += 1
            for name in ("verdict", "kind", "mode", "command"):
                seen[f"{type(event).__name__} {getattr(event, name, '')}"] += 1
    wanted = [
        *("TurnReopened", "OutputResumed", "RolledBack", "ContextTrimmed", "TailKept", "TailForgotten", "Moved"),
        *("MoveRefused", "ReplyFailed", "CheckedIn", "DeviceLost", "SoundTroubled", "TextTyped", "TalkPressed"),
        *(f"OverlapJudged {verdict}" for verdict in ("turn", "stop", "backchannel", "noise", "echo")),
        *(f"UserNoted {kind}" for kind in ("backchannel", "stop", "wait", "command", "dropped", "echo")),
        *(f"CommandTaken {command}" for command in ("stop", "go_on", "undo", "regenerate", "take_up")),
        *("CommandRefused go_on", "ModeChanged half", "PauseLearned", "UserTextRead", "DeadBranchDropped"),
        "StuckRecovered",
    ]
    assert [name for name in wanted if not seen[name]] == []
    assert seen["TurnCommitted"] >= len(seeds) * TURNS_A_DIALOGUE / 2


# ---- what is broken on purpose ----

Patch = Callable[[pytest.MonkeyPatch], None]


def nothing(*_: object, **__: object) -> None:
    """Does nothing, whatever was to be done."""


def feeds_a_word_too_few(patch: pytest.MonkeyPatch) -> None:
    whole = work.locate
    patch.setattr(work, "locate", lambda texts, words, most: whole(texts, max(0, words - 1), most))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]  # the signature of what it replaces


def loses_what_is_dropped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Step, "note", nothing)


def forgets_what_was_reopened(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Step, "turn_text", lambda _, said: said)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as above


def stops_listening_after_a_key(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(user_region, "keep_listening", nothing)


def starts_into_speech(patch: pytest.MonkeyPatch) -> None:
    whole = barge_in.arm

    def arm(now: Step, from_s: float) -> None:
        if now.state.agent.phase is not AgentPhase.PREPARING:
            whole(now, from_s)

    patch.setattr(barge_in, "arm", arm)
    patch.setattr(barge_in, "confirmed", nothing)


def counts_a_word_twice(patch: pytest.MonkeyPatch) -> None:
    whole = ScriptedMouth.resume

    def resume(self: Any) -> None:
        if self._stream:
            self._stream.told = max(0, self._stream.told - 1)
        whole(self)

    patch.setattr(ScriptedMouth, "resume", resume)


def goes_on_a_word_late(patch: pytest.MonkeyPatch) -> None:
    whole = Reply.rest
    patch.setattr(Reply, "rest", lambda self, words: whole(self, words + 1))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]  # as above


def plays_on_when_stopped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ScriptedMouth, "stop", nothing)
    patch.setattr(ScriptedMouth, "forget", nothing)
    patch.setattr(ScriptedMouth, "hold", lambda self: setattr(self, "_tell_held", True))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as above


def never_forgets_a_boundary(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ScriptedBrain, "forget", nothing)


def keeps_every_boundary(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tree, "prune", lambda self: (self, []))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as above


def never_ends_a_reply(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ScriptedMouth, "finish", nothing)
    patch.setattr(stuck, "watch", nothing)


def waits_without_a_guard(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agent_region, "close", nothing)
    patch.setattr(stuck, "watch", nothing)


def draws_from_no_seed(patch: pytest.MonkeyPatch) -> None:
    whole = Jitter.__init__

    def unseeded(self: Any, *arguments: Any) -> None:
        whole(self, *arguments)
        self._random = np.random.default_rng()

    patch.setattr(Jitter, "__init__", unseeded)


def answers_nothing_at_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(user_region, "words_of", lambda _: ["word"])  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as above
    patch.setattr(barge_in, "weigh", lambda *_, **__: False)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]  # as above


@pytest.mark.parametrize(
    ("broken", "invariant"),
    [
        (feeds_a_word_too_few, "I1"),
        (starts_into_speech, "I2"),
        (loses_what_is_dropped, "I3"),
        (forgets_what_was_reopened, "I3"),
        (stops_listening_after_a_key, "I3"),
        (counts_a_word_twice, "I4"),
        (goes_on_a_word_late, "I4"),
        (plays_on_when_stopped, "I5"),
        (never_forgets_a_boundary, "I6"),
        (keeps_every_boundary, "I6"),
        (never_ends_a_reply, "I7"),
        (waits_without_a_guard, "I7"),
        (draws_from_no_seed, "I8"),
        (answers_nothing_at_all, "I9"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_is_broken_is_found(broken: Patch, invariant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    assert any(problem.startswith(invariant) for seed in range(48) for problem in found(seed))


def test_the_command_counts_and_names_seeds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--turns", "7", "--seed", "40"]) == 0
    assert "2 dialogues of 6 turns, 0 violations" in capsys.readouterr().out
    never_forgets_a_boundary(monkeypatch)
    assert main(["--turns", "1", "--seed", "40"]) == 1
    assert "seed 40: I6" in capsys.readouterr().err


def test_a_seed_is_shown_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--turns", "1", "--seed", "3", "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert '"SessionOpened"' in lines[0]
    assert '"SessionClosed"' in lines[-2]
