"""How errors are told: every error class has its row in the one table, and each answer has the shape that its path promises.

`told` is (status, headers, body) of the answer to an error on a path.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any

import pytest
from aiohttp import web

from llamactl_py import app, client, daemon
from llamactl_py.api import problems
from llamactl_py.api.problems import TABLE, every_error, status_of
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, LlamactlError, Problem
from llamactl_py.instances.readiness import PortStolen

EVERYTHING = (app, client, daemon)
"""Imported, so that every class that the program has is known to `every_error`."""

NEVER_ANSWERED = (errors.DaemonRefused, PortStolen)
"""Those end a start of the daemon, or a start of a backend; no request ever meets them."""

ANSWERED = sorted({e for e in every_error() if not issubclass(e, NEVER_ANSWERED)}, key=lambda e: e.__name__)
MANAGEMENT, INFERENCE = "/api/v1/instances/a", "/v1/chat/completions"


def make(kind: type[LlamactlError]) -> LlamactlError:
    return kind([Problem("a.b", "is wrong")]) if issubclass(kind, Invalid) else kind("what went wrong")


def told(error: LlamactlError, path: str) -> tuple[int, Any, Any]:
    return parts(problems.response(error, path))


def parts(answer: web.Response) -> tuple[int, Any, Any]:
    assert isinstance(answer.body, bytes)
    assert answer.content_type == "application/json"
    return answer.status, answer.headers, json.loads(answer.body)


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_a_code(kind: type[LlamactlError]) -> None:
    assert kind in TABLE, "a row of its own, so that nobody gets one by chance of inheritance"
    status, code = status_of(kind)
    assert HTTPStatus(status) >= 400
    assert status != 500, "that one is for our own bugs"
    assert code.replace("_", "").isalpha()
    assert code.islower()


def test_the_table_has_no_row_too_many() -> None:
    assert set(TABLE) == set(ANSWERED)


def test_a_class_without_a_row_is_told_as_what_it_is_a_kind_of() -> None:
    special = type("SpeciallyNotFound", (errors.NotFound,), {})
    assert status_of(special) == status_of(errors.NotFound) == (404, "not_found")


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_the_management_api_tells_a_code_and_details(kind: type[LlamactlError]) -> None:
    status, _, body = told(make(kind), MANAGEMENT)
    assert (status, "error" in body) == (TABLE[kind][0], True)
    if status == 401:
        return
    assert body["error"] == TABLE[kind][1]
    assert body["details"] == str(make(kind))
    assert set(body) == {"error", "details"} | ({"problems"} if issubclass(kind, Invalid) else set())


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_the_inference_api_tells_what_openais_clients_understand(kind: type[LlamactlError]) -> None:
    status, _, body = told(make(kind), INFERENCE)
    assert status == TABLE[kind][0]
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] == str(make(kind))
    assert body["error"]["code"] == TABLE[kind][1]


@pytest.mark.parametrize(
    ("kind", "type_", "param"),
    [
        (errors.UnknownModel, "invalid_request_error", "model"),
        (errors.BadRequest, "invalid_request_error", None),
        (errors.TooLarge, "invalid_request_error", None),
        (errors.Unauthenticated, "authentication_error", None),
        (errors.Forbidden, "permission_error", None),
        (errors.NoRoom, "server_error", None),
        (errors.BackendFailed, "server_error", None),
        (errors.TimedOut, "server_error", None),
    ],
)
def test_openais_types(kind: type[LlamactlError], type_: str, param: str | None) -> None:
    error = told(make(kind), INFERENCE)[2]["error"]
    assert (error["type"], error["param"]) == (type_, param)


@pytest.mark.parametrize("path", [MANAGEMENT, INFERENCE, "/", "/nowhere"])
def test_a_missing_key_is_told_in_openais_form_everywhere(path: str) -> None:
    status, headers, body = told(errors.Unauthenticated("send a key"), path)
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert body == {
        "error": {"message": "send a key", "type": "authentication_error", "param": None, "code": "authentication_error"}
    }


@pytest.mark.parametrize(
    ("path", "is_openai"),
    [
        ("/v1", True), ("/v1/", True), ("/v1/models", True), ("/v1x", False), ("/v10/models", False), ("/api/v1/x", False),
        ("/", False),
    ],
)  # fmt: skip
def test_the_path_decides_the_shape(path: str, is_openai: bool) -> None:
    for body in (told(errors.BadRequest("x"), path)[2], parts(problems.plain(404, "not_found", "x", path))[2]):
        assert isinstance(body["error"], dict) is is_openai


def test_bad_options_are_told_field_by_field() -> None:
    error = Invalid([Problem("environment.A", "is wrong"), Problem("", "is worse")])
    assert told(error, MANAGEMENT)[2] == {
        "error": "invalid_request",
        "details": "environment.A: is wrong; is worse",
        "problems": [{"field": "environment.A", "problem": "is wrong"}, {"field": "", "problem": "is worse"}],
    }


@pytest.mark.parametrize("kind", ANSWERED, ids=lambda kind: kind.__name__)
def test_exactly_the_answers_that_mean_not_now_say_when(kind: type[LlamactlError]) -> None:
    status, headers, _ = told(make(kind), INFERENCE)
    assert ("Retry-After" in headers) == (status in (503, 504))
    if "Retry-After" in headers:
        assert int(headers["Retry-After"]) >= 1


@pytest.mark.parametrize(("after", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (59.5, "60"), (None, "5")])
def test_an_error_may_know_itself_when_to_come_back(after: float | None, header: str) -> None:
    error = errors.NoRoom("full")
    error.retry_after = after
    assert told(error, INFERENCE)[1]["Retry-After"] == header


def test_problems_that_are_no_errors_of_ours_have_the_same_shapes() -> None:
    assert parts(problems.plain(405, "method_not_allowed", "no", MANAGEMENT))[2] == {
        "error": "method_not_allowed",
        "details": "no",
    }
    assert parts(problems.plain(500, "internal_error", "no", INFERENCE))[2] == {
        "error": {"message": "no", "type": "server_error", "param": None, "code": "internal_error"}
    }


@pytest.mark.parametrize("text", ["模型 😀", '"</script>', "a\nb", "\u2028", "\x00"])
def test_any_text_is_told_as_json(text: str) -> None:
    assert told(errors.NotFound(text), MANAGEMENT)[2]["details"] == text
    assert told(errors.NotFound(text), INFERENCE)[2]["error"]["message"] == text
