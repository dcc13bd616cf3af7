"""`backtalk models`: what can be had, what is here, and whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from app.catalogue import Entry, Kind, PackageSource
from app.config import Config
from app.errors import ModelError, explain
from app.models import DRAWN, Store, cache_root
from app.recommend import RUNNABLE, recommend

_KINDS: tuple[Kind, ...] = ("llm", "asr", "voice", "vad", "turn")


def run(action: str, names: Sequence[str], config: Config) -> int:
    """Carry out list, pull, path, verify or recommend; the exit status."""
    store = Store(cache_root())
    match action:
        case "pull":
            return _pull(store, names, config)
        case "path":
            return _path(store, names, config)
        case "verify":
            return _verify(store, names)
        case "recommend":
            return _recommend(store)
        case _:
            return _list(store)


def _list(store: Store) -> int:
    width = max(len(entry.name) for entry in store.catalogue.model)
    for kind in _KINDS:
        for entry in store.catalogue.of_kind(kind):
            state = "here" if store.present(entry) else "-"
            title = entry.title if kind != "llm" or entry.architecture in RUNNABLE else f"{entry.title} (not run yet)"
            print(f"{kind:<5}  {entry.name:<{width}}  {_megabytes(entry.size_bytes):>8}  {state:<4}  {title}")
    print(f"kept in {store.root / 'models'}", file=sys.stderr)
    return 0


def _pull(store: Store, names: Sequence[str], config: Config) -> int:
    for name, kind in _chosen(store, names, config):
        entry = store.catalogue.find(name)
        if entry is None:
            print(f"{name}: {store.resolve(name, kind, offline=config.offline)}")
            continue
        path = store.pull(entry, offline=config.offline, verify=True)
        print(f"{name}: {path}")
        print(f"  licence {entry.licence}: {entry.asks}", file=sys.stderr)
    return 0


def _path(store: Store, names: Sequence[str], config: Config) -> int:
    for name, kind in _chosen(store, names, config):
        print(store.resolve(name, kind, offline=True))
    return 0


def _verify(store: Store, names: Sequence[str]) -> int:
    entries = [store.catalogue.entry(name) for name in names] if names else store.here()
    damaged = 0
    for entry in entries:
        try:
            store.verify(entry)
        except ModelError as error:
            damaged += 1
            print(f"{entry.name}: damaged")
            print(explain(error), file=sys.stderr)
        else:
            print(f"{entry.name}: good ({_checked(entry)})")
    return 1 if damaged else 0


def _recommend(store: Store) -> int:
    from app.machine import describe, uses_gpu

    advice = recommend(store.catalogue, describe(), use_gpu=uses_gpu())
    print(f"llm    {advice.llm.name}  ({advice.llm.title}): {advice.reason}")
    print(f"asr    {advice.asr.name}  ({advice.asr.title})")
    print(f"fetch  backtalk models pull {advice.llm.name} {advice.asr.name}")
    print(f"talk   backtalk --llm {advice.llm.name} --asr {advice.asr.name}")
    print("The default smollm2-135m exercises the pipeline and is no assistant: expect wrong facts from it.")
    return 0


def _chosen(store: Store, names: Sequence[str], config: Config) -> list[tuple[str, Kind]]:
    """The named models, or those configured that lie somewhere; an unknown repository is taken for a language model."""
    if not names:
        models: list[tuple[str, Kind]] = [
            (config.models.llm, "llm"),
            (config.models.asr, "asr"),
            (config.models.voice, "voice"),
            (config.models.turn, "turn"),
        ]
        return [(name, kind) for name, kind in models if name and not name.startswith(DRAWN)]
    return [(name, "llm" if name.startswith("hf:") else store.catalogue.entry(name).kind) for name in names]


def _checked(entry: Entry) -> str:
    if any(isinstance(source, PackageSource) for source in entry.sources):
        return "installed with a package, which pip checked"
    return "SHA-256 as in the catalogue" if entry.files else "SHA-256 as when it was fetched"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"
