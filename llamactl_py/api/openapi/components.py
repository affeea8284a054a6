"""What operations share: the schemas of all models, the examples of errors, and how operations are called."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec
from msgspec import Struct

from llamactl_py.api.command import Draft
from llamactl_py.api.openapi.refusals import ERRORS
from llamactl_py.api.problems import speaks_openai, told
from llamactl_py.api.route import Route, View
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors, json_schema
from llamactl_py.ground.fields import about
from llamactl_py.instances.options import InstanceOptions

Schema = dict[str, Any]
REFERENCE = "#/components/schemas/{}"
Raised = type[errors.LlamactlError]

PATCH = "InstancePatch"


class FieldProblem(View):
    """What is wrong with one field."""

    field: Annotated[str, about("Dotted path, as the caller wrote it.")]
    problem: str


class Problem(View):
    """How errors of the management API are told."""

    error: Annotated[str, about("A code for programs.")]
    details: Annotated[str, about("What is wrong and what to do, for people.")]
    problems: Annotated[list[FieldProblem] | None, about("Field by field, for invalid input.")] = None


class OpenAIErrorDetail(View, kw_only=True):
    message: str
    type: str
    param: str | None = None
    code: str


class OpenAIError(View):
    """How errors of /v1, and missing keys everywhere, are told: OpenAI's form."""

    error: OpenAIErrorDetail


def operation_id(route: Route) -> str:
    """The name of the operation: that of its function, with the method where one function has several."""
    return f"{route.call.__name__}_{route.method.lower()}" if "{path}" in route.path else route.call.__name__


def item(returns: Any) -> type[Struct] | None:
    """The model in `Model` or `list[Model]`."""
    inner = get_args(returns)[0] if get_origin(returns) is list else returns
    return inner if isinstance(inner, type) and issubclass(inner, View) else None


def raised(route: Route) -> list[Raised]:
    """Every error that callers of *route* have to expect."""
    everywhere: list[Raised] = [errors.BadRequest, errors.Forbidden, *route.raises]
    if route.access is not Access.PUBLIC:
        everywhere.append(errors.Unauthenticated)
    if route.knows_its_query:
        everywhere.append(errors.Invalid)
    return list(dict.fromkeys(everywhere))


def refer(model: type[Struct]) -> Schema:
    """Where the schema of *model* is."""
    return {"$ref": REFERENCE.format(model.__name__)}


def schemas(routes: Iterable[Route]) -> Schema:
    """Those of all models, by name."""
    found = json_schema.schemas(_models(routes), REFERENCE)
    options = InstanceOptions.__name__
    found[options] = _as_requested(found[options])
    found[PATCH] = _as_patch(found[options])
    draft = found[Draft.__name__]["properties"]["options"]
    found[Draft.__name__]["properties"]["options"] = {
        **refer(InstanceOptions),
        "description": draft["description"],
    }
    return found


def _models(routes: Iterable[Route]) -> Iterator[type[Struct]]:
    yield Problem
    yield OpenAIError
    for route in routes:
        if route.body:
            yield route.body
        if model := item(route.returns):
            yield model


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
