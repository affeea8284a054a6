"""Native routes of llama.cpp's server: which start it, which do not, and what reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.house import House, eventually, house

BASE = "/api/v1/instances"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        await running.create("a")
        yield running


@pytest.mark.parametrize("path", ["/props", "/props?x=1"])
async def test_asking_for_properties_starts_a_stopped_one(h: House, path: str) -> None:
    status, body = await h.ask("GET", f"/llama-cpp/a{path}")
    assert (status, body["model_path"]) == (200, "/dev/null")


@pytest.mark.parametrize("path", ["/", "/health", "/metrics"])
async def test_what_monitors_and_browsers_ask_for_starts_nothing(h: House, path: str) -> None:
    status, body = await h.ask("GET", f"/llama-cpp/a{path}")
    assert (status, body["error"]) == (503, "instance_not_running")
    assert h.spawned("a") == []


async def test_the_page_is_shown_while_it_is_up(h: House) -> None:
    await h.chat("a")
    assert await h.ask("GET", "/llama-cpp/a/") == (200, {"page": True})


async def test_a_native_call_starts_it_and_reaches_it_as_it_was_sent(h: House) -> None:
    for path in ("/tokenize", "/apply-template", "/infill?x=%20", "/metrics"):
        await h.ask("POST", f"/llama-cpp/a{path}", data=b'{"content": "no model"}')
    await h.ask("POST", "/llama-cpp/%61/completion", data=b"{}")
    targets = [line["target"] for line in await h.recorded("a", 5)]
    assert targets == ["/tokenize", "/apply-template", "/infill?x=%20", "/metrics", "/completion"]


async def test_openai_routes_of_one_instance_need_no_model(h: House) -> None:
    status, body = await h.ask("POST", "/llama-cpp/a/v1/chat/completions", json={"messages": []})
    assert (status, body["object"]) == (200, "chat.completion")


async def test_only_what_is_listed_is_passed_on(h: House) -> None:
    for method, path in (("GET", "/tokenize"), ("POST", "/slots"), ("POST", "/models/load"), ("GET", "/x"), ("DELETE", "/props")):
        assert (await h.ask(method, f"/llama-cpp/a{path}"))[0] in (404, 405), path
    assert h.spawned("a") == []


async def test_others_have_no_native_routes(h: House) -> None:
    await h.ask("POST", f"{BASE}/m", json={"backend_type": "mlx_lm"})
    for path in ("/llama-cpp/m/props", "/api/v1/llama-cpp/m/models"):
        status, body = await h.ask("GET", path)
        assert (status, body["error"]) == (404, "not_found")
        assert "of type 'mlx_lm'" in body["details"]
    assert (await h.ask("GET", "/llama-cpp/nobody/props"))[0] == 404
    assert (await h.ask("GET", "/llama-cpp/..%2f/props"))[0] == 400


async def test_models_are_listed_by_the_server_itself(h: House) -> None:
    status, body = await h.ask("GET", "/api/v1/llama-cpp/a/models")
    assert (status, [model["id"] for model in body["data"]]) == (200, ["a"])


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_a_model_is_named_by_the_path_or_by_the_body(h: House, action: str) -> None:
    path = f"/api/v1/llama-cpp/a/models/org/model:Q4/{action}"
    await h.ask("POST", path)
    await h.ask("POST", path, json={"model": "other"})
    recorded = await h.recorded("a", 2)
    assert [line["target"] for line in recorded] == [f"/models/{action}"] * 2
    assert ["org/model:Q4" in str(line["body"]) for line in recorded] == [True, False]


async def test_reading_does_not_keep_it_awake_and_calling_does(h: House) -> None:
    await h.create("b", idle_timeout="300ms")
    await h.ask("POST", "/llama-cpp/b/tokenize")
    used = (await h.get("b"))["last_used"]
    await h.ask("GET", "/llama-cpp/b/props")
    assert (await h.get("b"))["last_used"] == used
    await eventually(lambda: h.daemon.services.fleet.get("b").state == "stopped")
