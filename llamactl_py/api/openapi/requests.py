"""What callers send: parameters with their limits, and bodies."""

from __future__ import annotations

import re

from llamactl_py.api.accounting import REQUEST_ID_SCHEMA
from llamactl_py.api.openapi.components import PATCH, Schema, refer
from llamactl_py.api.route import Route
from llamactl_py.backends import BACKEND_NAMES
from llamactl_py.ground.merge_patch import MEDIA_TYPE
from llamactl_py.ground.names import NAME_SCHEMA

ANY_BODY = ("POST", "PUT", "PATCH")
"""Methods that take a body where a backend decides what it means."""

PATH_PARAMETERS: dict[str, Schema] = {
    "name": {"description": "Name of the instance.", "schema": {"type": "string", **NAME_SCHEMA}, "example": "qwen"},
    "path": {
        "description": "Path on the backend; it may hold slashes.",
        "schema": {"type": "string", "minLength": 1},
        "example": "chat/completions",
    },
    "backend": {
        "description": "Kind of server, by its type or slug.",
        "schema": {"type": "string", "enum": [*BACKEND_NAMES]},
        "example": "llama-cpp",
    },
    "model": {
        "description": "Name of the model; it may hold slashes.",
        "schema": {"type": "string", "minLength": 1},
        "example": "qwen",
    },
    "native": {"description": "Route of llama.cpp's server.", "schema": {"type": "string"}},
    "node": {"description": "Name of the node.", "schema": {"type": "string", "minLength": 1}, "example": "main"},
}
NUMBER: Schema = {
    "description": "Number of the key.",
    "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
    "example": 1,
}
REQUEST_ID: Schema = {
    "description": "Id of the request, as the list of requests has it.",
    "schema": REQUEST_ID_SCHEMA,
    "example": "4f1c-2a",
}


def parameters(route: Route) -> list[Schema]:
    """Those of the path, of the query, and the headers."""
    in_path = [_in_path(route, name) for name in re.findall(r"\{(\w+)\}", route.openapi_path)]
    return in_path + [
        {"name": q.name, "in": where, "description": q.description, "schema": q.schema}
        | ({"style": "form", "explode": False} if where == "query" and q.schema.get("type") == "array" else {})
        for where, known in (("query", route.query), ("header", route.headers))
        for q in known
    ]


def _in_path(route: Route, name: str) -> Schema:
    known = PATH_PARAMETERS[name] if name != "id" else NUMBER if "/keys/" in route.path else REQUEST_ID
    if words := re.search(rf"\{{{name}:([\w|-]+)\}}", route.path):
        known = known | {"schema": {"type": "string", "enum": words[1].split("|")}}
    return {"name": name, "in": "path", "required": True, **known}


def body(route: Route) -> Schema | None:
    """The body that *route* takes; None where it takes none."""
    if route.body:
        schema = refer(route.body)
    elif route.patches:
        schema = {"$ref": f"#/components/schemas/{PATCH}"}
    elif route.example is not None:
        schema = {"type": "object"}
    elif route.returns is None and route.status != 204 and route.method in ANY_BODY:
        return {
            "description": "What the backend takes; it is passed on as it is.",
            "content": {"application/json": {"schema": {}, "example": {"content": "Hello"}}},
        }
    else:
        return None
    content: Schema = {kind: {"schema": schema, "example": route.example} for kind in route.body_types}
    if route.body and MEDIA_TYPE in content:
        content[MEDIA_TYPE] = {"schema": {"$ref": f"#/components/schemas/{PATCH}"}, "example": {"idle_timeout": "1h"}}
    return {"required": True, "content": content}
