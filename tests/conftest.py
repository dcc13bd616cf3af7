"""Fixtures of all tests: real models from the user's cache, and nothing else of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from app import models

CACHE = models.cache_root()
"""Where real models are kept between runs: read before any test changes the environment."""


@pytest.fixture(autouse=True)
def _nothing_of_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the user's configuration, fills the user's cache or reaches a model hub."""
    home = tmp_path_factory.getbasetemp() / "home"
    monkeypatch.setenv("BACKTALK_CACHE", str(home / "cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


def _real(name: str, kind: models.Kind) -> Path:
    return models.resolve(name, kind, root=CACHE)


@pytest.fixture(scope="session")
def llm_path() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file. Fetched on first use."""
    return _real("smollm2-135m", "llm")


@pytest.fixture(scope="session")
def asr_path() -> Path:
    """Whisper tiny.en, a CTranslate2 directory. Fetched on first use."""
    return _real("whisper-tiny.en", "asr")


@pytest.fixture(scope="session")
def voice_path() -> Path:
    """The Piper voice joe, an .onnx file with its .onnx.json beside it. Fetched on first use."""
    return _real("en_US-joe-medium", "voice")


@pytest.fixture
def model_cache(monkeypatch: pytest.MonkeyPatch, llm_path: Path) -> Path:
    """Lets a test that runs a whole command see the cache with the real models."""
    monkeypatch.setenv("BACKTALK_CACHE", str(CACHE))
    return llm_path.parent.parent.parent
