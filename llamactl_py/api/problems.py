"""The one table that gives each domain error its HTTP status and code, and the two shapes in which it is told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from llamactl_py.ground import errors
from llamactl_py.ground.errors import LlamactlError

if TYPE_CHECKING:
    from aiohttp import web

_OF_OPENAI = re.compile(r"/(chat/completions|completions|embeddings|models(/.+)?|responses|messages|rerank|audio/[a-z]+)")

TABLE: dict[type[LlamactlError], tuple[int, str]] = {
    errors.NotFound: (404, "not_found"),
    errors.UnknownModel: (404, "model_not_found"),
    errors.NameTaken: (409, "name_taken"),
    errors.Conflict: (409, "conflict"),
    errors.Declared: (409, "declared"),
    errors.LimitReached: (409, "limit_reached"),
    errors.Changed: (412, "changed"),
    errors.NotRunning: (503, "instance_not_running"),
    errors.NoRoom: (503, "no_room"),
    errors.TooManyWatchers: (503, "too_many_watchers"),
    errors.TimedOut: (504, "timed_out"),
    errors.StartFailed: (503, "start_failed"),
    errors.WasStopped: (503, "instance_stopped"),
    errors.ShuttingDown: (503, "shutting_down"),
    errors.BackendFailed: (502, "backend_failed"),
    errors.StorageFailed: (507, "storage_failed"),
    errors.Unauthenticated: (401, "authentication_error"),
    errors.Forbidden: (403, "permission_denied"),
    errors.BadRequest: (400, "invalid_request"),
    errors.TooLarge: (413, "too_large"),
    errors.WrongType: (415, "unsupported_media_type"),
    errors.Invalid: (422, "invalid_request"),
    errors.BadCommand: (400, "parse_error"),
    errors.InvalidName: (400, "invalid_instance_name"),
}
"""The status of every error that a request can meet. Those that mean "not now" have Retry-After."""

RETRY_AFTER = {
    errors.NotRunning: 5,
    errors.NoRoom: 5,
    errors.TooManyWatchers: 5,
    errors.TimedOut: 5,
    errors.StartFailed: 30,
    errors.WasStopped: 1,
    errors.ShuttingDown: 10,
}


def status_of(error: type[LlamactlError]) -> tuple[int, str]:
    """(HTTP status, code) of an error class."""
    return next(TABLE[base] for base in error.__mro__ if base in TABLE)


INTERNAL = "an error of llamactl itself; its log has the details"

Told = tuple[int, dict[str, str], bytes]
"""(status, headers, JSON body) of an answer."""


def response(error: LlamactlError, path: str) -> web.Response:
    """How *error* is told to whoever asked for *path*."""
    return _as_response(*told(error, path))


def told(error: LlamactlError, path: str) -> Told:
    """What `response` says."""
    status, code = status_of(type(error))
    if isinstance(error, errors.Invalid):
        code = error.code or code
    headers = {}
    wait = error.retry_after if error.retry_after is not None else RETRY_AFTER.get(type(error))
    if status in (503, 504) and wait is not None:
        headers["Retry-After"] = str(max(1, math.ceil(wait)))
    if isinstance(error, errors.StartFailed):
        headers["x-should-retry"] = "false"  # OpenAI's clients would sit through Retry-After twice before they tell the reason
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.Changed) and error.revision:
        headers["ETag"] = f'"{error.revision}"'
    body = _openai(status, code, str(error)) if speaks_openai(path) or status == 401 else _management(code, error)
    return status, headers, msgspec.json.encode(body)


def plain(status: int, code: str, message: str, path: str) -> web.Response:
    """A problem that is no domain error: no such route, wrong method, our own bug."""
    return _as_response(*told_plain(status, code, message, path))


def told_plain(status: int, code: str, message: str, path: str) -> Told:
    """What `plain` says."""
    body = _openai(status, code, message) if speaks_openai(path) else {"error": code, "details": message}
    return status, {}, msgspec.json.encode(body)


def _as_response(status: int, headers: dict[str, str], body: bytes) -> web.Response:
    from aiohttp import web  # the front tells problems before it is imported

    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def speaks_openai(path: str) -> bool:
    """Are errors of *path* told in OpenAI's form?"""
    return path == "/v1" or path.startswith("/v1/") or misses_v1(path)


def misses_v1(path: str) -> bool:
    """Do OpenAI's clients ask there when they are given our address without /v1?"""
    return _OF_OPENAI.fullmatch(path) is not None


def _openai(status: int, code: str, message: str) -> dict[str, Any]:
    kind = {401: "authentication_error", 403: "permission_error", 404: "invalid_request_error", 413: "invalid_request_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    return {"error": {"message": message, "type": kind, "param": "model" if code == "model_not_found" else None, "code": code}}


def _management(code: str, error: LlamactlError) -> dict[str, Any]:
    body: dict[str, Any] = {"error": code, "details": str(error)}
    if isinstance(error, errors.Invalid):
        body["problems"] = [{"field": problem.where, "problem": problem.what} for problem in error.problems]
    return body


def every_error(root: type[LlamactlError] = LlamactlError) -> Iterator[type[LlamactlError]]:
    """All error classes below *root*."""
    for error in root.__subclasses__():
        yield error
        yield from every_error(error)
