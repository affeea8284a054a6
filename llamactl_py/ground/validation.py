"""What comes from outside becomes our values, or `Problem`s: the dotted field, what it takes, what was given, the nearest key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

from msgspec import Struct, to_builtins

from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.fields import Field, Form, Frozen, fields_of, split
from llamactl_py.ground.readers import Reading, kind, reader

Model = TypeVar("Model", bound=Frozen)


def parse(model: type[Model], raw: object, prefix: str = "", *, from_text: bool = False) -> Model:
    """*raw* as *model*. Raises Invalid with one Problem per field; *prefix* is put before each field's path.

    No type is guessed at: 1 is not true, and "1" no number. *from_text*: they are, as where they come from variables.
    """
    if not isinstance(raw, Mapping):
        raise Invalid([Problem(prefix, f"expected an object with named fields, got {kind(raw)}")])
    reading = Reading(from_text)
    made: Model = reader(model)(raw, prefix, reading)
    if reading.count:
        raise Invalid(reading.all_problems())
    return made


def plain(value: Struct) -> dict[str, Any]:
    """*value* as JSON values, which `parse` takes for the same."""
    found: dict[str, Any] = _with_lists(to_builtins(value, enc_hook=str))  # what msgspec does not know are paths
    for field, write in _writers(type(value)):
        found[field.key] = write(getattr(value, field.name))
    return found


@cache
def _writers(model: type[Struct]) -> tuple[tuple[Field, Callable[[Any], object]], ...]:
    """The fields of which msgspec does not know how people write them, or perhaps not all that is in them."""
    found = []
    for field in fields_of(model):
        form = next((one for one in split(field.hint)[1] if isinstance(one, Form)), None)
        if write := form.write if form else plain if field.section else None:
            found.append((field, write))
    return tuple(found)


def _with_lists(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, dict):
        return {name: _with_lists(below) for name, below in value.items()}
    return [*map(_with_lists, value)] if isinstance(value, list | tuple) else value
