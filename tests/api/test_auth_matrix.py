"""Who may do what: every route of the API, with every kind of credential, and the exact outcome.

`ROUTES` says by hand what each route asks of its caller, and what it answers to one who may: a route that is missing there
fails the first test. The rest is generated from the application's own table. Which instances a key may use, in all its
details, is in test_permits; here stand one key that may use `a` and one that may not.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from llamactl_py.app import API
from llamactl_py.auth.policy import Access
from tests.support.house import House, eventually, house

PUBLIC, INFERENCE, READ, MANAGEMENT = Access.PUBLIC, Access.INFERENCE, Access.READ, Access.MANAGEMENT
ONE = "/api/v1/instances/{name}"
CHAT = {"model": "a", "messages": []}


@dataclass(frozen=True)
class Expected:
    """*status*: the answer to a caller who may, on the house of `prepared`; *body*: what has to be sent for it."""

    access: Access
    status: int
    body: Any = None
    path: str = ""
    outside: int | None = None
    """The status for a key that may not use `a`, where that differs."""


ROUTES: dict[str, Expected] = {
    "GET /health": Expected(PUBLIC, 200),
    "GET /ready": Expected(PUBLIC, 200),
    "GET /api/v1/nodes": Expected(READ, 200),
    "GET /api/v1/nodes/{node}": Expected(READ, 404, path="/api/v1/nodes/x"),
    "GET /v1/models/{model}": Expected(INFERENCE, 200, path="/v1/models/a", outside=403),
    "GET /llama-cpp/{name}/": Expected(INFERENCE, 200, outside=403),
    "GET /llama-cpp/{name}/{native}": Expected(INFERENCE, 200, path="/llama-cpp/a/props", outside=403),
    "POST /llama-cpp/{name}/{native}": Expected(INFERENCE, 404, {}, "/llama-cpp/a/tokenize", outside=403),
    "POST /llama-cpp/{name}/v1/{path}": Expected(INFERENCE, 200, CHAT, "/llama-cpp/a/v1/chat/completions", outside=403),
    "GET /api/v1/llama-cpp/{name}/models": Expected(MANAGEMENT, 200),
    "POST /api/v1/llama-cpp/{name}/models/{model}/load": Expected(MANAGEMENT, 404, path="/api/v1/llama-cpp/a/models/x/load"),
    "POST /api/v1/llama-cpp/{name}/models/{model}/unload": Expected(MANAGEMENT, 404, path="/api/v1/llama-cpp/a/models/x/unload"),
    "GET /v1/models": Expected(INFERENCE, 200),
    "POST /v1/{path}": Expected(INFERENCE, 200, CHAT, "/v1/chat/completions", outside=403),
    "GET /api/v1/version": Expected(READ, 200),
    "GET /api/v1/openapi.json": Expected(READ, 200),
    "GET /api/v1/instances": Expected(READ, 200),
    f"GET {ONE}": Expected(READ, 200),
    f"GET {ONE}/stats": Expected(READ, 200),
    "GET /api/v1/config": Expected(READ, 200),
    "POST /api/v1/config/reload": Expected(MANAGEMENT, 200),
    f"POST {ONE}": Expected(MANAGEMENT, 201, {"backend_type": "mlx_lm"}, "/api/v1/instances/new"),
    f"PUT {ONE}": Expected(MANAGEMENT, 200, {"backend_type": "mlx_lm"}, "/api/v1/instances/other"),
    f"PATCH {ONE}": Expected(MANAGEMENT, 200, {"idle_timeout": 1}, "/api/v1/instances/other"),
    f"DELETE {ONE}": Expected(MANAGEMENT, 204, path="/api/v1/instances/other"),
    "POST /api/v1/instances/command": Expected(MANAGEMENT, 200, {"options": {"backend_type": "mlx_lm"}}),
    "POST /api/v1/instances/start": Expected(MANAGEMENT, 200, {"names": ["a"]}),
    "POST /api/v1/instances/stop": Expected(MANAGEMENT, 200, {"names": ["other"]}),
    "POST /api/v1/instances/restart": Expected(MANAGEMENT, 200, {"names": ["a"]}),
    f"GET {ONE}/command": Expected(READ, 200),
    f"POST {ONE}/command": Expected(MANAGEMENT, 200, {"backend_type": "mlx_lm"}),
    f"POST {ONE}/start": Expected(MANAGEMENT, 200),
    f"POST {ONE}/stop": Expected(MANAGEMENT, 200, path="/api/v1/instances/other/stop"),
    f"POST {ONE}/restart": Expected(MANAGEMENT, 200),
    "GET /api/v1/events": Expected(READ, 200, path="/api/v1/events?limit=1"),
    f"GET {ONE}/logs": Expected(READ, 200),
    f"GET {ONE}/proxy/{{path}}": Expected(MANAGEMENT, 200, path="/api/v1/instances/a/proxy/props"),
    f"POST {ONE}/proxy/{{path}}": Expected(MANAGEMENT, 200, {}, "/api/v1/instances/a/proxy/echo"),
    **{
        f"{method} {ONE}/proxy/{{path}}": Expected(MANAGEMENT, 404, path="/api/v1/instances/a/proxy/x")
        for method in ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")
    },
    "POST /api/v1/backends/parse-command": Expected(MANAGEMENT, 200, {"command": "llama-server"}),
    "POST /api/v1/backends/{backend}/parse-command": Expected(
        MANAGEMENT, 200, {"command": "llama-server"}, "/api/v1/backends/llama-cpp/parse-command"
    ),
    "GET /api/v1/backends": Expected(MANAGEMENT, 200),
    "GET /api/v1/backends/{backend}": Expected(MANAGEMENT, 200, path="/api/v1/backends/vllm"),
    "GET /api/v1/backends/{backend}/options": Expected(READ, 200, path="/api/v1/backends/vllm/options"),
    **{
        f"GET /api/v1/{where}/{what}": Expected(
            MANAGEMENT, 404 if what == "devices" else 200, path=f"/api/v1/backends/mlx/{what}"
        )
        for where in ("backends/{backend}", "server")
        for what in ("help", "version", "devices")
    },
    "GET /api/v1/auth/keys": Expected(READ, 200),
    "POST /api/v1/auth/keys": Expected(MANAGEMENT, 201, {"name": "x"}),
    "GET /api/v1/auth/keys/{id}": Expected(READ, 200),
    "PATCH /api/v1/auth/keys/{id}": Expected(MANAGEMENT, 200, {"name": "y"}, "/api/v1/auth/keys/4"),
    "GET /api/v1/auth/keys/{id}/permissions": Expected(READ, 200),
    "GET /metrics": Expected(READ, 200),
    "GET /api/v1/requests": Expected(READ, 200),
    "GET /api/v1/requests/{id}": Expected(READ, 404),
    "GET /api/v1/usage": Expected(READ, 200),
    "DELETE /api/v1/auth/keys/{id}": Expected(MANAGEMENT, 204, path="/api/v1/auth/keys/4"),
}
DO_MORE_THAN_READ = {
    *(f"{method} {ONE}/proxy/{{path}}" for method in ("GET", "HEAD", "OPTIONS")),
    "GET /api/v1/llama-cpp/{name}/models",
    "GET /api/v1/backends",
    "GET /api/v1/backends/{backend}",
    *(f"GET /api/v1/{where}/{what}" for where in ("backends/{backend}", "server") for what in ("help", "version", "devices")),
}
"""Routes with a method that only reads, and that a read-only key must not have: they ask a backend for who knows what, start an
instance, or run a program."""

STRANGERS = ("none", "wrong", "truncated", "expired", "revoked", "revoked management")
OPENS: dict[str, set[Access]] = {
    **{credential: {PUBLIC} for credential in STRANGERS},
    "inference": {PUBLIC, INFERENCE},
    "inside": {PUBLIC, INFERENCE},
    "outside": {PUBLIC, INFERENCE},
    "read": {PUBLIC, READ},
    "made": {PUBLIC, INFERENCE, READ, MANAGEMENT},
    "management": {PUBLIC, INFERENCE, READ, MANAGEMENT},
}
"""Every kind of credential, and the routes that it opens. `made`: a management key from the API, `management`: the file's."""
CREDENTIALS = tuple(OPENS)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def keys_of_table() -> list[str]:
    return [f"{route.method} {route.openapi_path}" for route in API]


@dataclass
class Prepared:
    """A house with a ready instance `a`, a stopped one `other`, and a key of each kind."""

    house: House
    keys: dict[str, str]
    anonymous: aiohttp.ClientSession

    async def ask(self, route: str, credential: str) -> tuple[int, Any]:
        method, path = route.split()
        expected = ROUTES[route]
        return await self.send(method, expected.path or filled(path), credential, expected.body)

    async def send(self, method: str, path: str, credential: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.keys[credential]}"} if credential != "none" else {}
        async with self.anonymous.request(method, self.house.url + path, json=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text and answer.content_type == "application/json" else text

    async def state(self) -> Any:
        """What can be changed through the API, as far as a refused request could have changed it."""
        instances = (await self.house.ask("GET", "/api/v1/instances"))[1]
        for instance in instances:
            for field in ("idle_seconds", "uptime_seconds", "last_used"):
                instance.pop(field, None)
        keys = (await self.house.ask("GET", "/api/v1/auth/keys"))[1]
        for key in keys:
            key.pop("last_used_at")
        return instances, keys


@pytest.fixture
async def prepared(tmp_path: Path) -> AsyncIterator[Prepared]:
    async with house(tmp_path) as h, aiohttp.ClientSession() as anonymous:

        async def key(**more: Any) -> str:
            made: dict[str, str] = (await h.ask("POST", "/api/v1/auth/keys", json={"name": "k", **more}))[1]
            return made["key"]

        for name in ("a", "other"):
            await h.create(name)
        keys = {
            "wrong": "llamactl-" + "0" * 64,
            "truncated": h.daemon.management_key[:-1],
            "inference": await key(),
            "expired": await key(expires_at=int(time.time()) + 2),
            "revoked": await key(),
            "": await key(),
            "revoked management": await key(scope="management"),
            "inside": await key(instances=["a"]),
            "outside": await key(instances=["other"]),
            "read": await key(scope="read"),
            "made": await key(scope="management"),
            "management": h.daemon.management_key,
        }
        for number in (3, 5):
            await h.ask("DELETE", f"/api/v1/auth/keys/{number}")
        await h.ask("POST", "/api/v1/instances/a/start")
        await h.until("a", "ready")
        yield Prepared(h, keys, anonymous)


def test_every_route_has_its_line_here_with_the_access_that_it_declares() -> None:
    assert sorted(keys_of_table()) == sorted(ROUTES)
    assert {key: ROUTES[key].access for key in ROUTES} == {f"{route.method} {route.openapi_path}": route.access for route in API}


def test_routes_that_only_read_are_open_to_read_only_keys() -> None:
    """A new one is not, until somebody has thought about it: then it is READ, or it is in DO_MORE_THAN_READ."""
    reading = {route for route in ROUTES if route.split()[0] in ("GET", "HEAD", "OPTIONS")}
    assert {route for route in reading if ROUTES[route].access is MANAGEMENT} == DO_MORE_THAN_READ
    assert {route for route in ROUTES if ROUTES[route].access is READ} <= reading


def filled(path: str) -> str:
    values = {"name": "a", "id": "1", "backend": "llama-cpp", "native": "props"}
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], "x"), path)


def expected_of(route: str, credential: str) -> int | None:
    """The status of a refusal; None where the caller may pass."""
    access = ROUTES[route].access
    if access in OPENS[credential]:
        return ROUTES[route].outside if credential == "outside" else None
    return 401 if credential in STRANGERS else 403


async def test_who_may_not_is_refused_on_every_route_and_changes_nothing(prepared: Prepared) -> None:
    await eventually(lambda: prepared.house.daemon.services.keys.caller(prepared.keys["expired"]) is None)
    before = await prepared.state()
    for route in ROUTES:
        for credential in CREDENTIALS:
            if (status := expected_of(route, credential)) is None:
                continue
            said, body = await prepared.ask(route, credential)
            assert said == status, (route, credential, body)
            if not route.startswith("HEAD"):
                text = json.dumps(body)
                assert "authentication_error" in text if status == 401 else "permission_denied" in text, (route, credential)
                assert not any(key in text for key in prepared.keys.values())
    assert await prepared.state() == before
    assert prepared.house.requests("a") == []


@pytest.mark.parametrize("route", ROUTES)
async def test_who_may_passes(prepared: Prepared, route: str) -> None:
    """Every credential that may, in turn; what the first one deleted or made is not there, or there already, for the next."""
    expected = ROUTES[route]
    may = [credential for credential in CREDENTIALS if expected_of(route, credential) is None]
    assert "management" in may
    for credential in may:
        status, body = await prepared.ask(route, credential)
        again = {201: 409, 204: 404}.get(expected.status) if credential != may[0] else None
        assert status in (expected.status, again), (credential, body)


async def test_a_key_in_the_query_is_refused_on_every_route_whoever_sends_it(prepared: Prepared) -> None:
    before = await prepared.state()
    for route, expected in ROUTES.items():
        method, path = route.split()
        for credential, name in (
            ("management", "api_key"),
            ("none", "api_key"),
            ("inference", "x"),
            ("management", "Access-Token"),
        ):
            query = f"?{name}={prepared.keys['made']}"
            status, body = await prepared.send(method, (expected.path or filled(path)) + query, credential, expected.body)
            assert status == 400, (route, credential, body)
            assert method == "HEAD" or "Authorization: Bearer KEY" in json.dumps(body)
            assert prepared.keys["made"] not in json.dumps(body)
    assert await prepared.state() == before


async def test_no_other_method_of_any_path_does_anything(prepared: Prepared) -> None:
    await eventually(lambda: prepared.house.daemon.services.keys.caller(prepared.keys["expired"]) is None)
    before = await prepared.state()
    known = [
        re.compile(re.sub(r"\\{(path|model)\\}|\\{\w+\\}", lambda m: ".*" if m[1] else "[^/]+", re.escape(r))) for r in ROUTES
    ]
    paths = sorted({filled(route.split()[1]) for route in ROUTES})
    for method in METHODS:
        for path in (path for path in paths if not any(route.fullmatch(f"{method} {path}") for route in known)):
            for credential in CREDENTIALS:
                is_stranger = READ not in OPENS[credential] and path.startswith("/api/")
                refused = 401 if credential in STRANGERS else 403
                status, body = await prepared.send(method, path, credential)
                assert status == (refused if is_stranger else 405), (method, path, credential, body)
    assert await prepared.state() == before


async def test_a_refusal_says_how_to_do_better(prepared: Prepared) -> None:
    async with prepared.house.session.get(f"{prepared.house.url}/v1/models", headers={"Authorization": "Bearer x"}) as answer:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert "Authorization: Bearer KEY" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Authorization: bearer {}"], 200),
        (["Authorization: BEARER   {} "], 200),
        (["X-API-Key: {}"], 200),
        (["x-api-key:   {}\t"], 200),
        (["Authorization: Basic {}"], 401),
        (["Authorization: {}"], 401),
        (["Authorization: Bearer{}"], 401),
        (["Authorization: Bearer {},{}"], 401),
        (["Authorization: Bearer {} {}"], 401),
        (['Authorization: Bearer "{}"'], 401),
        (["Authorization: Bearer wrong", "X-API-Key: {}"], 401),
        (["Cookie: key={}; api_key={}; Authorization=Bearer {}"], 401),
        (["Authorization: Bearer ' OR 1=1 --"], 401),
        (["Authorization: Bearer %00"], 401),
        (["Authorization: Bearer \u00e9\u00ff"], 401),
        (["Authorization: Bearer " + "x" * 7000], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization:"], 401),
    ],
)
async def test_a_key_comes_in_one_of_two_headers_and_only_whole(tmp_path: Path, headers: list[str], status: int) -> None:
    async with house(tmp_path) as h:
        key = h.daemon.management_key
        filled = [header.replace("{}", key) for header in headers]
        if not any(header.lower().startswith("authorization") for header in filled):
            head = re.sub(rb"Authorization: [^\r]*\r\n", b"", h.head("GET", "/api/v1/version", *filled))
        else:
            head = h.head("GET", "/api/v1/version", *filled)
        answer = await h.raw(head)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer


@pytest.mark.parametrize("path", ["/v1/models", "/api/v1/version", "/api/v1/instances/a", "/health", "/api/v1/nothing", "/"])
@pytest.mark.parametrize(
    "query", ["api_key={}", "x=1&api_key={}", "%61pi_key={}", "api_key", "API-Key={}", "apikey={}", "token={}", "key=Bearer%20{}"]
)
async def test_a_key_in_the_query_is_refused_and_not_repeated(tmp_path: Path, path: str, query: str) -> None:
    async with house(tmp_path) as h:
        key = h.daemon.management_key
        status, body = await h.ask("GET", f"{path}?{query.format(key)}")
        assert status == 400
        assert "Authorization: Bearer KEY" in json.dumps(body)
        assert key not in json.dumps(body)


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v1/", "/api/v2/instances", "/api/v1/instances/a/b", "/api/x"])
async def test_an_unknown_path_below_api_tells_strangers_nothing(tmp_path: Path, path: str) -> None:
    async with house(tmp_path) as h:
        assert (await h.ask("GET", path, headers={"Authorization": "Bearer x"}))[0] == (401 if path != "/api" else 404)
        assert (await h.ask("GET", path))[0] == 404


@pytest.mark.parametrize(
    ("auth", "open_routes"),
    [
        ({"require_inference_auth": False}, {INFERENCE, PUBLIC}),
        ({"require_management_auth": False}, {READ, MANAGEMENT, PUBLIC}),
        ({"require_inference_auth": False, "require_management_auth": False}, set(Access)),
    ],
)
async def test_on_loopback_each_lock_can_be_left_off(tmp_path: Path, auth: dict[str, bool], open_routes: set[Access]) -> None:
    async with house(tmp_path, auth=auth) as h:
        await h.create("a")
        nobody = {"Authorization": "Bearer x"}
        for path, access in (("/v1/models", INFERENCE), ("/api/v1/instances", READ), ("/health", PUBLIC)):
            assert (await h.ask("GET", path, headers=nobody))[0] == (200 if access in open_routes else 401)
        made = (await h.ask("POST", "/api/v1/auth/keys", json={"name": "x"}))[1]
        status, _ = await h.ask("GET", "/api/v1/instances", headers={"Authorization": f"Bearer {made['key']}"})
        assert status == (200 if MANAGEMENT in open_routes else 403)


async def test_further_management_keys_come_from_the_settings(tmp_path: Path) -> None:
    async with house(tmp_path, auth={"management_keys": ["sixteen-letters-"]}) as h:
        for key, status in (("sixteen-letters-", 200), ("sixteen-letters", 401), (h.daemon.management_key, 200)):
            assert (await h.ask("GET", "/api/v1/version", headers={"Authorization": f"Bearer {key}"}))[0] == status
