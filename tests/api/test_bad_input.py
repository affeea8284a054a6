"""Bad input gets a clear error, on every route: which field, which value, what is allowed instead.

`NAMES` and `HARMLESS` are tried on every route of the table that has a name in its path, unknown parameters on every route that
says which it takes. Bodies are each form's own business; here stands only what all have in common.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from llamactl_py.api.route import Route
from llamactl_py.app import API
from tests.support.house import House, house

NAMES = {
    ".": ".",
    "..": "..",
    "-rf": "-rf",
    "300 characters": "x" * 300,
    "slash": "a/b",
    "backslash": "a\\b",
    "parent": "../a",
    "NUL": "a\0",
    "newline": "a\nb",
    "right to left": "a\u202eb",
    "right-to-left mark": "\u200fa",
    "zero width": "a\u200bb",
    "blank": "a b",
    "only a blank": " ",
    "ends in a dot": "a.",
    "umlaut": "größe",
    "wide letter": "\uff41",
    "percent": "%61",
    "invalid UTF-8": "\udcff",
}
NAMED = [route for route in API if "{name}" in route.path]
EVERY_NAMED = pytest.mark.parametrize("route", NAMED, ids=lambda route: f"{route.method} {route.path}")
KNOWING = [route for route in API if route.knows_its_query]


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        await running.create("a")
        yield running


def target(route: Route, name: str) -> str:
    others = {"path": "x", "native": "props" if route.method == "GET" else "tokenize", "model": "m", "backend": "vllm", "id": "1"}
    spelled = quote(name, safe="", errors="surrogateescape").replace(".", "%2E" if set(name) <= {"."} else ".")
    return re.sub(r"\{(\w+)\}", lambda m: spelled if m[1] == "name" else others.get(m[1], "x"), route.openapi_path)


async def refused(h: House, method: str, path: str, body: bytes = b"{}") -> tuple[int, dict[str, Any]]:
    """(status, body), sent byte for byte, as clients tidy paths up."""
    head = h.head(method, path, "Content-Type: application/json", f"Content-Length: {len(body)}")
    answer = await h.raw(head + body)
    head, _, text = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(text) if text and method != "HEAD" else {}


@EVERY_NAMED
async def test_a_name_that_no_instance_may_have_is_refused_by_every_route(h: House, route: Route) -> None:
    for what, name in NAMES.items():
        status, body = await refused(h, route.method, target(route, name))
        assert status == 400, (what, body)
        if route.method != "HEAD" and body["error"] != "invalid_request":
            assert body["error"] == "invalid_instance_name", what
            assert [problem["field"] for problem in body["problems"]] == ["name"]
            assert "\u202e" not in body["details"], "what is shown must not turn the text around"
            assert re.search(r"take letters, digits, '\.', '_' and '-'|at most 50|needs a name", body["details"]), body
            assert len(body["details"]) < 300
    assert [instance["name"] for instance in (await h.ask("GET", "/api/v1/instances"))[1]] == ["a"]


async def test_names_that_differ_only_in_case_are_the_same_to_a_file_system_and_refused(h: House) -> None:
    status, body = await h.ask("POST", "/api/v1/instances/A", json={"backend_type": "mlx_lm"})
    assert (status, body["error"]) == (409, "name_taken")
    assert "'A'" in body["details"]
    assert "'a'" in body["details"]


@pytest.mark.parametrize("route", KNOWING, ids=lambda route: f"{route.method} {route.path}")
async def test_a_query_parameter_that_is_not_known_is_refused_by_name(h: House, route: Route) -> None:
    status, body = await refused(h, route.method, f"{target(route, 'a')}?nothing=1")
    assert status == 422, body
    (problem,) = body["problems"]
    assert problem["field"] == "nothing"
    assert "is no query parameter of this route" in problem["problem"]
    assert all(query.name in problem["problem"] for query in route.query) or route.query == ()


async def test_a_misspelt_parameter_is_told_its_nearest_name_and_a_second_one_is_not_left_out(h: House) -> None:
    status, body = await h.ask("GET", "/api/v1/instances?limt=3&sort=name&sort=state")
    assert status == 422
    told = {problem["field"]: problem["problem"] for problem in body["problems"]}
    assert "did you mean 'limit'?" in told["limt"]
    assert told["sort"] == "is given more than once; give it once"


async def test_those_who_may_not_are_not_told_which_parameters_there_are(h: House) -> None:
    assert (await h.ask("GET", "/api/v1/instances?nothing=1", headers={"Authorization": "Bearer x"}))[0] == 401


@pytest.mark.parametrize("path", ["/health?t=1", "/ready?t=1", "/metrics?target=1", "/v1/models?limit=3", "/?utm=1"])
async def test_clients_of_others_may_add_what_they_are_used_to(h: House, path: str) -> None:
    assert (await h.ask("GET", path))[0] == 200


@pytest.mark.parametrize(
    ("path", "field", "said"),
    [
        ("instances?limit=0", "limit", "'0' is not a whole number from 1 to 10000"),
        ("instances?limit=1e3", "limit", "'1e3' is not a whole number"),
        ("instances?offset=-1", "offset", "'-1' is not a whole number from 0 to 10000"),
        ("instances?sort=nme", "sort", "'nme' is none of created, name"),
        ("instances?order=up", "order", "'up' is none of asc, desc"),
        ("instances?status=dead", "status", "'dead' is none of"),
        ("instances?backend_type=lama_cpp", "backend_type", "did you mean 'llama_cpp'?"),
        ("instances?stats=maybe", "stats", "'maybe' is neither true nor false"),
        ("instances/a/logs?lines=ten", "lines", "'ten' is not a whole number"),
        ("instances/a/logs?stream=stderr", "stream", "'stderr' is not kept apart"),
        ("instances/a/logs?since=yesterday", "since", "'yesterday' is not 'start'"),
        ("requests?limit=1001", "limit", "'1001' is not a whole number from 1 to 1000"),
        ("requests?before=x", "before", "'x' is the id of no request"),
        ("events?limit=0", "limit", "'0' is not a whole number"),
    ],
)
async def test_a_value_that_is_not_taken_is_told_with_what_is(h: House, path: str, field: str, said: str) -> None:
    status, body = await h.ask("GET", f"/api/v1/{path}")
    assert (status, body["problems"][0]["field"]) == (422, field)
    assert said in body["problems"][0]["problem"]


BODIES = [route for route in API if route.body or route.patches]


@pytest.mark.parametrize("route", BODIES, ids=lambda route: f"{route.method} {route.path}")
async def test_a_body_that_is_no_object_or_has_an_unknown_field_is_refused_by_every_form(h: House, route: Route) -> None:
    path = target(route, "b" if route.call.__name__ == "create_instance" else "a")
    if "/keys/" in path:
        await h.ask("POST", "/api/v1/auth/keys", json={"name": "k"})
    for body, said in (
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"\xff", "is not valid JSON"),
        (b"[]", "expected an object with named fields, got a list"),
        (b'"x"', "expected an object with named fields, got text"),
        (b'{"surely_no_field": 1}', "surely_no_field"),
    ):
        status, answer = await refused(h, route.method, path, body)
        assert status in (400, 422), (body, answer)
        assert said in answer["details"], (body, answer)


@pytest.mark.parametrize(
    "character", ["\0", "\n", "\x7f", "\x85", "\u00ad", "\u200b", "\u200f", "\u2028", "\u202e", "\u2066", "\ufeff"]
)
async def test_no_name_of_a_model_or_a_key_hides_something(h: House, character: str) -> None:
    name = f"a{character}b"
    for method, path, body, field in (
        ("POST", "auth/keys", {"name": name}, "name"),
        ("PATCH", "instances/a", {"aliases": ["ok", name]}, "aliases.1"),
        ("PATCH", "instances/a", {"group": name}, "group"),
    ):
        status, answer = await h.ask(method, f"/api/v1/{path}", json=body)
        assert (status, answer["problems"][0]["field"]) == (422, field)
        assert character not in answer["details"]
        assert field == "group" or f"U+{ord(character):04X} at position 2" in answer["problems"][0]["problem"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
async def test_a_misspelt_option_is_refused_with_null_too(h: House, method: str) -> None:
    name = "new" if method == "POST" else "a"
    status, body = await h.ask(method, f"/api/v1/instances/{name}", json={"backend_type": "llama_cpp", "idle_timout": None})
    assert (status, body["problems"]) == (
        422,
        [{"field": "idle_timout", "problem": "unknown key (did you mean 'idle_timeout'?)"}],
    )


async def test_a_parameter_is_looked_at_before_a_condition(h: House) -> None:
    assert (await h.ask("GET", "/api/v1/instances/a?stats=x", headers={"If-None-Match": "*"}))[0] == 422


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (
            {"Authorization": ""},
            "this route needs a management key, or a read-only one; no key was sent; send it as: Authorization: Bearer KEY",
        ),
        ({"Authorization": "Basic eDp5"}, "no key was sent"),
        ({"Authorization": "Bearer nobodys"}, "the key that was sent is not known: it was mistyped or revoked"),
        ({"Authorization": "Bearer " + "x" * 5000}, "the key that was sent is not known"),
    ],
)
async def test_no_key_and_a_wrong_one_are_told_apart(h: House, headers: dict[str, str], said: str) -> None:
    status, body = await h.ask("GET", "/api/v1/instances", headers=headers)
    assert status == 401
    assert said in body["error"]["message"]
    assert "nobodys" not in body["error"]["message"]


async def test_a_key_that_has_expired_is_told_so_with_its_name_and_the_moment(h: House) -> None:
    _, made = await h.ask("POST", "/api/v1/auth/keys", json={"name": "notebook", "expires_at": 4_000_000_000})
    h.daemon.services.keys._now = lambda: 4_000_000_000.0
    for path in ("/v1/models", "/api/v1/instances"):
        status, body = await h.ask("GET", path, headers={"Authorization": f"Bearer {made['key']}"})
        assert status == 401
        assert "key 'notebook' has expired at 2096-10-02T07:06:40Z" in body["error"]["message"]
    status, body = await h.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {made['key'][:-1]}0"})
    assert "is not known" in body["error"]["message"] or made["key"].endswith("0")


async def test_a_method_that_a_path_does_not_take_is_told_what_it_takes(h: House) -> None:
    for method in ("TRACE", "PUT", "PROPFIND"):
        status, body = await refused(h, method, "/api/v1/version")
        assert (status, body["error"]) == (405, "method_not_allowed")
        assert (
            f"/api/v1/version does not take {method}; it takes GET, HEAD" in body["details"] or "it takes GET" in body["details"]
        )
