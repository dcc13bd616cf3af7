"""The catalogue that is installed, and what is refused in one."""

from __future__ import annotations

import msgspec
import pytest

from app.catalogue import Catalogue, Entry, HubSource, WheelSource, checked_path
from app.config import Config
from app.errors import ModelError
from app.machine import Machine
from app.recommend import RUNNABLE, recommend
from engine.weights.gguf_model import ARCHITECTURES

SHA256 = "0" * 64


def catalogue_text(name: str = "a", path: str = "m.onnx", sha256: str = SHA256, size_bytes: int = 1) -> str:
    return f"""
[[model]]
name = "{name}"
kind = "voice"
title = "t"
licence = "l"
asks = "a"
size_bytes = {size_bytes}
path = "m.onnx"
files = [{{ path = "{path}", size_bytes = 1, sha256 = "{sha256}" }}]
[[model.sources]]
kind = "wheel"
package = "p"
version = "1"
size_bytes = 1
sha256 = "{SHA256}"
folder = "p"
"""


def test_a_good_catalogue_is_read() -> None:
    assert Catalogue.parse(catalogue_text()).entry("a").files[0].sha256 == SHA256


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (catalogue_text(sha256="0" * 63), "SHA-256 that is none"),
        (catalogue_text(sha256="G" * 64), "SHA-256 that is none"),
        (catalogue_text(path="../m.onnx"), "no path inside"),
        (catalogue_text(path="/m.onnx"), "no path inside"),
        (catalogue_text(name="../a"), "can't name a directory"),
        (catalogue_text(size_bytes=2), "don't add up"),
        (catalogue_text() + catalogue_text(), "stands twice"),
        (catalogue_text().replace('title = "t"', 'titel = "t"'), "titel"),
    ],
)
def test_a_bad_catalogue_is_refused(text: str, why: str) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError), match=why):
        Catalogue.parse(text)


@pytest.mark.parametrize("path", ["a/../../b", "..", "", "/etc/passwd", "a\\b", "a\0b", "a\nb"])
def test_a_path_that_leaves_its_directory_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path inside"):
        checked_path(path)


def test_the_configured_defaults_come_from_wheels_with_digests() -> None:
    catalogue, models = Catalogue.load(), Config().models
    for name, kind in ((models.llm, "llm"), (models.asr, "asr"), (models.voice, "voice"), ("smart-turn-v3.2", "turn")):
        entry = catalogue.entry(name)
        assert entry.kind == kind
        assert entry.files
        assert isinstance(entry.sources[0], WheelSource)


def test_people_with_a_network_have_a_choice() -> None:
    catalogue = Catalogue.load()
    languages = {entry.name.partition("_")[0] for entry in catalogue.of_kind("voice")}
    assert len(languages - {"en"}) >= 10
    wanted = ["qwen3.5-0.8b", "qwen3.5-2b", "qwen3.5-4b", "qwen3-0.6b", "llama-3.2-1b", "smollm2-360m", "smollm2-1.7b"]
    wanted += ["whisper-base.en", "whisper-small.en", "whisper-large-v3-turbo"]
    assert all(isinstance(catalogue.entry(name).sources[0], HubSource) for name in wanted)


def test_every_entry_tells_its_licence_and_what_it_asks() -> None:
    assert all(entry.licence and entry.asks and entry.title for entry in Catalogue.load().model)


def test_only_a_language_model_that_is_known_to_parrot_notes_is_spared_them() -> None:
    catalogue = Catalogue.load()
    assert [entry.name for entry in catalogue.model if entry.parrots_notes] == [Config().models.llm]


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ModelError) as caught:
        Catalogue.load().entry("Whisper-tiny-en")
    assert "did you mean whisper-tiny.en?" in caught.value.fix


def machine(cores: int, memory_gb: float, gpu_gb: float = 0) -> Machine:
    return Machine(
        cpu="a processor",
        cores=cores,
        features=(),
        memory_bytes=int(memory_gb * 1e9),
        gpu="a GPU" if gpu_gb else None,
        gpu_memory_bytes=int(gpu_gb * 1e9),
        os="Linux",
        python="3.11",
        torch="2.11",
    )


def advised(on: Machine, *, use_gpu: bool = True) -> Entry:
    return recommend(Catalogue.load(), on, use_gpu=use_gpu).llm


def test_more_machine_gets_a_larger_model_but_never_one_that_the_engine_can_not_run() -> None:
    machines = [machine(1, 0.5), machine(2, 8), machine(4, 16), machine(16, 64), machine(16, 64, gpu_gb=24)]
    models = [advised(on) for on in machines]
    sizes = [model.parameters for model in models]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[-1]
    assert all(model.architecture in RUNNABLE and not model.thinks for model in models)


def test_a_model_that_does_not_fit_is_not_advised() -> None:
    assert advised(machine(64, 0.3)).name == "smollm2-135m"
    assert advised(machine(64, 256, gpu_gb=2)).parameters * 2 <= 2e9


def test_a_gpu_that_the_engine_can_not_use_makes_no_difference() -> None:
    assert advised(machine(2, 16, gpu_gb=80), use_gpu=False) == advised(machine(2, 16))
    assert advised(machine(2, 16, gpu_gb=80)) != advised(machine(2, 16))


def test_what_is_called_runnable_is_what_the_engine_runs() -> None:
    assert set(ARCHITECTURES) == RUNNABLE
