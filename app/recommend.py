"""Which models of the catalogue suit a machine."""

from __future__ import annotations

from typing import NamedTuple

from app.catalogue import Catalogue, Entry
from app.machine import Machine

RUNNABLE = frozenset({"llama", "qwen3", "qwen35"})
"""Architectures that our engine loads today."""

_GPU_SHARE = 0.6
_MEMORY_SHARE = 0.4
_CPU_PARAMETERS_PER_CORE = 190_000_000
"""Speech takes about four tokens a second, and a pause before each clause is heard: eight a second keep up. On two
cores of an AMD EPYC our bf16 path decodes 20 a second with 135 million parameters, so about eight with 2.8 times as
many."""


class Advice(NamedTuple):
    """One model for each part, and why the language model is this one."""

    llm: Entry
    asr: Entry
    reason: str


def recommend(catalogue: Catalogue, machine: Machine, *, use_gpu: bool) -> Advice:
    """The best language model that fits and keeps up with speech, and a recogniser to match.

    Args:
        catalogue: What there is to choose from.
        machine: Where it has to run.
        use_gpu: Whether this build makes use of a GPU.
    """
    on_gpu = use_gpu and machine.gpu is not None
    room_bytes = machine.gpu_memory_bytes * _GPU_SHARE if on_gpu else machine.memory_bytes * _MEMORY_SHARE
    parameters = float("inf") if on_gpu else machine.cores * _CPU_PARAMETERS_PER_CORE
    models = sorted(catalogue.of_kind("llm"), key=lambda entry: entry.parameters)
    fitting = [
        entry
        for entry in models
        # On a GPU weights are held in 16 bits, whatever the file has.
        if entry.architecture in RUNNABLE
        and not entry.thinks
        and max(entry.size_bytes, entry.parameters * 2 if on_gpu else 0) <= room_bytes
        and entry.parameters <= parameters
    ]
    place = f"{machine.gpu_memory_bytes / 1e9:.0f} GB on the {machine.gpu}" if on_gpu else _of_cpu(machine)
    best = fitting[-1] if fitting else models[0]
    reason = f"the largest that fits {place} and keeps up with speech"
    return Advice(
        best, _recogniser(catalogue, machine, on_gpu), reason if fitting else f"the smallest there is, for {place}"
    )


def _of_cpu(machine: Machine) -> str:
    return f"{machine.memory_bytes / 1e9:.0f} GB of memory and {machine.cores} cores"


def _recogniser(catalogue: Catalogue, machine: Machine, on_gpu: bool) -> Entry:
    """English ones on a CPU: a turn must be decoded in a fraction of a second."""
    if on_gpu:
        return catalogue.entry("whisper-large-v3-turbo")
    if machine.cores >= 8:
        return catalogue.entry("whisper-small.en")
    return catalogue.entry("whisper-base.en" if machine.cores >= 4 else "whisper-tiny.en")
