"""Who the assistant is: a system prompt, and turns of example that show a small model what an answer sounds like."""

from __future__ import annotations

from typing import NamedTuple

from engine.chat import Example


class Persona(NamedTuple):
    """How a conversation opens."""

    system: str
    examples: tuple[Example, ...] = ()


# Chosen among fifteen on SmolLM2-135M, by its replies to fifteen spoken questions, a name to remember and an answer cut
# off. Two names, each told and asked for, are what it takes to have it look the name up: with one it does not.
BUILT_IN = Persona(
    "You are a friendly voice assistant. Answer in one to three short sentences.",
    (
        Example("Hello.", "Hello! What can I do for you?"),
        Example("What is the largest planet?", "Jupiter is the largest planet in our solar system."),
        Example("My name is Anna.", "Nice to meet you, Anna!"),
        Example("What is my name?", "Your name is Anna."),
        Example("My name is Ben.", "Nice to meet you, Ben!"),
        Example("What is my name?", "Your name is Ben."),
        Example("Thank you.", "You're welcome!"),
    ),
)


def choose(system: str) -> Persona:
    """The persona of a configuration: the user's own system prompt, or the built-in one if that is empty."""
    return Persona(system) if system.strip() else BUILT_IN
