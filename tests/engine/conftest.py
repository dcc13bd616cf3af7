"""Tiny models that many tests use, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.lane import Counters
from engine.pool import Pool
from engine.session import Engine
from tests.engine import lanes


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """For what references compute in the thread of the tests; an engine's own thread has as many as it was told.

    Where the machine is busy, the threads of a product wait for each other, and that takes many times as long.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny models are written."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def engines(models: Path) -> Iterator[lanes.Engines]:
    """An engine by its kind. Its copies are made when they have to be, and not before."""
    loaded: dict[str, Engine] = {}

    def engine(kind: str) -> Engine:
        if kind not in loaded:
            loaded[kind] = lanes.load(models, kind)
        return loaded[kind]

    yield engine
    for one in loaded.values():
        one.close()


@pytest.fixture(params=lanes.KINDS)
def engine(request: pytest.FixtureRequest, engines: lanes.Engines) -> Engine:
    """One of every kind, with memory for capsules of its own."""
    found = engines(request.param)
    found.pool, found.counters = Pool(lanes.CAPSULE_BYTES), Counters()
    return found
