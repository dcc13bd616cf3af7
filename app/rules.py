"""What decisions go by besides the state: nothing in it changes during a session."""

from __future__ import annotations

from typing import NamedTuple

from app.endpoint import Weights
from app.language import Language
from app.timing import Turns


class Rules(NamedTuple):
    """The third argument of `app.turns.step`."""

    turns: Turns
    language: Language
    weights: Weights
