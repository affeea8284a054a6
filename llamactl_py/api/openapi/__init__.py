"""The API's description in OpenAPI 3.1, written from the route table and the models. Only who asks for it imports this."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from llamactl_py import __version__
from llamactl_py.api.openapi import components, links, requests, responses
from llamactl_py.api.openapi.components import Schema
from llamactl_py.api.route import Route
from llamactl_py.auth.policy import OPENS, Access
from llamactl_py.ground.grant import Scope

INFO: Schema = {
    "title": "llamactl",
    "version": __version__,
    "description": (
        "One daemon that runs local LLM servers behind one OpenAI-compatible door. Management is under /api/v1, in the shapes of "
        "llamactl; models are asked under /v1, in OpenAI's. Keys are sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`, "
        "never in the query. Errors say what is wrong and what to do; 500 stands for a defect of llamactl itself: its log has "
        "the details, and no operation here lists it."
    ),
    "license": {"name": "MIT", "identifier": "MIT"},
}

TAGS = {
    "instances": "Model servers: made, seen, changed, started and stopped.",
    "backends": "Kinds of servers: what is installed, what it takes, and what a pasted command line means.",
    "inference": "OpenAI-style requests, led to an instance by their `model`, which is started if it has to be.",
    "llama.cpp": "What only llama.cpp's server has: its native routes and its router mode.",
    "keys": "What clients present, and what it opens for them.",
    "events": "What happens, as it happens.",
    "accounting": "What was asked, how long it took, and what it came to. Never what was said.",
    "config": "The settings in force, and reading them again.",
    "system": "The daemon itself.",
}

SCHEMES = {
    Scope.MANAGEMENT: ("managementKey", "A management key; it opens what the other kinds open, too."),
    Scope.READ: ("readKey", "A read-only management key."),
    Scope.INFERENCE: ("inferenceKey", "An inference key, which may be limited to some instances."),
}
"""For each scope of keys the name and the description of its security scheme."""


def document(routes: Iterable[Route]) -> Schema:
    """The OpenAPI 3.1 document of *routes*."""
    routes = list(routes)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.openapi_path, {})[route.method.lower()] = _operation(route, routes)
    return {
        "openapi": "3.1.0",
        "info": INFO,
        "servers": [{"url": "/", "description": "This daemon."}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": components.schemas(routes),
            "examples": components.error_examples(routes),
            "headers": responses.HEADERS,
            "links": links.components(routes),
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": description} for name, description in SCHEMES.values()
            },
        },
    }


def _operation(route: Route, routes: list[Route]) -> Schema:
    summary, _, description = inspect.cleandoc(route.call.__doc__ or "").partition("\n\n")
    operation: Schema = {
        "operationId": components.operation_id(route),
        "summary": summary,
        "tags": [route.tag],
        "parameters": requests.parameters(route),
        "responses": responses.responses(route, routes),
        "security": security(route.access),
    }
    if description:
        operation["description"] = description.replace("\n", " ")
    if body := requests.body(route):
        operation["requestBody"] = body
    return operation


def security(access: Access) -> list[dict[str, Any]]:
    """One alternative for each kind of key that opens the route, with the scope that the key has to have."""
    opens = () if access is Access.PUBLIC else OPENS[access]
    return [{SCHEMES[scope][0]: [scope.value]} for scope in sorted(opens, key=lambda scope: scope is Scope.MANAGEMENT)]
