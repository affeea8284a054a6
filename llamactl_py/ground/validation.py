"""What comes from outside becomes our values, or `Problem`s: the dotted field, what it takes, what was given, the nearest key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, TypeVar, get_args

from msgspec import DecodeError, Struct, to_builtins
from msgspec.json import Decoder
from msgspec.structs import force_setattr

from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.fields import Field, Form, Frozen, Rule, fields_of, split
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
def restorer(model: type[Model]) -> Callable[[str], Model]:
    """What reads JSON text that was written from `plain`, to the same result as `parse` in a quarter of the time.

    msgspec reads it, and of each field that has a form or a rule, which it knows nothing of, our reader takes what it made of
    it. (Those fields, two or more, hold no objects.) All that is unusual goes the long way: what either refuses, and text with a
    backslash, because a line break is written with one, and to msgspec `^a$` means "a\\n" too. It raises Invalid as `parse`
    does, and ValueError or RecursionError for what is not JSON.
    """
    decode = Decoder(model).decode
    ours = {one.name: lru_cache(_strict(one)) for one in fields_of(model) if _is_ours(one.hint)}
    said = attrgetter(*ours)

    @lru_cache  # all that was stored with the same settings says the same here
    def meant(values: tuple[Any, ...]) -> tuple[tuple[str, Any], ...]:
        """The fields in which that is not what they say."""
        read = ((name, value, read_one(value)) for (name, read_one), value in zip(ours.items(), values, strict=True))
        return tuple((name, new) for name, value, new in read if new != value)

    def restore(text: str) -> Model:
        if "\\" not in text:
            try:
                made = decode(text)
                for name, value in meant(said(made)):
                    force_setattr(made, name, value)
                return made
            except (DecodeError, Invalid, UnicodeEncodeError, RecursionError):
                pass
        return parse(model, json.loads(text))

    return restore


def _strict(field: Field) -> Callable[[Any], Any]:
    """The reader of that field alone. Raises Invalid."""
    read = reader(field.hint)

    def read_or_raise(raw: Any) -> Any:
        reading = Reading(from_text=False)
        value = read(raw, field.key, reading)
        if reading.count:
            raise Invalid(reading.all_problems())
        return value

    return read_or_raise


def _is_ours(hint: Any) -> bool:
    """Is there anything in that type that msgspec knows nothing of?"""
    bare, said = split(hint)
    return any(isinstance(one, Form | Rule) for one in said) or any(map(_is_ours, get_args(bare)))


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
