"""What is said of the fields of a Struct beside their types: what they mean, what they may hold, how people write them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Union, dataclass_transform, get_args, get_origin

from msgspec import Meta, Struct, UnsetType, field
from msgspec.structs import FieldInfo, fields

from llamactl_py.ground.private import Private


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class Frozen(Private, frozen=True, forbid_unknown_fields=True):
    """Base of everything parsed at the edge: change is replacement."""

    SCHEMA: ClassVar[Mapping[str, Any]] = {}
    """What the fields do not say of it, in JSON Schema."""


class Form(Struct, frozen=True, eq=False):
    """How people write a value that JSON has no type for. *read* raises ValueError; *schema* is that of what it reads."""

    read: Callable[[object], Any]
    write: Callable[[Any], object] | None = None
    schema: Mapping[str, Any] | None = None


class Rule(Struct, frozen=True, eq=False):
    """What a value of the right type has to fulfil. *check* raises ValueError, and is None where others see to it; *schema* says
    the same in JSON Schema."""

    check: Callable[[Any], None] | None = None
    schema: Mapping[str, Any] | None = None


def about(description: str, schema: Mapping[str, Any] | None = None, variable: str = "", **limits: Any) -> Meta:
    """What a field means, and its limits: ge, gt, le, lt, min_length, max_length, pattern. *schema*: what else JSON Schema is to
    say of it; *variable*: its environment variable."""
    extra = {"variable": variable} if variable else None
    return Meta(description=description, extra_json_schema=dict(schema) if schema else None, extra=extra, **limits)


class Field(Struct, frozen=True):
    """A field of a Struct."""

    name: str
    key: str
    """What it is called outside."""
    hint: Any
    """Its type, with what Annotated says of it."""
    section: type[Struct] | None
    """The Struct that it holds, if it does."""
    default: Any
    """NODEFAULT where it has to be given, or depends on the machine."""
    is_required: bool

    @property
    def description(self) -> str:
        return next((one.description for one in self._said() if one.description), "")

    @property
    def variable(self) -> str:
        """Its environment variable, where it says one."""
        return next((one.extra["variable"] for one in self._said() if one.extra), "")

    def _said(self) -> Iterator[Meta]:
        return (one for one in reversed(split(self.hint)[1]) if isinstance(one, Meta))


@cache
def fields_of(model: type[Struct]) -> tuple[Field, ...]:
    """In their order."""
    return tuple(_field(one) for one in fields(model))


def _field(one: FieldInfo) -> Field:
    kind, factory = split(one.type)[0], one.default_factory
    default = factory() if factory in (dict, list) else one.default
    return Field(one.name, one.encode_name, one.type, kind if is_struct(kind) else None, default, one.required)


def split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type, and what Annotated says of it."""
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def choices(kind: Any) -> tuple[Any, ...]:
    """The types of a union, less those that stand for nothing; the type itself where it is none."""
    members = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(one for one in members if one not in (NoneType, UnsetType))


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)
