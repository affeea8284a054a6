"""What a key with a scope may do with models: on every way in, and without learning anything of what it may not use.

`h.key(...)` makes a key; `ask` sends a chat with it by one of the WAYS: past the web framework, through it, with a large body,
or as a form.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yarl

from tests.support.house import House, eventually, house

WAYS = ("front", "aiohttp", "large", "form")


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path, instances={"on_demand_start_timeout": 10}) as running:
        yield running


async def key_for(h: House, name: str = "guest", **fields: Any) -> str:
    status, made = await h.ask("POST", "/api/v1/auth/keys", json={"name": name, **fields})
    assert status == 201, made
    key: str = made["key"]
    return key


async def ask(h: House, key: str, model: str, way: str = "front") -> tuple[int, Any, dict[str, str]]:
    """(status, body, headers)"""
    headers = {"Authorization": f"Bearer {key}"}
    padding = "x" * (1 << 19) if way == "large" else "x"
    data: Any = json.dumps({"model": model, "messages": [{"role": "user", "content": padding}]}).encode()
    path = "/v1/chat/completions"
    if way == "form":
        data, path = aiohttp.FormData({"model": model, "file": "x"}, default_to_multipart=True), "/v1/audio/transcriptions"
    else:
        headers["Content-Type"] = "application/json"
    if way == "aiohttp":
        headers["TE"] = "trailers"  # makes it no business of the front
    async with h.session.post(h.url + path, data=data, headers=headers) as answer:
        text = await answer.text()
        return answer.status, json.loads(text) if answer.content_type == "application/json" else text, dict(answer.headers)


async def models(h: House, key: str) -> list[str]:
    headers = {"Authorization": f"Bearer {key}"}
    return [model["id"] for model in (await h.ask("GET", "/v1/models", headers=headers))[1]["data"]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_up", [True, False])
async def test_a_key_opens_its_instances_and_no_others_whichever_way_it_comes(h: House, way: str, is_up: bool) -> None:
    for name in ("mine", "other"):
        await h.create(name, aliases=[f"{name}-alias"], group=f"{name}-group")
        if is_up:
            await h.ask("POST", f"/api/v1/instances/{name}/start")
            await h.until(name, "ready")
    reached = 404 if way == "form" else 200  # the stub has no such path: it got there
    for key in (await key_for(h, instances=["mine"]), await key_for(h, groups=["mine-group"])):
        for model in ("mine", "mine-alias"):
            assert (await ask(h, key, model, way))[0] == reached, model
        for model in ("other", "other-alias", "other/x", "other/", "nothing", "Mine", "mine ", "../mine", "other/../mine"):
            status, body, _ = await ask(h, key, model, way)
            assert (status, body["error"]["code"], body["error"]["type"]) == (403, "permission_denied", "permission_error"), model
            assert repr(model) in body["error"]["message"]
    assert h.requests("other") == []
    assert (await h.get("other"))["state"] == ("ready" if is_up else "stopped")


@pytest.mark.parametrize("way", WAYS)
async def test_what_is_forbidden_is_told_as_what_does_not_exist(h: House, way: str) -> None:
    for name, alias in (("mine", "cheap"), ("hidden", "strong")):
        await h.create(name, aliases=[alias])
    key = await key_for(h, instances=["mine"])
    told = []
    for model in ("hidden", "hiddem", "strong", "stromg", "hidden/model", "hiddem/model"):
        status, body, headers = await ask(h, key, model, way)
        told.append((status, json.dumps(body).replace(model, "MODEL"), *sorted(headers)))
    assert set(told) == {told[0]}
    message = (await ask(h, key, "mime", way))[1]["error"]["message"]
    assert "(did you mean 'mine'?)" in message
    assert "hidden" not in message


async def test_the_list_of_models_is_what_the_key_may_use(h: House) -> None:
    await h.create("a", aliases=["one"], group="g")
    await h.create("b", aliases=["two"])
    assert await models(h, await key_for(h)) == ["a", "b", "one", "two"]
    assert await models(h, h.daemon.management_key) == ["a", "b", "one", "two"]
    assert await models(h, await key_for(h, instances=["b"])) == ["b", "two"]
    assert await models(h, await key_for(h, groups=["g"])) == ["a", "one"]
    assert await models(h, await key_for(h, groups=["none"])) == []


async def test_an_instance_that_joins_a_group_is_open_at_once_and_closed_when_it_leaves(h: House) -> None:
    await h.create("a")
    key = await key_for(h, groups=["g"])
    for group, status in (("", 403), ("g", 200), ("", 403)):
        await h.ask("PUT", "/api/v1/instances/a", json=h.stub_options("a", group=group))
        assert (await ask(h, key, "a"))[0] == status


async def test_what_it_may_use_tells_which_models_it_serves(h: House) -> None:
    await h.create("a")
    status, body, _ = await ask(h, await key_for(h, instances=["a"]), "a/other")
    assert status in (200, 404), body
    assert status == (await ask(h, h.daemon.management_key, "a/other"))[0]


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_that_may_not_start_is_answered_by_what_is_up(h: House, way: str) -> None:
    await h.create("a")
    key = await key_for(h, may_start=False)
    status, body, headers = await ask(h, key, "a", way)
    assert (status, body["error"]["code"]) == (503, "instance_not_running")
    assert "Retry-After" in headers
    assert (await h.get("a"))["state"] == "stopped"
    await h.ask("POST", "/api/v1/instances/a/start")
    assert (await ask(h, key, "a", way))[0] == (404 if way == "form" else 200)  # also while it is starting


@pytest.mark.parametrize("way", WAYS)
async def test_a_key_that_may_not_evict_waits_for_room(tmp_path: Path, way: str) -> None:
    limits = {"max_running_instances": 1, "on_demand_start_timeout": 0.5}
    async with house(tmp_path, instances=limits) as h:
        for name in ("secret-a", "b"):
            await h.create(name)
        assert (await h.chat("secret-a"))[0] == 200
        modest, scoped = await key_for(h, may_evict=False), await key_for(h, may_evict=False, instances=["b"])
        status, body, _ = await ask(h, modest, "b", way)
        assert (status, body["error"]["code"]) == (503, "no_room")
        assert "none may be evicted for it" in body["error"]["message"]
        status, body, headers = await ask(h, scoped, "b", way)
        assert (status, body["error"]["code"], "Retry-After" in headers) == (503, "no_room", True)
        assert "secret" not in json.dumps(body)
        assert (await h.get("secret-a"))["state"] == "ready"
        assert (await ask(h, await key_for(h, instances=["b"]), "b", way))[0] == (404 if way == "form" else 200)
        assert (await h.get("secret-a"))["state"] == "stopped"


async def test_why_there_is_no_room_is_told_to_those_who_may_see_the_others(tmp_path: Path) -> None:
    limits = {"max_running_instances": 1, "on_demand_start_timeout": 0.5}
    async with house(tmp_path, instances=limits) as h:
        await h.create("pinned", idle_timeout=0)
        await h.create("b")
        assert (await h.chat("pinned"))[0] == 200
        assert "pinned" in (await ask(h, await key_for(h), "b"))[1]["error"]["message"]
        assert "pinned" not in json.dumps((await ask(h, await key_for(h, instances=["b"]), "b"))[1])


async def test_a_revoked_key_is_refused_on_a_connection_that_it_has_used(h: House) -> None:
    await h.create("a")
    key = await key_for(h)
    head = h.head("POST", "/v1/chat/completions", f"Authorization: Bearer {key}", "Content-Type: application/json")
    body = b'{"model": "a", "messages": []}'
    request = (
        head.replace(b"Connection: close\r\n", b"").replace(b"\r\n\r\n", b"\r\nContent-Length: %d\r\n\r\n" % len(body)) + body
    )
    async with h.connection() as (reader, writer), asyncio.timeout(20):
        statuses = []
        for step in ("use", "narrow", "revoke"):
            writer.write(request)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            statuses.append(lines[0].split()[1])
            length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            await reader.readexactly(length)
            if step == "use":
                await h.ask("PATCH", "/api/v1/auth/keys/1", json={"groups": ["none"]})
            elif step == "narrow":
                await h.ask("DELETE", "/api/v1/auth/keys/1")
    assert statuses == ["200", "403", "401"]


async def test_who_waits_for_a_start_is_served_though_the_key_is_revoked_meanwhile(h: House) -> None:
    await h.create("a", stub="load-time=0.5")
    key = await key_for(h)
    waiting = asyncio.ensure_future(ask(h, key, "a"))
    await h.until("a", "starting")
    assert (await h.ask("DELETE", "/api/v1/auth/keys/1"))[0] == 204
    assert (await waiting)[0] == 200
    assert (await ask(h, key, "a"))[0] == 401


async def test_a_key_for_some_keeps_its_limits_where_no_key_is_asked_for(tmp_path: Path) -> None:
    async with house(tmp_path, auth={"require_inference_auth": False}) as h:
        await h.create("a")
        await h.create("b")
        key = await key_for(h, instances=["a"])
        assert [(await ask(h, key, name))[0] for name in ("a", "b")] == [200, 403]
        assert [(await ask(h, "wrong", name))[0] for name in ("a", "b")] == [200, 200]


async def test_refusals_are_in_the_ledger_with_the_name_of_the_key(h: House) -> None:
    await h.create("a")
    await ask(h, await key_for(h, "nosy", groups=["g"]), "a")
    (entry,) = (await h.ask("GET", "/api/v1/requests?key=nosy"))[1]
    assert (entry["status"], entry["outcome"], entry["instance"]) == (403, "refused", "")
    assert (await eventually(lambda: h.daemon.services.keys.all()[0].last_used_at)) is not None


async def test_native_routes_and_one_model_are_for_those_who_may_use_the_instance(h: House) -> None:
    for name in ("mine", "hidden"):
        await h.create(name)
        await h.ask("POST", f"/api/v1/instances/{name}/start")
        await h.until(name, "ready")
    headers = {"Authorization": f"Bearer {await key_for(h, instances=['mine'])}"}
    chat = {"model": "hidden", "messages": []}
    for method, path in (
        ("GET", "/v1/models/{}"),
        ("GET", "/llama-cpp/{}/props"),
        ("GET", "/llama-cpp/{}/"),
        ("POST", "/llama-cpp/{}/v1/chat/completions"),
        ("POST", "/llama-cpp/{}/completion"),
    ):
        mine = (await h.ask(method, path.format("mine"), headers=headers, json=chat if method == "POST" else None))[0]
        assert mine in (200, 404)
        told = []
        for name in ("hidden", "hiddem", "mine/../hidden", "%68idden"):
            asked = yarl.URL(h.url + path.format(name), encoded=True)
            async with h.session.request(method, asked, headers=headers, json=chat if method == "POST" else None) as answer:
                told.append((answer.status, "hidden" in await answer.text()))
        assert told[:2] == [(403, True), (403, False)], path
        assert all(status in (400, 403, 404) for status, _ in told), (path, told)
    assert h.requests("hidden") == []


async def test_a_key_that_may_not_start_starts_nothing_by_a_native_route(h: House) -> None:
    await h.create("a")
    headers = {"Authorization": f"Bearer {await key_for(h, may_start=False)}"}
    for path in ("/llama-cpp/a/v1/chat/completions", "/llama-cpp/a/completion"):
        assert (await h.ask("POST", path, headers=headers, json={}))[0] == 503
    assert (await h.get("a"))["state"] == "stopped"
