"""Turns pydantic's complaints into our `Problem`s: the dotted field, the value, what is allowed, and the nearest known name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from llamactl_py.ground.errors import Invalid, Problem, nearest

Model = TypeVar("Model", bound=BaseModel)

MOST_PROBLEMS = 20

_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_NO_FIELD = re.compile(r"\[key\]|constrained-str|tuple\[.+\]")
"""What pydantic puts into a path beside fields: that a name is meant and not its value, and which kind of a union it tried."""


class Frozen(BaseModel):
    """Base of everything parsed at the edge: change is replacement, unknown keys are errors, no type is guessed at."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=False, hide_input_in_errors=True, defer_build=True
    )  # built when first used: most are not, at the start of the daemon

    @field_validator("*", mode="before")
    @classmethod
    def _no_type_is_guessed_at(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and annotation in (int, float):
            raise ValueError(f"takes a number, got {str(value).lower()}")
        if info.context is _FROM_TEXT or not isinstance(value, str | int | float) or isinstance(value, bool):
            return value
        if bool in (annotation, *get_args(annotation)) and str not in get_args(annotation):
            raise PydanticCustomError("guessed", "input should be a valid boolean: true or false, without quotes")
        if annotation is int and isinstance(value, str):
            raise PydanticCustomError("guessed", "input should be a whole number, without quotes")
        return value


_FROM_TEXT = {"from": "text"}


def parse(model: type[Model], raw: object, prefix: str = "", *, from_text: bool = False) -> Model:
    """*raw* as *model*. Raises Invalid with one Problem per field; *prefix* is put before each field's path.

    *from_text*: numbers, true and false may be text, as where they come from variables.
    """
    if not isinstance(raw, Mapping):
        raise Invalid([Problem(prefix, f"expected an object with named fields, got {kind(raw)}")])
    try:
        return model.model_validate(raw, context=_FROM_TEXT if from_text else None)
    except ValidationError as error:
        raise Invalid(_first_few(problems(error, model, prefix), error.error_count())) from None


def _first_few(found: Iterator[Problem], count: int) -> Iterator[Problem]:
    """The first MOST_PROBLEMS, and how many more there are: looking for the nearest name takes time for each."""
    yield from islice(found, MOST_PROBLEMS)
    if count > MOST_PROBLEMS:
        yield Problem("", f"and {count - MOST_PROBLEMS} more")


def problems(error: ValidationError, model: type[BaseModel], prefix: str = "") -> Iterator[Problem]:
    """One Problem for each of pydantic's errors."""
    for detail in error.errors(include_url=False):
        steps = (str(step) for step in detail["loc"] if not _NO_FIELD.fullmatch(str(step)))
        where = ".".join([*([prefix] if prefix else []), *steps])
        yield Problem(where, _explain(detail, model))


def _explain(detail: Any, model: type[BaseModel]) -> str:
    match detail["type"]:
        case "extra_forbidden":
            return f"unknown key{nearest(str(detail['loc'][-1]), _known_keys(model, detail['loc'][:-1]))}"
        case "missing":
            return "is required"
        case "tuple_type":
            return f"expected a list, got {kind(detail['input'])}"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            message: str = detail["msg"]
            shown = detail["input"]
            is_short = isinstance(shown, str | int | float | bool) and len(repr(shown)) < 80
            said = f", got {shown!r}" if is_short and not _may_be_secret(detail) else f", got {kind(shown)}"
            return message[0].lower() + message[1:] + said


def _may_be_secret(detail: Any) -> bool:
    """Is its value none to repeat, because of the name that it stands under, or because it is text where there should be many
    values under names?"""
    return detail["type"] == "dict_type" or any(_SECRET.search(str(step)) for step in detail["loc"])


def _known_keys(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Every key that *model* takes at *path*, aliases included."""
    for step in path:
        field = next((f for n, f in model.model_fields.items() if step in (n, f.alias)), None)
        inner = (
            [t for t in (field.annotation, *get_args(field.annotation)) if isinstance(t, type) and issubclass(t, BaseModel)]
            if field
            else []
        )
        if not inner:
            return []
        model = inner[0]
    return [field.alias or name for name, field in model.model_fields.items()]


def kind(value: object) -> str:
    """What a JSON or YAML value is, for people."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)
