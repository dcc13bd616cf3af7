"""What this machine is: the facts that doctor shows, reports carry and recommendations rest on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path

import msgspec

_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI",
    "avx_vnni": "VNNI",
    "avx512_bf16": "BF16",
    "amx_bf16": "AMX",
    "asimddp": "dot product",
    "i8mm": "int8 matmul",
    "bf16": "BF16",
    "sve": "SVE",
}
"""Flags of /proc/cpuinfo that decide how fast a language model runs, in the words of the vendors."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Facts without names of people or places."""

    cpu: str
    cores: int
    """Those this process may use."""
    features: tuple[str, ...]
    memory_bytes: int
    gpu: str | None
    gpu_memory_bytes: int
    os: str
    python: str
    torch: str | None


def describe() -> Machine:
    """Look at this machine. Imports torch, which alone knows the GPUs that our engine can use."""
    gpu, gpu_memory_bytes = _gpu()
    name, flags = _cpu(Path("/proc/cpuinfo").read_text("utf-8", "replace") if Path("/proc/cpuinfo").exists() else "")
    return Machine(
        cpu=name or platform.processor() or platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        features=tuple(dict.fromkeys(word for flag, word in _FEATURES.items() if flag in flags)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        gpu=gpu,
        gpu_memory_bytes=gpu_memory_bytes,
        os=platform.platform(terse=True),
        python=platform.python_version(),
        torch=version("torch"),
    )


def uses_gpu() -> bool:
    """Whether this build of our engine has a backend for GPUs."""
    return importlib.util.find_spec("engine.backends.cuda") is not None


def version(distribution: str) -> str | None:
    """Version of an installed package, without importing it."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu(cpuinfo: str) -> tuple[str, set[str]]:
    fields = dict[str, str]()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", ""), set((fields.get("flags") or fields.get("Features", "")).split())


def _gpu() -> tuple[str | None, int]:
    try:
        import torch
    except ImportError:
        return None, 0
    if not torch.cuda.is_available():
        return None, 0
    properties = torch.cuda.get_device_properties(0)
    return properties.name, properties.total_memory
