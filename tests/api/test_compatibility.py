"""The table of compatibility is true: each of its rows is a request to a house with a ready instance `a` and a stopped one `b`.

A row that works or differs gives what `EXPECTED` says; one that is not here yet gives 404, so that whoever brings it has to come
and say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS
from tests.support.house import House, house

PAGE = Path(__file__).parents[2] / "apidocs" / "compatibility.md"
ROWS = dict(re.findall(r"^\| `(\w+ /[^`]*)` \| (works|differs|not yet) \|", PAGE.read_text(), re.MULTILINE))
OPTIONS = {"backend_type": "llama_cpp", "backend_options": {}}
CHAT = {"model": "a", "messages": [{"role": "user", "content": "hi"}]}
KEY = {"id", "name", "user_id", "permission_mode", "expires_at", "created_at", "updated_at", "last_used_at"}
INSTANCE = {"id", "name", "status", "created", "options"}


def anything(body: Any) -> bool:
    return True


def is_instance(body: Any) -> bool:
    return body.keys() >= INSTANCE and body["status"] in ("stopped", "running", "failed", "restarting", "shutting_down")


def is_refusal(body: Any) -> bool:
    """llamactl's form."""
    return isinstance(body["error"], str) and isinstance(body["details"], str)


def reached(path: str) -> Callable[[Any], bool]:
    """The stub has no such page: what it says then shows that it was asked."""
    return lambda body: "File Not Found" in json.dumps(body)


@dataclass(frozen=True)
class Expected:
    status: int
    path: str = ""
    body: Any = None
    check: Callable[[Any], bool] = anything


NATIVE = {
    f"{method} /llama-cpp/{{name}}/{name}": Expected(404, body={} if method == "POST" else None, check=reached(name))
    for method, name in (
        ("GET", "slots"),
        *(("POST", name) for name in ("apply-template", "completion", "detokenize", "embeddings", "infill", "metrics", "props")),
        ("POST", "reranking"),
        ("POST", "tokenize"),
    )
}
EXPECTED: dict[str, Expected] = {
    "GET /api/v1/version": Expected(200, check=lambda text: re.match(r"Version: .*\nCommit: .*\nBuild Time: ", text) is not None),
    "GET /api/v1/config": Expected(
        200, check=lambda body: body.keys() >= {"server", "backends", "instances", "auth", "data_dir", "version"}
    ),
    "GET /api/v1/instances": Expected(200, check=lambda body: all(map(is_instance, body))),
    "GET /api/v1/instances/{name}": Expected(200, check=is_instance),
    "POST /api/v1/instances/{name}": Expected(201, "/api/v1/instances/new", OPTIONS, lambda body: body["status"] == "stopped"),
    "PUT /api/v1/instances/{name}": Expected(200, "/api/v1/instances/b", OPTIONS, is_instance),
    "DELETE /api/v1/instances/{name}": Expected(204, "/api/v1/instances/b"),
    "POST /api/v1/instances/{name}/start": Expected(200, check=lambda body: body["status"] == "running"),
    "POST /api/v1/instances/{name}/stop": Expected(200, check=lambda body: body["status"] == "stopped"),
    "POST /api/v1/instances/{name}/restart": Expected(200, "/api/v1/instances/b/restart", check=is_instance),
    "GET /api/v1/instances/{name}/logs": Expected(
        200, "/api/v1/instances/a/logs?lines=1", check=lambda text: isinstance(text, str) and text.count("\n") == 0
    ),
    "ANY /api/v1/instances/{name}/proxy/*": Expected(200, "/api/v1/instances/a/proxy/props"),
    **{
        f"POST /api/v1/backends/{slug}/parse-command": Expected(
            200, body={"command": command}, check=lambda body: {"backend_type", "backend_options"} <= body.keys()
        )
        for slug, command in (("llama-cpp", "llama-server -c 1"), ("mlx", "mlx_lm.server"), ("vllm", "vllm serve m"))
    },
    **{
        f"GET /api/v1/{folder}/{what}": Expected(200, check=lambda text: isinstance(text, str) and text.startswith("version: 1"))
        for folder in ("backends/llama-cpp", "server")
        for what in ("help", "version", "devices")
    },
    "GET /api/v1/llama-cpp/{name}/models": Expected(200, check=lambda body: body["data"][0]["id"] == "a"),
    "POST /api/v1/llama-cpp/{name}/models/{model}/load": Expected(404, body={"model": "m"}, check=reached("load")),
    "POST /api/v1/llama-cpp/{name}/models/{model}/unload": Expected(404, body={"model": "m"}, check=reached("unload")),
    "GET /api/v1/nodes": Expected(200, check=lambda body: body == {}),
    "GET /api/v1/nodes/{name}": Expected(404, check=is_refusal),
    "POST /api/v1/auth/keys": Expected(
        201,
        body={"name": "k", "permission_mode": "per_instance", "expires_at": 2_000_000_000, "instance_ids": [1]},
        check=lambda body: {*KEY, "key"} <= body.keys(),
    ),
    "GET /api/v1/auth/keys": Expected(200, check=lambda body: body[0].keys() >= KEY),
    "GET /api/v1/auth/keys/{id}": Expected(200, check=lambda body: body.keys() >= KEY and body["expires_at"] is None),
    "GET /api/v1/auth/keys/{id}/permissions": Expected(
        200, check=lambda body: body == [{"instance_id": 1, "instance_name": "a"}]
    ),
    "DELETE /api/v1/auth/keys/{id}": Expected(204),
    "GET /v1/models": Expected(200, check=lambda body: [model["id"] for model in body["data"]] == ["a", "b"]),
    "POST /v1/*": Expected(200, "/v1/chat/completions", CHAT),
    "GET /llama-cpp/{name}/": Expected(200, check=lambda body: body == {"page": True}),
    "GET /llama-cpp/{name}/props": Expected(200, check=lambda body: "model_path" in body),
    "POST /llama-cpp/{name}/v1/*": Expected(200, "/llama-cpp/a/v1/chat/completions", CHAT),
    **NATIVE,
    "GET /swagger/*": Expected(404, "/swagger/index.html"),
}


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    program = tmp_path / "llama-server"
    flags = (f"{', '.join(flag.spellings)} N   {flag.help}" for flag in BACKENDS["llama_cpp"].catalogue if not flag.removed)
    (tmp_path / "help").write_text("version: 1\n----- common params -----\n\n" + "\n".join(flags))
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/help\n")
    program.chmod(0o755)
    async with house(tmp_path, backends={"llama-cpp": {"command": str(program)}}) as running:
        await running.create("a")
        await running.create("b")
        body = {"name": "first", "permission_mode": "per_instance", "instance_ids": [1]}
        await running.ask("POST", "/api/v1/auth/keys", json=body)
        await running.chat("a")
        yield running


def test_every_row_that_is_here_has_its_request_and_every_request_its_row() -> None:
    assert {row for row, state in ROWS.items() if state != "not yet"} == EXPECTED.keys()
    assert len(ROWS) == PAGE.read_text().count("\n| `")


@pytest.mark.parametrize("row", EXPECTED)
async def test_a_row_that_is_here_is_true(h: House, row: str) -> None:
    method, path = row.split()
    expected = EXPECTED[row]
    concrete = expected.path or path.replace("{name}", "a").replace("{id}", "1").replace("{model}", "m")
    status, body = await h.ask(method.replace("ANY", "GET"), concrete, json=expected.body)
    assert status == expected.status, body
    assert expected.check(body), body


@pytest.mark.parametrize("row", [row for row, state in ROWS.items() if state == "not yet"])
async def test_what_is_not_here_yet_is_404_in_the_form_of_errors(h: House, row: str) -> None:
    method, path = row.split()
    status, body = await h.ask(method, path.replace("{id}", "1"))
    assert (status, body["error"]) == (404, "not_found"), "say in apidocs/compatibility.md what it does now"


async def test_the_proxy_takes_any_method(h: House) -> None:
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
        status, _ = await h.ask(method, "/api/v1/instances/a/proxy/props")
        assert status in (200, 404)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/instances/x", 404),
        ("PUT", "/api/v1/instances/x", 404),
        ("DELETE", "/api/v1/instances/x", 404),
        ("DELETE", "/api/v1/instances/a", 409),
        ("POST", "/api/v1/instances/a", 409),
    ],
)
async def test_errors_have_llamactls_form_and_the_statuses_that_the_table_says(
    h: House, method: str, path: str, status: int
) -> None:
    said, body = await h.ask(method, path, json=OPTIONS)
    assert said == status
    assert is_refusal(body)
