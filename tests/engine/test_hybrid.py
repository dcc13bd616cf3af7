"""Gates G2 to G4 on hybrid models: transformers in fp32, our float64 reference, and the same weights in other forms."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.errors import BackendError
from engine.sampler import Sampling
from engine.session import Engine
from engine.weights.checkpoint import open_checkpoint
from tests.engine import hybrid, reference, tiny
from tests.engine.hybrid import SHAPES, Floats
from tests.engine.reference import Array, Forward

GREEDY = Sampling()
MOST_LOGIT_ERROR = 1e-3
MOST_RELATIVE_ERROR = 1e-4
TIE = 2 * MOST_LOGIT_ERROR
"""Two tokens whose logits are this near may change places."""
PROMPTS, PROMPT_TOKENS, NEW_TOKENS = 20, 12, 64
DRAFTED = "two value heads a key head"
DRAFT_AT = (1, 2, 3, 62, 63, 64, 65, 127, 128, 200, 256, 299)
DRAFT_TOKENS = 3

Load = Callable[..., Engine]


class Case(NamedTuple):
    """A model, and what the references make of `TEXT`."""

    model: Any
    mtp: dict[str, Floats]
    weights: dict[str, Array]
    theirs: Array
    """Logits of transformers."""
    exact: Forward
    """All of it in float64."""


def some_tokens(count: int, seed: int = 1) -> list[int]:
    return np.random.default_rng(seed).integers(0, tiny.VOCABULARY, count).tolist()


TEXT = some_tokens(300)
"""Longer than the ring of the recurrence."""


@cache
def case(name: str) -> Case:
    shape = SHAPES[name]
    model, mtp = hybrid.reference(shape), hybrid.draft_head(shape)
    weights = reference.doubles(hybrid.weights(shape, model, mtp))
    return Case(model, mtp, weights, logits_of(model, TEXT), reference.forward(shape, weights, TEXT))


def logits_of(model: Any, tokens: list[int]) -> Array:
    """What transformers makes of a text."""
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].double().numpy()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    """Opens a model of `SHAPES`, each form and format once."""
    engines: dict[tuple[str, ...], Engine] = {}

    def open_once(name: str, form: str = "gguf", weight_format: str = "fp32", context_tokens: int = 512) -> Engine:
        key = (name, form, weight_format, str(context_tokens))
        if key not in engines:
            path = write(tmp_path_factory.mktemp("hybrid"), name, form)
            engines[key] = Engine.load(path, format=weight_format, context_tokens=context_tokens)
        return engines[key]

    yield open_once
    for engine in engines.values():
        engine.close()


def write(folder: Path, name: str, form: str) -> Path:
    """A model as a GGUF file (packed: its `form` is the quant), or a directory of a text or a multimodal model."""
    shape, found = SHAPES[name], case(name)
    match form:
        case "directory":
            return hybrid.write_directory(folder, shape, found.model, found.mtp)
        case "multimodal":
            bf16 = torch.bfloat16
            return hybrid.write_directory(folder, shape, found.model, found.mtp, multimodal=True, shards=3, dtype=bf16)
        case _:
            quant = None if form == "gguf" else form
            return hybrid.write_gguf(folder / "m.gguf", shape, found.model, found.mtp, quant)


def score(engine: Engine, tokens: list[int]) -> Array:
    return engine.lane().score_now(tokens).double().numpy()


def check_g2(got: Array, wanted: Array) -> None:
    """Logits as near to a reference as float32 comes."""
    assert np.abs(got - wanted).max() <= MOST_LOGIT_ERROR
    assert error(got, wanted) <= MOST_RELATIVE_ERROR


def error(got: Array, wanted: Array) -> float:
    """The length of the difference as a part of the length."""
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def row_error(got: Array, wanted: Array) -> float:
    """The mean length of a row's difference, which the few rows that bfloat16 throws far off don't decide."""
    return float(np.linalg.norm(got - wanted, axis=1).mean())


def margins(logits: Array) -> NDArray[np.float64]:
    """By how much the foremost token leads, [...]."""
    foremost = np.sort(logits, axis=-1)[..., -2:]
    return foremost[..., 1] - foremost[..., 0]


@pytest.mark.parametrize("form", ["gguf", "multimodal"])
@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_both_references(name: str, form: str, load: Load) -> None:
    got = score(load(name, form), TEXT)
    check_g2(got, case(name).theirs)
    check_g2(got, case(name).exact.logits)


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_text_is_that_of_transformers(name: str, load: Load) -> None:
    """20 prompts, 64 tokens each; as far as transformers itself has no ties.

    A greedy text is one whose every token is the most likely after those before it. All 20 are checked so, in calls of
    many tokens; three are decoded token by token as well.
    """
    model, engine = case(name).model, load(name)
    prompts = torch.tensor(some_tokens(PROMPTS * PROMPT_TOKENS, seed=5)).reshape(PROMPTS, PROMPT_TOKENS)
    with torch.inference_mode():
        texts = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        clear = margins(model(texts, use_cache=False).logits[:, PROMPT_TOKENS - 1 : -1].double().numpy()) > TIE
    assert clear.mean() > 0.99
    for text, clear_here in zip(texts.tolist(), clear, strict=True):
        likeliest = score(engine, text[:-1])[PROMPT_TOKENS - 1 :].argmax(1)
        assert (likeliest == text[PROMPT_TOKENS:])[clear_here].all()
    decoded = [text for text, clear_here in zip(texts.tolist(), clear, strict=True) if clear_here.all()][:3]
    assert len(decoded) == 3
    for text in decoded:
        lane = engine.lane()
        lane.append_now(text[:PROMPT_TOKENS])
        assert lane.generate_now(GREEDY, NEW_TOKENS, stop_ids=()) == text[PROMPT_TOKENS:]


def test_two_thousand_tokens_on_it_is_still_right(load: Load) -> None:
    text = some_tokens(2000, seed=8)
    found = case(DRAFTED)
    got = score(load(DRAFTED, context_tokens=2048), text)
    check_g2(got, reference.forward(SHAPES[DRAFTED], found.weights, text).logits)


@pytest.mark.parametrize("name", SHAPES)
def test_every_form_has_the_same_weights(name: str, tmp_path: Path) -> None:
    """Bit by bit, whatever a converter did to them."""
    plain = open_checkpoint(write(tmp_path, name, "gguf"))
    for form in ("directory", "multimodal"):
        other = open_checkpoint(write(tmp_path / form, name, form))
        # GGUF keeps this number in float32.
        assert replace(other.spec, norm_epsilon=plain.spec.norm_epsilon) == plain.spec
        for tensor in plain.tensors.values():
            assert other.tensors[tensor.name].dequantise().tobytes() == tensor.dequantise().tobytes(), tensor.name


@pytest.mark.parametrize(
    ("name", "form", "weight_format"),
    [
        *((name, "gguf", "fp32") for name in SHAPES),
        (DRAFTED, "gguf", "bf16"),
        ("three value heads a key head", "gguf", "bf16"),
        (DRAFTED, "Q4_0", "int4"),
    ],
)
def test_a_row_does_not_depend_on_its_call(name: str, form: str, weight_format: str, load: Load) -> None:
    """Any split of the text leaves the same bytes in every region, and gives the same logits."""
    engine = load(name, form, weight_format)
    whole = engine.lane()
    wanted = whole.score_now(TEXT)
    lengths = np.random.default_rng(2)
    for _ in range(2):
        lane, parts = engine.lane(), list[Tensor]()
        while lane.position < len(TEXT):
            length = int(lengths.choice((1, 2, 3, 4, 5, 9, 17, 33, 64)))
            parts.append(lane.score_now(TEXT[lane.position :][:length]))
        assert torch.equal(torch.cat(parts), wanted)
        assert lane.region_digests() == whole.region_digests()


@pytest.mark.parametrize("name", SHAPES)
def test_bf16_errs_no_more_than_transformers_in_bf16(name: str, load: Load) -> None:
    """Gate G3."""
    found = case(name)
    check_g3(score(load(name, weight_format="bf16"), TEXT), found.model, found.theirs)


def check_g3(got: Array, model: Any, wanted: Array) -> None:
    """Logits as near to those of fp32 as transformers' own in bfloat16.

    Args:
        got: Ours.
        model: In fp32.
        wanted: The model's logits.
    """
    theirs = logits_of(copy.deepcopy(model).bfloat16(), TEXT)
    assert row_error(got, wanted) <= 1.25 * row_error(theirs, wanted)
    noise = np.sqrt(np.mean((theirs - wanted) ** 2))
    clear = margins(wanted) > 5 * noise
    assert clear.sum() >= 50
    assert (got.argmax(1) == wanted.argmax(1))[clear].mean() >= 0.99


@pytest.mark.parametrize(
    ("name", "quant"), [(DRAFTED, "Q8_0"), (DRAFTED, "Q4_0"), (DRAFTED, "Q4_1"), ("three untied", "Q4_0")]
)
def test_packed_weights_are_those_that_the_gguf_package_unpacks(name: str, quant: str, load: Load) -> None:
    """Gate G4: in fp32 nothing is lost, so float64 on the unpacked weights gives the same logits."""
    shape, found = SHAPES[name], case(name)
    unpacked = hybrid.rounded(shape, hybrid.weights(shape, found.model, found.mtp), quant)
    exact = reference.forward(shape, reference.doubles(unpacked), TEXT).logits
    check_g2(score(load(name, quant), TEXT), exact)
    assert error(exact, found.exact.logits) > 10 * MOST_RELATIVE_ERROR


@pytest.mark.parametrize(("quant", "weight_format"), [("Q8_0", "bf16"), ("Q4_0", "bf16"), ("Q4_0", "int4")])
def test_packed_weights_err_no_more_than_bf16(quant: str, weight_format: str, load: Load) -> None:
    """Gate G4, against the same unpacked weights in fp32."""
    shape, found = SHAPES[DRAFTED], case(DRAFTED)
    unpacked = hybrid.rounded(shape, hybrid.weights(shape, found.model, {}), quant)
    model = copy.deepcopy(found.model)
    model.load_state_dict({name: torch.from_numpy(numbers) for name, numbers in unpacked.items()})
    check_g3(score(load(DRAFTED, quant, weight_format), TEXT), model, logits_of(model, TEXT))


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.mtp])
def test_drafts_are_those_of_the_reference(name: str, load: Load) -> None:
    lane, found = load(name).lane(), case(name)
    for position in DRAFT_AT:
        lane.append_now(TEXT[lane.position : position])
        wanted = reference.draft(SHAPES[name], found.weights, TEXT[:position], found.exact, DRAFT_TOKENS)
        assert lane.draft_now(DRAFT_TOKENS) == wanted, position


def test_drafting_changes_nothing(load: Load) -> None:
    """Neither the state nor what the engine computes after it, which is compared with the reference."""
    lane = load(DRAFTED).lane()
    for position in DRAFT_AT:
        first = lane.position
        wanted = case(DRAFTED).exact.logits[first:position]
        check_g2(lane.score_now(TEXT[first:position]).double().numpy(), wanted)
        before = lane.region_digests()
        lane.draft_now(DRAFT_TOKENS)
        assert lane.region_digests() == before


@pytest.mark.parametrize("form", ["gguf", "directory"])
def test_a_draft_head_may_be_missing(form: str, tmp_path: Path) -> None:
    """Some files leave it out, whatever their config says."""
    shape, found = SHAPES[DRAFTED], case(DRAFTED)
    path = (
        hybrid.write_gguf(tmp_path / "m.gguf", shape, found.model, {})
        if form == "gguf"
        else hybrid.write_directory(tmp_path, shape, found.model, {})
    )
    engine = Engine.load(path, format="fp32", context_tokens=512)
    check_g2(score(engine, TEXT), found.exact.logits)
    lane = engine.lane()
    lane.append_now(TEXT[:5])
    with pytest.raises(BackendError, match="no draft head"):
        lane.draft_now(1)
    assert "draft_kv" not in lane.region_digests()


def test_the_references_have_teeth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose value heads are in the model's own order, which no converter writes, is seen in the logits."""
    shape, found = SHAPES[DRAFTED], case(DRAFTED)

    def grouped(_shape: object, _name: str, numbers: Floats) -> Floats:
        return numbers

    monkeypatch.setattr(hybrid, "_tile", grouped)
    path = hybrid.write_gguf(tmp_path / "m.gguf", shape, found.model, found.mtp)
    got = score(Engine.load(path, format="fp32", context_tokens=512), TEXT)
    assert error(got, found.exact.logits) > 1000 * MOST_RELATIVE_ERROR
