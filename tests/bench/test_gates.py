"""The gates hold on small models of every kind, and each of them fails when what it guards is broken."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from app import cli
from app.bench import controls, exactness, gates, recurrence, report, subject, weights_gate
from app.bench.controls import Controls
from app.bench.subject import Outcome, Subject
from engine import capsule, codec
from engine.backends import cpu_delta
from engine.capsule import Capsule
from engine.copier import Pair
from engine.models.decoder import Decoder
from engine.session import Engine
from engine.spec import DeltaSpec
from engine.state import LaneState
from engine.weights.gguf import PackedTensor
from engine.weights.random_model import RandomTensor
from engine.weights.safetensors_model import SafeTensor
from tests.engine import hybrid, tiny

CONTEXT_TOKENS = 384
"""More than the rings of a hybrid model hold."""
CAPSULE_BYTES = 8 << 20
FUZZED_BYTES = 1 << 11
"""So that few of the damaged files are tried: they have tests of their own."""
HYBRID = hybrid.SHAPES["two value heads a key head"]
DELTA = DeltaSpec(key_heads=2, value_heads=4, key_dim=16, value_dim=16, kernel=4, interval=4)
DRAWN = "random:smollm2-135m,layers=1,vocabulary=300"

Gate = Callable[[Subject], Iterator[Outcome]]
Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A dense GGUF file, and a hybrid model as a GGUF file and as a directory."""
    root = tmp_path_factory.mktemp("gates")
    model, drafts = hybrid.reference(HYBRID), hybrid.draft_head(HYBRID)
    (root / "directory").mkdir()
    return {
        "dense": str(tiny.write(root / "dense.gguf", tiny.Shape(), tiny.reference(tiny.Shape()))),
        "hybrid": str(hybrid.write_gguf(root / "hybrid.gguf", HYBRID, model, drafts)),
        "directory": str(hybrid.write_directory(root / "directory", HYBRID, model, drafts)),
        "random": DRAWN,
    }


@pytest.fixture(scope="module")
def subjects(paths: dict[str, str]) -> Iterator[dict[str, Subject]]:
    """Models under test, with few steps each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "FAST_BYTES", 0)
        engines = {
            kind: Engine.load(paths[kind], format="fp32", context_tokens=CONTEXT_TOKENS, capsule_bytes=CAPSULE_BYTES)
            for kind in ("dense", "hybrid")
        }
        yield {kind: Subject(engine) for kind, engine in engines.items()}
    for engine in engines.values():
        engine.close()


def failed(outcomes: Iterator[Outcome]) -> list[str]:
    """The cases that did not hold."""
    return [case for case, held in outcomes if not held]


@pytest.mark.parametrize("kind", ["dense", "directory"])
def test_verify_passes_and_reports(
    kind: str,
    paths: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subject, "FAST_BYTES", 0)
    monkeypatch.setattr(controls, "FUZZED_BYTES", FUZZED_BYTES)
    monkeypatch.setattr(gates, "CONTEXT_TOKENS", CONTEXT_TOKENS)
    monkeypatch.setattr(recurrence, "TOKENS", 256)
    assert cli.main(["verify", "--model", paths[kind], "--json", str(tmp_path / "r.json")]) == 0
    told = json.loads((tmp_path / "r.json").read_text())
    expected = ["G0", *(["G1"] if kind == "directory" else []), "G5", "G6", "G7", "G8", "G9"]
    assert [row["gate"] for row in told["rows"]] == expected
    assert all(set(row) == {"gate", "what", "cases", "passed", "worst"} for row in told["rows"])
    assert all(row["passed"] and row["cases"] > 1 for row in told["rows"])
    lost = {found["regions"]: found for found in told["left_out"]}
    assert lost["kv"]["greedy"]
    assert lost["journal"]["sampled"]
    if kind == "directory":
        assert lost["draft_kv"]["drafts"]
        assert lost["recurrent delta_keys delta_values delta_decay conv"]["greedy"]
    assert sum(told["damaged_files"].values()) > 100
    assert told["peak_memory_bytes"] > sum(usage["bytes"] for usage in told["state"])
    out, err = capsys.readouterr()
    assert told["not_exact"] in out
    # Progress is for terminals.
    assert err == ""


@pytest.mark.parametrize("kind", ["dense", "hybrid", "directory", "random"])
def test_a_weight_that_is_off_by_a_bit_is_named(
    kind: str, paths: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert failed(weights_gate.outcomes(paths[kind])) == []
    of = {"directory": SafeTensor, "random": RandomTensor}.get(kind, PackedTensor)
    read, name = of.dequantise, "blk.0.ffn_up.weight"
    reads: list[str] = []

    def off(tensor: SafeTensor | RandomTensor | PackedTensor) -> object:
        numbers = read(tensor).copy()
        reads.append(tensor.name)
        if tensor.name == name and reads.count(name) == 1:
            numbers.view("uint32").reshape(-1)[7] ^= 1
        return numbers

    monkeypatch.setattr(of, "dequantise", off)
    assert failed(weights_gate.outcomes(paths[kind])) == [name]


def test_the_recurrence_is_compared_with_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "TOKENS", 256)
    assert failed(recurrence.outcomes(recurrence.errors(DELTA))) == []
    fold = cpu_delta.fold

    def off(*memory: torch.Tensor) -> None:
        fold(*memory)
        memory[-1].mul_(1 + 1e-4)

    monkeypatch.setattr(cpu_delta, "fold", off)
    assert len(failed(recurrence.outcomes(recurrence.errors(DELTA)))) == 2


def snapshots_disturb(patch: pytest.MonkeyPatch) -> None:
    take = capsule.take

    def disturbing(state: LaneState, *others: object) -> object:
        taken = take(state, *others)
        state.arena.tensors["kv"][:, :, 0].mul_(1.5)
        return taken

    patch.setattr(capsule, "take", disturbing)


def restores_lose(name: str, patch: pytest.MonkeyPatch) -> None:
    plan = capsule.plan_restore

    def losing(state: LaneState, *others: object) -> list[Pair]:
        lost = state.arena.tensors[name].untyped_storage().data_ptr()
        pairs = plan(state, *others)
        return [pair for pair in pairs if pair[0].untyped_storage().data_ptr() != lost]

    patch.setattr(capsule, "plan_restore", losing)


def rows_see_their_call(patch: pytest.MonkeyPatch) -> None:
    forward = Decoder.forward

    def seeing(model: Decoder, state: LaneState, tokens: list[int]) -> None:
        forward(model, state, tokens)
        if len(tokens) == 3:
            state.arena.tensors["kv"][0].mul_(1.5)

    patch.setattr(Decoder, "forward", seeing)


def marks_never_go_stale(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LaneState, "stands", lambda *_: True)


def rollbacks_forget(patch: pytest.MonkeyPatch) -> None:
    plan = capsule.plan_rollback
    patch.setattr(capsule, "plan_rollback", lambda state, to: [pair for pair in plan(state, to) if len(pair[0]) == 2])


def forks_share(patch: pytest.MonkeyPatch) -> None:
    plan = capsule.plan_fork
    patch.setattr(capsule, "plan_fork", lambda target, source: plan(target, source)[1:])


def nothing_is_evicted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Capsule, "evict", lambda _: None)


def checksums_are_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(codec, "_require_checksum", lambda *_: None)


def scratch_is_leaned_on(patch: pytest.MonkeyPatch) -> None:
    forward, score = Decoder.forward, Decoder.score

    def leaning(method: Callable[..., object], model: Decoder, state: LaneState, tokens: list[int]) -> object:
        found = method(model, state, tokens)
        state.hidden.add_(next(model.scratch()).sum(), alpha=1e-6)
        return found

    patch.setattr(Decoder, "forward", lambda *given: leaning(forward, *given))
    patch.setattr(Decoder, "score", lambda *given: leaning(score, *given))


def negative_controls(under_test: Subject) -> Iterator[Outcome]:
    return Controls(under_test).outcomes()


REGIONS = {
    "dense": ("kv", "journal", "lineage", "hidden"),
    "hybrid": ("recurrent", "delta_keys", "delta_values", "delta_decay", "conv", "draft_kv"),
}


@pytest.mark.parametrize(
    ("kind", "gate", "breaking", "case"),
    [
        ("dense", exactness.repeats, snapshots_disturb, "amid snapshots"),
        ("dense", exactness.repeats, scratch_is_leaned_on, "with NaN in all scratch memory"),
        *(
            (kind, exactness.capsules, partial(restores_lose, name), "memory at 127")
            for kind, names in REGIONS.items()
            for name in names
        ),
        ("dense", exactness.splits, rows_see_their_call, "pieces of 3"),
        ("dense", exactness.branches, rollbacks_forget, "9 tokens taken back at 64"),
        ("hybrid", exactness.branches, marks_never_go_stale, "300 tokens taken back at 65"),
        ("dense", exactness.branches, forks_share, "branch 1 as if alone"),
        ("dense", negative_controls, marks_never_go_stale, "a stale mark is refused, the state untouched"),
        ("dense", negative_controls, nothing_is_evicted, "an evicted capsule is refused, the state untouched"),
        ("hybrid", negative_controls, checksums_are_believed, "files with flip in the payload are refused"),
        ("dense", negative_controls, partial(restores_lose, "kv"), "NaN in all other memory"),
    ],
)
def test_a_gate_fails_when_what_it_guards_is_broken(
    kind: str, gate: Gate, breaking: Break, case: str, subjects: dict[str, Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controls, "FUZZED_BYTES", FUZZED_BYTES)
    breaking(monkeypatch)
    assert any(case in found for found in failed(gate(subjects[kind])))


def test_progress_is_one_line_of_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report.tell("nothing")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    report.tell("G6: delta at 64")
    assert capsys.readouterr().err == "\r\033[KG6: delta at 64"
