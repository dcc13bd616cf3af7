"""How long we wait: a table."""

from __future__ import annotations

import pytest

from app.config import Turns
from app.endpoint import patience
from app.overlap import judge

TURNS = Turns(end_silence_ms=300, short_silence_ms=500, unfinished_silence_ms=900)


@pytest.mark.parametrize(
    ("text", "interrupting", "silence_ms"),
    [
        ("What is the capital of France?", False, 300),
        ("Tell me about the moon.", False, 300),
        ("Tell me about the history of.", False, 900),
        ("I would like some milk and", False, 900),
        ("I was thinking about", False, 900),
        ("Let me see...", False, 900),
        ("Yes.", False, 500),
        ("Wait.", True, 900),
        ("Stop.", True, 900),
        ("Wait, only one sentence please.", True, 300),
        ('She said "go on."', False, 300),
        ("?", False, 900),
    ],
)
def test_patience(text: str, interrupting: bool, silence_ms: int) -> None:
    assert patience(text, TURNS, interrupting=interrupting).silence_ms == silence_ms


def test_only_words_are_an_interruption() -> None:
    word = judge("Wait", final=False)
    assert word is not None
    assert word.kind == "turn"
    assert judge(" ... ", final=False) is None
    nothing = judge("", final=True)
    assert nothing is not None
    assert nothing.kind == "noise"
