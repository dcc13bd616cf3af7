"""Every event goes through JSON unharmed, and every name in it is explained."""

from __future__ import annotations

import ast
import inspect
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
import pytest

from app import config, effects, errors, events
from app.errors import BacktalkError
from audio import errors as audio_errors
from engine import errors as engine_errors

ROOTS: dict[ModuleType, type] = {events: events.Fact, effects: effects.Request}
MEMBERS = [(module, member) for module, root in ROOTS.items() for member in root.__subclasses__()]


def sample(kind: Any, name: str) -> Any:
    """A value of an annotated type that no default equals."""
    origin = get_origin(kind)
    if origin is Literal:
        return get_args(kind)[-1]
    if origin in (Union, UnionType):
        return sample(get_args(kind)[0], name)
    if origin is dict:
        kind_of_value = get_args(kind)[1]
        return {"kind": "name" if kind_of_value is Any else sample(kind_of_value, name)}
    if kind in (int, float, str, bool):
        return {int: 7, float: 1.25, str: f"{name} «\x1b\n»", bool: True}[kind]
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return filled(kind)
    raise NotImplementedError(f"{name}: {kind}")


def filled(struct: type[Any]) -> Any:
    hints = {field.name: field.type for field in msgspec.structs.fields(struct)}
    return struct(**{name: sample(kind, name) for name, kind in hints.items()})


def test_the_union_of_events_has_every_event() -> None:
    assert set(get_args(events.Event)) == set(events.Fact.__subclasses__())
    assert set(get_args(effects.Effect)) == set(effects.Request.__subclasses__())


@pytest.mark.parametrize("event", events.Fact.__subclasses__(), ids=lambda event: event.__name__)
def test_an_event_is_the_same_after_json(event: type[events.Fact]) -> None:
    before = filled(event)
    line = msgspec.json.encode(before)
    assert b"\n" not in line
    assert msgspec.json.decode(line, type=events.Event) == before
    assert msgspec.json.decode(line)["type"] == event.__name__


def test_an_event_with_a_wrong_type_is_refused() -> None:
    line = msgspec.json.encode(events.StopPressed()).replace(b"StopPressed", b"StopPresed")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(line, type=events.Event)


@pytest.mark.parametrize(("module", "member"), MEMBERS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_event_and_effect_is_explained_and_frozen(module: ModuleType, member: type) -> None:
    assert member.__doc__, f"{module.__name__}.{member.__name__}"
    assert member.__struct_config__.frozen  # type: ignore[attr-defined]  # every msgspec struct has it


@pytest.mark.parametrize("module", [events, effects, config])
def test_quantities_carry_their_unit_or_an_explanation(module: ModuleType) -> None:
    """A bare float says nothing: its name ends in a unit, or a docstring stands below it."""
    told = ("_s", "_ms", "_us", "_db", "_dbfs", "_hz", "seconds")
    for name, explained in float_fields(module):
        assert explained or name.endswith(told) or name in ("temperature", "top_p", "repetition_penalty"), name


def float_fields(module: ModuleType) -> list[tuple[str, bool]]:
    """Fields of the module's classes that are floats, and whether a docstring follows each."""
    found: list[tuple[str, bool]] = []
    for struct in [node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)]:
        for field, after in zip(struct.body, [*struct.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and ast.unparse(field.annotation).startswith("float"):
                is_docstring = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                found.append((ast.unparse(field.target), is_docstring))
    return found


def descendants(root: type) -> list[type]:
    return [root, *(below for child in root.__subclasses__() for below in descendants(child))]


ROOT_ERRORS = (BacktalkError, audio_errors.AudioError, engine_errors.EngineError)


@pytest.mark.parametrize("error", [error for root in ROOT_ERRORS for error in descendants(root)])
def test_every_error_has_three_parts_that_are_printed(error: type[Exception]) -> None:
    more = {"capsule": None} if error is engine_errors.CapsuleLost else {}
    told = errors.explain(error("the what", "the why", "the fix", **more))
    assert told == "backtalk: the what\n  why:  the why\n  next: the fix"
    assert error.__doc__


def test_a_group_is_told_if_all_its_members_are_ours() -> None:
    ours, bug = audio_errors.AudioError("a", "b", "c"), ValueError("oops")
    assert errors.explain(ExceptionGroup("", [ExceptionGroup("", [ours])])) == errors.explain(ours)
    assert errors.explain(ExceptionGroup("", [ours, bug])) is None


def test_any_other_error_is_a_bug_and_not_explained() -> None:
    assert errors.explain(ValueError("oops")) is None
