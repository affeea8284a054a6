"""What callers get: statuses, headers, bodies and examples of them."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, get_origin

from msgspec import to_builtins

from llamactl_py.api.openapi import links
from llamactl_py.api.openapi.answers import ANSWERS, PASSED_ON, PROPERTIES, TEXTS
from llamactl_py.api.openapi.components import (
    OpenAIError,
    Problem,
    Raised,
    Schema,
    example_name,
    first_line,
    item,
    operation_id,
    raised,
    refer,
)
from llamactl_py.api.problems import RETRY_AFTER, speaks_openai, status_of
from llamactl_py.api.route import Route, Tagged
from llamactl_py.ground import errors

HEADERS: dict[str, Schema] = {
    "ETag": {"description": "The revision of the options, for If-Match.", "schema": {"type": "string", "pattern": '^"[^"]+"$'}},
    "Cache-Control": {"description": "The answer is not to be kept.", "schema": {"type": "string", "const": "no-store"}},
    "Location": {"description": "Where the thing just made is.", "schema": {"type": "string", "pattern": "^/api/v1/"}},
    "X-Total-Count": {
        "description": "How many there are without `limit` and `offset`.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "Content-Disposition": {
        "description": "With `download`: the name of the file.",
        "schema": {"type": "string", "pattern": "^attachment; "},
    },
    "X-Accel-Buffering": {
        "description": "Of answers that do not end by themselves: asks nginx to pass on what comes at once.",
        "schema": {"type": "string", "const": "no"},
    },
    "WWW-Authenticate": {"description": "How to say who one is.", "schema": {"type": "string", "const": "Bearer"}},
    "Retry-After": {
        "description": "Seconds after which trying again may help.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "x-should-retry": {
        "description": "Where a start has failed: asks OpenAI's clients not to try again by themselves.",
        "schema": {"type": "string", "const": "false"},
    },
}
"""Every header of answers that means something here, beside those of HTTP itself."""

BACKENDS_ANSWER = "The answer of the backend, as it is: its status, its headers, its body."


def responses(route: Route, routes: Sequence[Route]) -> Schema:
    """Every status that *route* answers, by number."""
    found: Schema = {str(route.status): _success(route, routes)}
    for status in route.also:
        found[str(status)] = {"description": HTTPStatus(status).phrase} | _headers({"ETag", "Cache-Control"}, required=True)
    for status in sorted({status_of(error)[0] for error in raised(route)}):
        found[str(status)] = _failure(route, status)
    if is_passed_on(route):
        found["default"] = {"description": BACKENDS_ANSWER}
    return found


def is_passed_on(route: Route) -> bool:
    """Does a backend answer it?"""
    return route.returns is None and route.status != 204


def _success(route: Route, routes: Sequence[Route]) -> Schema:
    answer: Schema = {"description": BACKENDS_ANSWER if is_passed_on(route) else HTTPStatus(route.status).phrase}
    model = item(route.returns)
    needed = set(route.tells)
    if model and issubclass(model, Tagged) and get_origin(route.returns) is not list:
        needed |= {"ETag", "Cache-Control"}
    if route.location:
        needed.add("Location")
    answer |= _headers(needed, required=True, optional=set(route.may_tell))
    if content := _content(route):
        answer["content"] = content
    if found := links.of(route, routes):
        answer["links"] = found
    return answer


def _content(route: Route) -> Schema:
    if route.returns is str:
        return {kind: _text(kind, TEXTS[operation_id(route)]) for kind in route.text_types}
    if is_passed_on(route):
        return {} if route.method == "HEAD" else _of_backend(route)
    if not (model := item(route.returns)):
        return {}
    schema, example = refer(model), ANSWERS[model]
    if get_origin(route.returns) is list:
        schema = {"type": "array", "items": schema}
        return {"application/json": {"schema": schema, "example": [to_builtins(example)]}}
    return {"application/json": {"schema": schema, "example": to_builtins(example)}}


def _of_backend(route: Route) -> Schema:
    answer, stream = PASSED_ON if route.method == "POST" else (PROPERTIES, "")
    streamed = {"text/event-stream": {"example": stream}} if stream else {}
    return {
        "application/json": {"schema": {}, "example": answer},
        **streamed,
        "*/*": {"schema": {}, "example": "<!doctype html>"},
    }


def _text(kind: str, example: str) -> Schema:
    """Events are no schema's business: what a stream of them means has no place in 3.1 (`itemSchema` is of 3.2)."""
    return {"example": example} if kind == "text/event-stream" else {"schema": {"type": "string"}, "example": example}


def _failure(route: Route, status: int) -> Schema:
    raising = [error for error in raised(route) if status_of(error)[0] == status]
    ours = refer(OpenAIError if speaks_openai(route.path) or status == 401 else Problem)
    always, sometimes = _always(raising, status), _sometimes(raising)
    others: Schema = {}
    if is_passed_on(route):
        always, sometimes = set(), always | sometimes
        ours, others = {"anyOf": [ours, {"description": BACKENDS_ANSWER}]}, {"*/*": {"schema": {}, "example": "Not Found"}}
    examples = {error.__name__: {"$ref": f"#/components/examples/{example_name(error, route)}"} for error in raising}
    return {
        "description": "; ".join(sorted(first_line(error) for error in raising)),
        **_headers(always, required=True, optional=sometimes),
        "content": {"application/json": {"schema": ours, "examples": examples}, **others},
    }


def _always(raising: list[Raised], status: int) -> set[str]:
    if status == 401:
        return {"WWW-Authenticate"}
    return {"Retry-After"} if status in (503, 504) and all(error in RETRY_AFTER for error in raising) else set()


def _sometimes(raising: list[Raised]) -> set[str]:
    known: dict[Any, str] = {errors.Changed: "ETag", errors.StartFailed: "x-should-retry"}
    return {known[error] for error in raising if error in known}


def _headers(names: set[str], *, required: bool, optional: set[str] = frozenset()) -> Schema:  # type: ignore[assignment]
    found = {name: HEADERS[name] | {"required": required} for name in HEADERS if name in names}
    found |= {name: {"$ref": f"#/components/headers/{name}"} for name in HEADERS if name in optional - names}
    return {"headers": found} if found else {}
