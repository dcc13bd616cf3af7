"""The fingerprint: it changes with whatever changes the bits of a state, and with nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import engine as package
from engine import fingerprint
from engine.arena import Live, Region
from engine.backends.rows import RowPlan
from engine.fingerprint import Fingerprint
from engine.state import declare
from engine.weights.checkpoint import Checkpoint
from tests.engine import lanes

PARTS = (
    *("weights", "shape", "format", "numbers", "layout", "kernels", "calls", "torch", "processor", "threads"),
    "sample",
)
HERE = Fingerprint(
    {
        "weights": "ab",
        "shape": "layers=30 hidden=576",
        "format": "int4",
        "numbers": "bfloat16",
        "layout": "kv=prefix:bfloat16[*,30] conv=window:bfloat16[256,18]",
        "kernels": "cd",
        "calls": "chunk=64 most=64 step=1",
        "torch": "2.13.0",
        "processor": "machine=x86_64 capability=AVX512",
        "threads": "1",
        "sample": "ef",
    }
)
X86 = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nflags\t\t: fpu avx2 amx_bf16 avx512_bf16\n"
ARM = "Features\t: fp asimd i8mm bf16 sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"


class Numerics(NamedTuple):
    """What decides how a model computes, beside its weights."""

    weight_format: str = "fp32"
    dtype: torch.dtype = torch.float32
    rows: RowPlan = RowPlan(1, 64)
    sample: str = "ab"


@pytest.fixture(scope="module")
def dense(models: Path) -> Checkpoint:
    return lanes.checkpoint(models, "dense")


def changed(**parts: str) -> Fingerprint:
    return Fingerprint({**HERE.parts, **parts})


def test_the_digest_is_blake2b_over_the_parts_in_order_of_their_names() -> None:
    canonical = json.dumps(dict(sorted(HERE.parts.items())), separators=(",", ":")).encode()
    assert HERE.digest == hashlib.blake2b(canonical, digest_size=16).hexdigest()
    assert Fingerprint(dict(reversed(HERE.parts.items()))).digest == HERE.digest
    assert {changed(**{part: "another"}).digest for part in PARTS}.isdisjoint({HERE.digest})


def test_a_difference_is_told_in_words() -> None:
    assert HERE.difference(changed()) == []
    assert HERE.difference(changed(weights="ef")) == ["the weights are others"]
    assert HERE.difference(changed(torch="2.12.1")) == ["torch is 2.13.0 here and 2.12.1 there"]
    assert changed(torch="2.12.1").difference(HERE) == ["torch is 2.12.1 here and 2.13.0 there"]
    assert HERE.difference(changed(kernels="ef", threads="2")) == [
        "the code that computes is of another version",
        "products use 1 threads here and 2 there",
    ]


def test_of_a_part_with_items_only_those_that_differ_are_told() -> None:
    assert HERE.difference(changed(shape="layers=30 hidden=960 gated=True")) == [
        "the model's hidden is 576 here and 960 there",
        "the model's gated is absent here and True there",
    ]
    assert HERE.difference(changed(layout="conv=window:bfloat16[256,18] kv=prefix:bfloat16[*,30]")) == [
        "the layout is told otherwise"
    ]


def test_whatever_differs_is_told_though_nobody_has_words_for_it() -> None:
    assert changed(moon="full").difference(HERE) == ["its part moon is full here and absent there"]
    for part in PARTS:
        assert len(HERE.difference(changed(**{part: "another=1"}))) >= 1, part
        lacking = {name: value for name, value in HERE.parts.items() if name != part}
        assert len(HERE.difference(Fingerprint(lacking))) >= 1, part


def test_it_is_of_the_whole_engine_but_not_of_its_capacity(models: Path) -> None:
    short, long = (lanes.load(models, "dense fp32", context_tokens=tokens) for tokens in (100, 384))
    assert tuple(short.fingerprint.parts) == PARTS
    assert all(value.isascii() and value.isprintable() for value in short.fingerprint.parts.values())
    assert short.fingerprint == long.fingerprint
    for engine in (short, long):
        engine.close()


@pytest.mark.parametrize(
    ("part", "model", "threads"),
    [
        ("format", Numerics(weight_format="int4"), 1),
        ("numbers", Numerics(dtype=torch.bfloat16), 1),
        ("calls", Numerics(rows=RowPlan(8, 32)), 1),
        ("sample", Numerics(sample="cd"), 1),
        ("threads", Numerics(), 2),
    ],
)
def test_how_the_model_computes_is_in_it(dense: Checkpoint, part: str, model: Numerics, threads: int) -> None:
    before, after = fingerprint.of(dense, Numerics(), 1), fingerprint.of(dense, model, threads)
    differing = {name for name in PARTS if before.parts[name] != after.parts[name]}
    assert differing - {"layout"} == {part}
    assert ("layout" in differing) == (part == "numbers")


def test_the_weights_and_the_shape_are_in_it(dense: Checkpoint) -> None:
    before = fingerprint.of(dense, Numerics(), 1)
    others = dataclasses.replace(dense, digest=lambda: "0" * 32)
    assert before.difference(fingerprint.of(others, Numerics(), 1)) == ["the weights are others"]
    deeper = dataclasses.replace(dense, spec=dataclasses.replace(dense.spec, rope_base=5e5))
    assert before.difference(fingerprint.of(deeper, Numerics(), 1)) == [
        "the model's rope_base is 10000.0 here and 500000.0 there"
    ]
    trained = dataclasses.replace(dense, spec=dataclasses.replace(dense.spec, context_tokens=99))
    assert before == fingerprint.of(trained, Numerics(), 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda region: region._replace(name="other"),
        lambda region: region._replace(dtype=torch.float64),
        lambda region: region._replace(live=Live.WINDOW),
        lambda region: region._replace(shape=(8, *region.shape[1:])),
        lambda region: region._replace(shape=(*region.shape[:-1], 7)),
        lambda region: region._replace(row_units=32),
        lambda region: region._replace(window=9),
        lambda region: region._replace(derived=True),
    ],
)
@pytest.mark.parametrize("architecture", ["dense", "hybrid"])
def test_the_layout_tells_whatever_a_region_is(
    models: Path, architecture: str, change: Callable[[Region], Region]
) -> None:
    spec = lanes.checkpoint(models, architecture).spec
    regions = declare(spec, 128, torch.bfloat16)
    told = fingerprint.layout(regions)
    assert fingerprint.layout(declare(spec, 4096, torch.bfloat16)) == told
    ring = next((place for place, region in enumerate(regions) if region.live is Live.CHUNK), 3)
    assert fingerprint.layout([*regions[:ring], change(regions[ring]), *regions[ring + 1 :]]) != told
    assert fingerprint.layout([regions[1], regions[0], *regions[2:]]) != told


@pytest.mark.parametrize(
    ("module", "counts"),
    [
        ("models/decoder.py", True),
        ("models/attention.py", True),
        ("backends/cpu.py", True),
        ("backends/cpu_delta.py", True),
        ("backends/rows.py", False),
        ("sampler.py", False),
    ],
)
def test_the_text_of_what_computes_is_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dense: Checkpoint, module: str, counts: bool
) -> None:
    before = fingerprint.of(dense, Numerics(), 1)
    copy = tmp_path / "engine"
    shutil.copytree(Path(str(resources.files(package))), copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(resources, "files", lambda _: copy)
    assert fingerprint.of(dense, Numerics(), 1) == before
    with (copy / module).open("a") as file:
        file.write("\n")
    after = fingerprint.of(dense, Numerics(), 1)
    assert before.difference(after) == (["the code that computes is of another version"] if counts else [])


def test_the_class_of_the_processor_is_read_on_both_architectures(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86)
    intel = fingerprint.processor(path)
    assert "class=GenuineIntel/6/207 " in intel
    assert intel.endswith(" features=amx_bf16+avx512_bf16")
    path.write_text(X86.replace("amx_bf16 ", ""))
    assert fingerprint.processor(path) != intel
    path.write_text(ARM)
    assert "class=0x41/0xd4f " in fingerprint.processor(path)
    assert fingerprint.processor(path).endswith(" features=bf16+i8mm+sve")
    assert fingerprint.processor(tmp_path / "none").endswith(" features=none")
