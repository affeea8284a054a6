"""What `parse` takes, and what we answer, in JSON Schema (2020-12)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from enum import Enum
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT, UNSET, Meta, Struct
from msgspec.json import decode, encode

from llamactl_py.ground.fields import Field, Form, Frozen, Rule, choices, fields_of, is_struct, split

Schema = dict[str, Any]


def schemas(models: Iterable[type[Struct]], reference: str) -> Schema:
    """The schemas of *models* and of all that they refer to, by name. *reference* to one of them has its name for {}."""
    known = _Known(reference)
    for model in models:
        known.refer(model)
    return dict(sorted(known.found.items()))


class _Known:
    def __init__(self, reference: str) -> None:
        self.found: Schema = {}
        self._reference = reference

    def refer(self, kind: type[Struct] | type[Enum]) -> Schema:
        name = kind.__name__
        if name not in self.found:
            self.found[name] = {}  # who refers to itself finds it
            self.found[name] = self._struct(kind) if issubclass(kind, Struct) else _enum(kind)
        return {"$ref": self._reference.format(name)}

    def _struct(self, model: type[Struct]) -> Schema:
        fields = fields_of(model)
        found: Schema = {"title": model.__name__, "type": "object"}
        if model.__doc__:
            found["description"] = _text(model.__doc__)
        found["properties"] = {one.key: self._field(one) for one in fields}
        if required := [one.key for one in fields if one.is_required]:
            found["required"] = required
        if model.__struct_config__.forbid_unknown_fields:
            found["additionalProperties"] = False
        return found | dict(getattr(model, "SCHEMA", {}))

    def _field(self, field: Field) -> Schema:
        found = self._of(field.hint)
        if field.default not in (NODEFAULT, UNSET) and not (field.section and issubclass(field.section, Frozen)):
            found["default"] = _default(field)
        return found

    def _of(self, hint: Any) -> Schema:
        bare, said = split(hint)
        form = next((one for one in said if isinstance(one, Form)), None)
        found: Schema = dict(form.schema) if form and form.schema else self._bare(bare)
        for one in said:
            if isinstance(one, Rule):
                found |= one.schema or {}
            elif isinstance(one, Meta):
                found |= _limits(one, bare) if "anyOf" not in found else {}
                found |= {"description": one.description} if one.description else {}
                found |= one.extra_json_schema or {}
        return found

    def _bare(self, bare: Any) -> Schema:
        members, arguments = choices(bare), get_args(bare)
        if bare is Any:
            return {}
        if members != (bare,):
            each = [self._of(member) for member in members] + ([{"type": "null"}] if NoneType in arguments else [])
            return {"anyOf": each} if len(each) > 1 else each[0]
        if is_struct(bare) or (isinstance(bare, type) and issubclass(bare, Enum)):
            return self.refer(bare)
        if get_origin(bare) is Literal:
            return {"type": "string"} | ({"enum": [*arguments]} if len(arguments) > 1 else {"const": arguments[0]})
        if get_origin(bare) is dict:
            return {"type": "object"} | self._map(*arguments)
        if get_origin(bare) in (tuple, list):
            return {"type": "array"} | self._items(arguments)
        return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[bare]}

    def _items(self, items: tuple[Any, ...]) -> Schema:
        if len(items) == 1 or items[1] is ...:
            return {"items": self._of(items[0])}
        return {"prefixItems": [self._of(item) for item in items], "minItems": len(items), "maxItems": len(items)}

    def _map(self, key: Any, value: Any) -> Schema:
        names, values = self._of(key), self._of(value)
        del names["type"]
        pattern = names.pop("pattern", None)
        of_names = {"propertyNames": names} if names else {}
        if pattern:
            return of_names | {"patternProperties": {pattern: values}, "additionalProperties": False}
        return of_names | {"additionalProperties": values or True}


def _enum(kind: type[Enum]) -> Schema:
    about = {"description": _text(kind.__doc__)} if kind.__doc__ else {}
    return {"title": kind.__name__, **about, "type": "string", "enum": [one.value for one in kind]}


def _text(docstring: str) -> str:
    return inspect.cleandoc(docstring)


def _default(field: Field) -> Any:
    write = next((one.write for one in split(field.hint)[1] if isinstance(one, Form)), None)
    return write(field.default) if write else decode(encode(field.default))


def _limits(said: Meta, bare: Any) -> Schema:
    size = ("minItems", "maxItems") if get_origin(bare) in (tuple, list) else ("minLength", "maxLength")
    limits = {
        "minimum": said.ge, "exclusiveMinimum": said.gt, "maximum": said.le, "exclusiveMaximum": said.lt,
        size[0]: said.min_length, size[1]: said.max_length, "pattern": said.pattern,
    }  # fmt: skip
    return {name: limit for name, limit in limits.items() if limit is not None}
