"""`backtalk doctor`: what works on this machine, and for what does not, what to do about it.

Says nothing of what anyone said, and no name, key or address.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TextIO

import msgspec

from app.catalogue import Kind
from app.config import Config
from app.errors import ModelError
from app.machine import Machine, describe, uses_gpu, version
from app.models import DRAWN, Store, cache_root

State = Literal["good", "warning", "bad"]

_MARKS: dict[State, str] = {"good": "ok  ", "warning": "warn", "bad": "BAD "}
_LEAST_MEMORY_BYTES = 2_000_000_000
_LEAST_FREE_BYTES = 1_000_000_000
_PACKAGES = (
    "backtalk",
    "torch",
    "faster-whisper",
    "ctranslate2",
    "onnxruntime",
    "piper-tts",
    "sounddevice",
    "pywebrtc-audio",
)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    subject: str
    state: State
    """good; warning: something is missing that some commands need; bad: no conversation is possible."""
    found: str
    fix: str = ""


def main(config: Config, out: TextIO, *, as_json: bool, sound: bool = False) -> int:
    """Print the findings; exit status 2 if one is bad.

    Args:
        config: Models and devices.
        out: Where the findings go.
        as_json: As JSON.
        sound: Try loudspeaker and microphone too, which makes a noise.
    """
    findings = examine(config)
    if sound:
        from app import self_test

        findings += self_test.findings(config)
    if as_json:
        out.write(msgspec.json.format(msgspec.json.encode(findings), indent=2).decode() + "\n")
    else:
        out.writelines(line + "\n" for line in printed(findings))
    bad = [finding for finding in findings if finding.state == "bad"]
    for finding in bad:
        print(f"backtalk: {finding.subject}: {finding.found}\n  next: {finding.fix}", file=sys.stderr)
    return 2 if bad else 0


def examine(config: Config) -> list[Finding]:
    """Look at everything."""
    machine = describe()
    store = Store(cache_root())
    return [
        *_machine(machine),
        *_disk(store.root),
        *_versions(),
        *_sound(config),
        *_models(config, store),
    ]


def printed(findings: Sequence[Finding]) -> Iterable[str]:
    """The findings as lines of text."""
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        yield f"{_MARKS[finding.state]}  {finding.subject:<{width}}  {finding.found}"
        if finding.fix:
            yield f"      {'':<{width}}  next: {finding.fix}"


def _machine(machine: Machine) -> Iterable[Finding]:
    features = ", ".join(machine.features) or "no vector extensions that we know"
    yield Finding(subject="processor", state="good", found=f"{machine.cpu}, {machine.cores} cores, {features}")
    memory = f"{machine.memory_bytes / 1e9:.1f} GB"
    if machine.memory_bytes < _LEAST_MEMORY_BYTES:
        yield Finding(
            subject="memory", state="bad", found=f"{memory}; the default models take 2 GB", fix="use a larger machine"
        )
    else:
        yield Finding(subject="memory", state="good", found=memory)
    gpu = f"{machine.gpu}, {machine.gpu_memory_bytes / 1e9:.0f} GB" if machine.gpu else "none"
    where = "" if machine.gpu and uses_gpu() else "; the language model runs on the CPU"
    yield Finding(subject="GPU", state="good", found=gpu + where)
    yield Finding(subject="system", state="good", found=f"{machine.os}, Python {machine.python}")


def _disk(root: Path) -> Iterable[Finding]:
    existing = next(path for path in (root, *root.parents) if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    found = f"{free_bytes / 1e9:.1f} GB free in {root}"
    if free_bytes < _LEAST_FREE_BYTES:
        fix = "free some room, or set BACKTALK_CACHE to a directory with more"
        yield Finding(subject="disk", state="warning", found=found, fix=fix)
    else:
        yield Finding(subject="disk", state="good", found=found)


def _versions() -> Iterable[Finding]:
    for package in _PACKAGES:
        have = version(package)
        if have is None:
            yield Finding(subject=package, state="bad", found="not installed", fix="pip install backtalk")
        else:
            yield Finding(subject=package, state="good", found=have)


def _sound(config: Config) -> Iterable[Finding]:
    from audio import devices
    from audio.errors import DeviceError

    try:
        library = devices.library()
    except DeviceError as error:
        found = f"{error.why}: no talking, but demo and replay work"
        yield Finding(subject="sound library", state="warning", found=found, fix=error.fix)
        return
    yield Finding(subject="sound library", state="good", found=library.get_portaudio_version()[1])
    for direction, wanted in (("input", config.audio.input), ("output", config.audio.output)):
        yield _device(library.query_devices, direction, wanted)


def _device(query: Callable[..., Mapping[str, object]], direction: str, wanted: str) -> Finding:
    subject = {"input": "microphone", "output": "loudspeaker"}[direction]
    try:
        device = query(wanted or None, direction)
    except Exception:  # PortAudio's own error type exists only where its library does
        return Finding(
            subject=subject,
            state="warning",
            found="there is none" if not wanted else f"there is no {wanted}",
            fix="plug one in or start the sound server, then `backtalk devices`; demo and replay need none",
        )
    return Finding(subject=subject, state="good", found=str(device["name"]))


def _models(config: Config, store: Store) -> Iterable[Finding]:
    chosen: tuple[tuple[str, Kind], ...] = (
        (config.models.llm, "llm"),
        (config.models.asr, "asr"),
        (config.models.voice, "voice"),
        (config.models.turn, "turn"),
        ("silero-vad", "vad"),
    )
    for name, kind in chosen:
        if name:
            yield _model(store, name, kind)


def _model(store: Store, name: str, kind: Kind) -> Finding:
    subject = f"model ({kind})"
    if kind == "llm" and name.startswith(DRAWN):
        return Finding(subject=subject, state="good", found=f"{name}, drawn when it is loaded")
    entry = store.catalogue.find(name)
    if entry is not None and entry.kind == kind and store.present(entry) is None:
        found = f"{name} is not here yet; it is fetched when first needed"
        return Finding(subject=subject, state="warning", found=found, fix=f"backtalk models pull {name}")
    try:
        path = store.resolve(name, kind, offline=True)
        if entry is not None:
            store.verify(entry)
    except ModelError as error:
        return Finding(subject=subject, state="bad", found=f"{error.what}: {error.why}", fix=error.fix)
    return Finding(subject=subject, state="good", found=f"{name}, {'whole' if entry else 'of your own'}, {path.name}")
