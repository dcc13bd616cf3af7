"""What a command may load: counted in a process of its own, so nothing else that a test run has loaded can hide it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "textual", "onnxruntime", "ctranslate2", "faster_whisper", "huggingface_hub", "sounddevice")


def loaded_by(statement: str) -> set[str]:
    """Modules in a fresh interpreter after `statement`; its own output is thrown away."""
    answer = "import json; print(json.dumps(list(sys.modules)), file=sys.__stdout__)"
    program = f"import sys\nsys.stdout = sys.stderr\n{statement}\n{answer}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stdout))


def test_help_loads_nothing_heavy_and_little_at_all() -> None:
    modules = loaded_by("from app.cli import main; main(['--help'])")
    assert not modules & set(HEAVY)
    # Python itself brings about 50, argparse with what it needs some 30: a library that sneaks in brings hundreds.
    assert len(modules) < 150


@pytest.mark.parametrize(
    "statement",
    [
        "from app.cli import main; main(['config', 'show'])",
        "from app.cli import main; main(['replay', '--help'])",
        "import app.events, app.turns, app.session, app.config",
        "import app.headless",
        "import tui.lines",
    ],
)
def test_neither_models_nor_screen_where_nobody_asked_for_them(statement: str) -> None:
    modules = loaded_by(statement)
    assert not modules & {"torch", "textual", "onnxruntime", "ctranslate2", "faster_whisper"}


@pytest.mark.parametrize(
    "module", ["app.headless", "app.wiring", "app.doctor", "app.models_command", "app.replay.runner"]
)
def test_without_a_screen_textual_is_never_loaded(module: str) -> None:
    assert not any(name.partition(".")[0] in ("textual", "tui") for name in loaded_by(f"import {module}"))


def test_the_check_above_sees_what_is_loaded() -> None:
    assert "textual" in loaded_by("import textual")
