"""The daemon about itself, one model by its name, and llamactl's spellings of paths."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llamactl_py.app import API
from tests.support.house import House, house


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


async def test_it_is_healthy_while_it_answers_and_ready_until_it_ends(h: House) -> None:
    assert await h.ask("GET", "/health") == (200, {"status": "ok"})
    assert await h.ask("GET", "/ready") == (200, {"status": "ready"})
    h.daemon.services.is_closing = True
    assert await h.ask("GET", "/health") == (200, {"status": "ok"})
    async with h.session.get(f"{h.url}/ready") as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")


async def test_the_version_has_llamactls_lines(h: House) -> None:
    _, text = await h.ask("GET", "/api/v1/version")
    assert [line.partition(":")[0] for line in text.splitlines()[:3]] == ["Version", "Commit", "Build Time"]


async def test_there_are_no_nodes(h: House) -> None:
    assert await h.ask("GET", "/api/v1/nodes") == (200, {})
    status, body = await h.ask("GET", "/api/v1/nodes/main")
    assert (status, body["error"]) == (404, "not_found")


async def test_one_model_is_shown_under_each_name_that_requests_may_carry(h: House) -> None:
    await h.create("a", aliases=["org/nick", "it's über"])
    for name in ("a", "org/nick", "org%2Fnick", "it's%20%C3%BCber"):
        status, body = await h.ask("GET", f"/v1/models/{name}")
        assert (status, body["owned_by"], body["object"]) == (200, "a", "model")
    status, body = await h.ask("GET", "/v1/models/nik")
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert [model["id"] for model in (await h.ask("GET", "/v1/models"))[1]["data"]] == ["a", "it's über", "org/nick"]


async def test_a_slash_behind_a_management_path_changes_nothing(h: House) -> None:
    await h.ask("POST", "/api/v1/instances/a/", json=h.stub_options("a"))
    assert (await h.ask("GET", "/api/v1/instances/"))[1] == [await h.get("a")]
    assert (await h.ask("GET", "/api/v1/instances/a/"))[1] == await h.get("a")
    assert (await h.ask("POST", "/api/v1/instances/a/start/"))[0] == 200
    assert (await h.ask("DELETE", "/api/v1/instances/a/?force=1"))[0] == 204
    assert (await h.ask("GET", "/api/v1/instances//"))[0] in (400, 404)


async def test_a_slash_opens_no_door(h: House) -> None:
    for route in API:
        if route.path.startswith("/api/"):
            path = route.openapi_path.replace("{name}", "a").replace("{id}", "1") + "/"
            status, body = await h.ask(route.method, path, headers={"Authorization": "Bearer wrong"})
            assert status == 401, (route.method, path, body)


async def test_what_was_just_made_is_told_with_its_path(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        for path, body, location in (
            ("/api/v1/instances/a", {"backend_type": "mlx_lm"}, "/api/v1/instances/a"),
            ("/api/v1/instances/b/", {"backend_type": "mlx_lm"}, "/api/v1/instances/b"),
            ("/api/v1/auth/keys", {"name": "notebook"}, "/api/v1/auth/keys/1"),
        ):
            async with h.session.post(h.url + path, json=body) as answer:
                assert (answer.status, answer.headers["Location"]) == (201, location)
            assert (await h.ask("GET", location))[0] == 200
