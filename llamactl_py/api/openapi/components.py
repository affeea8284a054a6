"""What operations share: the schemas of all models, the examples of errors, and how operations are called."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast, get_args, get_origin

import msgspec
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from llamactl_py.api.command import Draft
from llamactl_py.api.openapi.refusals import ERRORS
from llamactl_py.api.problems import speaks_openai, told
from llamactl_py.api.route import Route
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.instances.options import InstanceOptions

Schema = dict[str, Any]
Wanted = tuple[type[BaseModel], Literal["validation", "serialization"]]
Refs = dict[Wanted, Schema]
Raised = type[errors.LlamactlError]

PATCH = "InstancePatch"


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Dotted path, as the caller wrote it.")
    problem: str


class Problem(BaseModel):
    """How errors of the management API are told."""

    error: str = Field(description="A code for programs.")
    details: str = Field(description="What is wrong and what to do, for people.")
    problems: list[FieldProblem] | None = Field(default=None, description="Field by field, for invalid input.")


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str


class OpenAIError(BaseModel):
    """How errors of /v1, and missing keys everywhere, are told: OpenAI's form."""

    error: OpenAIErrorDetail


def operation_id(route: Route) -> str:
    """The name of the operation: that of its function, with the method where one function has several."""
    return f"{route.call.__name__}_{route.method.lower()}" if "{path}" in route.path else route.call.__name__


def item(returns: Any) -> type[BaseModel] | None:
    """The model in `Model` or `list[Model]`."""
    inner = get_args(returns)[0] if get_origin(returns) is list else returns
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def raised(route: Route) -> list[Raised]:
    """Every error that callers of *route* have to expect."""
    everywhere: list[Raised] = [errors.BadRequest, errors.Forbidden, *route.raises]
    if route.access is not Access.PUBLIC:
        everywhere.append(errors.Unauthenticated)
    if route.knows_its_query:
        everywhere.append(errors.Invalid)
    return list(dict.fromkeys(everywhere))


def schemas(routes: Iterable[Route]) -> tuple[Refs, Schema]:
    """(where the schema of each model is, all of them by name)."""
    refs, definitions = models_json_schema(list(_models(routes)), ref_template="#/components/schemas/{model}")
    found: Schema = definitions["$defs"]
    options = InstanceOptions.__name__
    found[options] = _as_requested(found[options])
    found[PATCH] = _as_patch(found[options])
    draft = found[Draft.__name__]["properties"]["options"]
    found[Draft.__name__]["properties"]["options"] = {
        "$ref": f"#/components/schemas/{options}",
        "description": draft["description"],
    }
    return cast(Refs, refs), found


def _models(routes: Iterable[Route]) -> Iterator[Wanted]:
    yield Problem, "serialization"
    yield OpenAIError, "serialization"
    for route in routes:
        if route.body:
            yield route.body, "validation"
        if model := item(route.returns):
            yield model, "serialization"


def _as_requested(options: Schema) -> Schema:
    """Options as callers send them: what is left out, or null, is filled in from the settings."""
    properties = {
        name: field if name == "backend_type" else _or_null(field) for name, field in copy.deepcopy(options["properties"]).items()
    }
    return options | {"properties": properties, "required": ["backend_type"]}


def _as_patch(options: Schema) -> Schema:
    properties = {name: {k: v for k, v in field.items() if k != "default"} for name, field in options["properties"].items()}
    properties["environment"] = {
        "type": ["object", "null"],
        "description": "Variables to set; null takes one away.",
        "additionalProperties": {"type": ["string", "null"]},
    }
    properties["docker"] = {"type": ["object", "null"], "description": "What is to be different about its container."}
    about = "Options of an instance that are to be different (JSON Merge Patch, RFC 7396); null means the default."
    patch = {name: value for name, value in options.items() if name != "required"}
    return patch | {"title": PATCH, "description": about, "properties": properties}


def _or_null(field: Schema) -> Schema:
    if "anyOf" in field:
        null = {"type": "null"}
        return field | {"anyOf": [*(one for one in field["anyOf"] if one != null), null]}
    if "type" in field:
        return field | {"type": [field["type"], "null"]}
    return field


def error_examples(routes: Iterable[Route]) -> Schema:
    """An example for each error in each of the shapes in which it is told."""
    found: Schema = {}
    for route in routes:
        for error in raised(route):
            _, _, body = told(ERRORS[error], route.path)
            value = {name: part for name, part in msgspec.json.decode(body).items() if part is not None}
            found[example_name(error, route)] = {"summary": first_line(error), "value": value}
    return dict(sorted(found.items()))


def example_name(error: Raised, route: Route) -> str:
    """The name of the example of *error* among the components."""
    return f"OpenAI.{error.__name__}" if speaks_openai(route.path) else error.__name__


def first_line(error: Raised) -> str:
    """What the error is, in one sentence without its full stop."""
    return (error.__doc__ or "").partition("\n")[0].rstrip(".")
