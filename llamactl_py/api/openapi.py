"""The OpenAPI document, written from the route table and the models."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal, cast, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from llamactl_py import __version__
from llamactl_py.api.problems import status_of
from llamactl_py.api.route import Route
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors

Schema = dict[str, Any]
Wanted = tuple[type[BaseModel], Literal["validation", "serialization"]]
Refs = dict[Wanted, Schema]

PATH_PARAMETERS = {
    "name": "Name of the instance.",
    "id": "Number of the key, or id of the request.",
    "path": "Path on the backend.",
    "backend": "Kind of server, by its type or slug: llama_cpp or llama-cpp, mlx_lm or mlx, vllm, ...",
    "model": "Name of the model; it may hold slashes.",
    "native": "Route of llama.cpp's server.",
    "node": "Name of the node.",
}

KEYS = {
    "managementKey": "A management key; it opens what the other kinds open, too.",
    "readKey": "A read-only management key.",
    "inferenceKey": "An inference key.",
}
SECURITY = {
    Access.PUBLIC: [],
    Access.INFERENCE: ["inferenceKey", "managementKey"],
    Access.READ: ["readKey", "managementKey"],
    Access.MANAGEMENT: ["managementKey"],
}


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Dotted path, as the caller wrote it.")
    problem: str


class Problem(BaseModel):
    """How errors of the management API are told."""

    error: str = Field(description="A code for programs.")
    details: str = Field(description="What is wrong and what to do, for people.")
    problems: list[FieldProblem] | None = Field(default=None, description="Field by field, for invalid options.")


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str


class OpenAIError(BaseModel):
    """How errors of /v1, and missing keys everywhere, are told: OpenAI's form."""

    error: OpenAIErrorDetail


def document(routes: Iterable[Route]) -> Schema:
    """The OpenAPI 3.1 document of *routes*."""
    routes = list(routes)
    refs, definitions = models_json_schema(list(_models(routes)), ref_template="#/components/schemas/{model}")
    schemas = cast(Refs, refs)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.openapi_path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "llamactl",
            "version": __version__,
            "description": "One daemon that runs local LLM servers behind one OpenAI-compatible door.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": description} for name, description in KEYS.items()
            },
        },
    }


def _models(routes: Iterable[Route]) -> dict[Wanted, None]:
    wanted: dict[Wanted, None] = {(Problem, "serialization"): None, (OpenAIError, "serialization"): None}
    for route in routes:
        if route.body:
            wanted[route.body, "validation"] = None
        if model := _item(route.returns):
            wanted[model, "serialization"] = None
    return wanted


def _item(returns: Any) -> type[BaseModel] | None:
    """The model in `Model` or `list[Model]`."""
    inner = get_args(returns)[0] if get_origin(returns) is list else returns
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _operation(route: Route, refs: Refs) -> Schema:
    summary, _, description = inspect.cleandoc(route.call.__doc__ or "").partition("\n\n")
    operation: Schema = {
        "operationId": f"{route.call.__name__}_{route.method.lower()}" if "{path}" in route.path else route.call.__name__,
        "summary": summary,
        "tags": [route.tag],
        "parameters": _parameters(route),
        "responses": _responses(route, refs),
        "security": [{name: []} for name in SECURITY[route.access]],
    }
    if description:
        operation["description"] = description.replace("\n", " ")
    if route.body or route.example:
        content = {"schema": refs[route.body, "validation"] if route.body else {"type": "object"}}
        operation["requestBody"] = {
            "required": True,
            "content": dict.fromkeys(route.body_types, content | ({"example": route.example} if route.example else {})),
        }
    return operation


def _parameters(route: Route) -> list[Schema]:
    in_path = [
        {"name": name, "in": "path", "required": True, "description": PATH_PARAMETERS[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.openapi_path)
    ]
    return in_path + [
        {"name": q.name, "in": where, "description": q.description, "schema": q.schema}
        for where, known in (("query", route.query), ("header", route.headers))
        for q in known
    ]


def _responses(route: Route, refs: Refs) -> Schema:
    responses: Schema = {str(route.status): {"description": HTTPStatus(route.status).phrase}}
    if route.returns is str:
        responses[str(route.status)]["content"] = {route.text_type: {"schema": {"type": "string"}}}
    elif model := _item(route.returns):
        schema = refs[model, "serialization"]
        whole = {"type": "array", "items": schema} if get_origin(route.returns) is list else schema
        responses[str(route.status)]["content"] = {"application/json": {"schema": whole}}
    elif route.returns is None and route.status != 204:
        responses[str(route.status)] = {"description": "The answer of the backend, as it is."}
    responses |= {str(status): {"description": HTTPStatus(status).phrase} for status in route.also}
    raises: list[type[errors.LlamactlError]] = [errors.BadRequest, errors.Forbidden, *route.raises]
    if route.access is not Access.PUBLIC:
        raises.append(errors.Unauthenticated)
    for status in sorted({status_of(error)[0] for error in raises}):
        shape = OpenAIError if route.path.startswith("/v1") or status == 401 else Problem
        told = "; ".join(sorted({_first_line(e) for e in raises if status_of(e)[0] == status}))
        responses[str(status)] = {"description": told, "content": {"application/json": {"schema": refs[shape, "serialization"]}}}
    return responses


def _first_line(error: type[errors.LlamactlError]) -> str:
    return (error.__doc__ or "").partition("\n")[0].rstrip(".")
