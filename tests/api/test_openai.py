"""The one door: which model names lead where, and what clients are told when one leads nowhere, always in OpenAI's shape.

That bytes pass unchanged, and what happens when somebody leaves, is tested in tests/proxy.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.support.house import House, house


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        yield running


def is_openai_shaped(body: Any, kind: str = "invalid_request_error") -> bool:
    error = body["error"]
    return body.keys() == {"error"} and error.keys() == {"message", "type", "param", "code"} and error["type"] == kind


# ---- GET /v1/models


async def test_models_are_instances_and_their_aliases_running_or_not(h: House) -> None:
    assert await h.ask("GET", "/v1/models") == (200, {"object": "list", "data": []})
    created = (await h.create("zed", aliases=["org/nick", "b"], backend_options={"alias": "zed,served"}))["created"]
    await h.create("adam")
    _, body = await h.ask("GET", "/v1/models")
    assert [(model["id"], model["owned_by"]) for model in body["data"]] == [
        ("adam", "adam"),
        ("b", "zed"),
        ("org/nick", "zed"),
        ("served", "zed"),
        ("zed", "zed"),
    ]
    assert body["data"][-1] == {"id": "zed", "object": "model", "created": created, "owned_by": "zed"}


async def test_the_list_follows_every_change(h: House) -> None:
    async def ids() -> list[str]:
        return [model["id"] for model in (await h.ask("GET", "/v1/models"))[1]["data"]]

    await h.create("a", aliases=["x"])
    assert await ids() == ["a", "x"]
    await h.ask("PUT", "/api/v1/instances/a", json=h.stub_options("a", aliases=["y"]))
    assert await ids() == ["a", "y"]
    await h.ask("DELETE", "/api/v1/instances/a")
    assert await ids() == []


# ---- which name leads where


@pytest.mark.parametrize(
    ("model", "forwarded"),
    [
        ("a", "a"),
        ("nick", "a"),
        ("org/nick", "a"),
        ("served", "served"),
        ("a/served", "served"),
    ],
)
async def test_a_name_an_alias_and_a_served_name_lead_to_the_instance(h: House, model: str, forwarded: str) -> None:
    await h.create("a", aliases=["nick", "org/nick"], backend_options={"alias": "a,served"})
    await h.create("b")
    status, body = await h.chat(model)
    assert (status, body["model"]) == (200, forwarded)
    assert len(await h.recorded("a")) == 1
    assert h.spawned("b") == []


async def test_a_router_gets_the_name_behind_the_slash(h: House) -> None:
    await h.create("router", backend_options={"model": None})
    for inner in ("org/model", "m:q4", "größe"):
        status, body = await h.chat(f"router/{inner}")
        assert (status, body["model"]) == (200, inner)


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        ("nobody", "no instance serves the model 'nobody'"),
        ("mistrall", "did you mean 'mistral'?"),
        ("Mistral", "did you mean 'mistral'?"),
        ("mistral/", "does not serve ''"),
        ("mistral/other", "instance 'mistral' does not serve 'other'"),
        ("nobody/mistral", "no instance serves"),
        ("../mistral", "no instance serves"),
        ("mistral ", "no instance serves"),
        ("/", "no instance serves"),
    ],
)
async def test_an_unknown_model_is_404_and_the_nearest_is_told(h: House, model: str, hint: str) -> None:
    await h.create("mistral")
    status, body = await h.chat(model)
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    assert is_openai_shaped(body)
    assert hint in body["error"]["message"]
    assert (await h.get("mistral"))["state"] == "stopped"


JUNK = [
    (b"", "is empty"),
    (b"{}", "has no model"),
    (b'{"model": ""}', "has no model"),
    (b'{"model": null}', "has no model"),
    (b'{"messages": [{"model": "a"}]}', "has no model"),
    (b'{"Model": "a"}', "has no model"),
    (b'{"model": 3}', "must be text"),
    (b'{"model": ["a"]}', "must be text"),
    (b'{"model": {"model": "a"}}', "must be text"),
    (b'{"model": "' + b"a" * 257 + b'"}', "at most 256"),
    (b'{"model": "a\\u0000"}', "printable"),
    (b'{"model": "a\\nb"}', "printable"),
    (b'{"model": "a", "model": "a"}', "more than once"),
    (b'{"model": "a", "x": 1, "model": "b"}', "more than once"),
    (b'{"model": "b", "mo\\u0064el": "a"}', "more than once"),
    (b'{"\\u006dodel": "a", "model": "b"}', "more than once"),
    (b"[]", "must be a JSON object"),
    (b'[{"model": "a"}]', "must be a JSON object"),
    (b'"model"', "must be a JSON object"),
    (b"null", "must be a JSON object"),
    (b"3", "must be a JSON object"),
    (b"{", "not valid JSON"),
    (b'{"model": "a"', "not valid JSON"),
    (b'{"model": "a"} {"model": "b"}', "not valid JSON"),
    (b'{"model": "a",}', "not valid JSON"),
    (b"{'model': 'a'}", "not valid JSON"),
    (b'{"model": "a", "temperature": NaN}', "not valid JSON"),
    (b'{"model": "a", "x": Infinity}', "not valid JSON"),
    (b'{"model": "a", "x": 01}', "not valid JSON"),
    (b'{"model": "a", "x": "\n"}', "not valid JSON"),
    (b'\xef\xbb\xbf{"model": "a"}', "not valid JSON"),
    ('{"model": "a"}'.encode("utf-16"), "not valid JSON"),
    (b'{"model": "\xff"}', "not valid JSON"),
    (b'{"model": "a", "x": "\xff"}', "not valid JSON"),
    (b'{"model": "a", "x": "\xed\xa0\x80"}', "not valid JSON"),
    (b'{"model": "\\ud800"}', "not valid JSON"),
    (b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    (b"model=a&messages=x", "not valid JSON"),
]


async def test_a_body_that_names_no_model_is_400_and_the_daemon_goes_on(h: House) -> None:
    await h.create("a")
    await h.create("b")
    for data, part in JUNK:
        status, body = await h.ask("POST", "/v1/chat/completions", data=data)
        assert (status, body["error"]["code"]) == (400, "invalid_request"), data[:60]
        assert is_openai_shaped(body)
        assert part in body["error"]["message"], (data[:60], body)
    assert h.spawned("a") == h.spawned("b") == []
    assert (await h.chat("a"))[0] == 200


@pytest.mark.parametrize(
    "junk",
    [
        b"\0" * 10_000_000,
        b"x" * 10_000_000,
        b"[" * 10_000_000,
        b'{"model":' * 1_000_000,
        b'{"model": "a", "x": "' + b"\\" * 9_999_999,
        b'{"' + b'a":"' * 2_500_000,
        b'"' * 10_000_000,
    ],
    ids=["nul", "letters", "brackets", "models", "backslashes", "strings", "quotes"],
)
async def test_ten_megabytes_of_junk_are_400_and_others_hardly_notice(h: House, junk: bytes) -> None:
    await h.create("a")
    await h.chat("a")
    slowest = 0.0
    asking = asyncio.ensure_future(h.ask("POST", "/v1/chat/completions", data=io.BytesIO(junk)))
    while not asking.done():
        began = asyncio.get_running_loop().time()
        assert (await h.ask("GET", "/health"))[0] == 200
        slowest = max(slowest, asyncio.get_running_loop().time() - began)
    status, body = await asking
    assert (status, body["error"]["code"]) == (400, "invalid_request")
    assert len(json.dumps(body)) < 1000
    assert slowest < 1.0
    assert (await h.chat("a"))[0] == 200


# ---- other routes and refusals are OpenAI-shaped too


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models/a", 405, "method_not_allowed"),
        ("GET", "/v1", 404, "not_found"),
        ("POST", "/v1", 404, "not_found"),
    ],
)
async def test_a_wrong_method_or_path_is_told_in_the_clients_language(
    h: House, method: str, path: str, status: int, code: str
) -> None:
    said, body = await h.ask(method, path)
    assert (said, body["error"]["code"]) == (status, code)
    assert is_openai_shaped(body)


async def test_a_missing_key_is_told_in_the_clients_language(h: House) -> None:
    status, body = await h.ask("POST", "/v1/chat/completions", headers={"Authorization": "Bearer x"}, json={"model": "a"})
    assert (status, body["error"]["code"]) == (401, "authentication_error")
    assert is_openai_shaped(body, "authentication_error")


async def test_what_a_backend_refuses_is_passed_on_as_it_is(h: House) -> None:
    await h.create("a", "status=429")
    assert await h.chat("a") == (429, {"error": {"message": "as you wished", "type": "stub_error", "code": 429}})


async def test_any_path_below_v1_is_routed_by_its_model(h: House) -> None:
    await h.create("a")
    status, body = await h.ask("POST", "/v1/embeddings", json={"model": "a", "input": ["x", "y"]})
    assert (status, len(body["data"])) == (200, 2)
    assert (await h.ask("POST", "/v1/some/day?x=%20", json={"model": "a"}))[0] == 404
    assert (await h.recorded("a", 2))[-1]["target"] == "/v1/some/day?x=%20"


# ---- waiting


async def test_a_hundred_requests_to_a_cold_model_are_one_start_and_a_hundred_answers(h: House) -> None:
    await h.create("a", "load-time=0.3")
    answers = await asyncio.gather(*(h.chat("a", n=number) for number in range(100)))
    assert {(status, body["model"]) for status, body in answers} == {(200, "a")}
    assert len({body["spawn"] for _, body in answers}) == 1
    assert len(h.spawned("a")) == 1
    assert sorted(json.loads(line["body"])["n"] for line in await h.recorded("a", 100)) == list(range(100))


async def test_an_instance_without_on_demand_start_refuses_and_serves_once_started(h: House) -> None:
    await h.create("a", on_demand_start=False)
    async with h.session.post(f"{h.url}/v1/completions", json={"model": "a"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        body = await answer.json()
        assert body["error"]["code"] == "instance_not_running"
        assert is_openai_shaped(body, "server_error")
    assert h.spawned("a") == []
    await h.ask("POST", "/api/v1/instances/a/start")
    assert (await h.chat("a"))[0] == 200


async def test_a_request_waits_only_so_long_and_the_start_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"on_demand_start_timeout": "200ms"}) as h:
        await h.create("a", "load-time=0.6")
        async with h.session.post(f"{h.url}/v1/completions", json={"model": "a"}) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (504, "5")
            assert is_openai_shaped(await answer.json(), "server_error")
        await h.until("a", "ready")
        assert (await h.chat("a"))[0] == 200
        assert len(h.spawned("a")) == len(await h.recorded("a")) == 1


async def test_a_queue_that_is_full_refuses(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_queued_requests": 3}) as h:
        await h.create("a", "load-time=0.3")
        answers = await asyncio.gather(*(h.chat("a") for _ in range(10)))
        assert sorted(status for status, _ in answers) == [200] * 3 + [503] * 7
        assert {body["error"]["code"] for status, body in answers if status == 503} == {"no_room"}


# ---- the SDK, unmodified


async def test_the_openai_sdk_lists_chats_streams_and_understands_our_errors(h: House) -> None:
    await h.create("a", "tokens=5")
    async with openai.AsyncOpenAI(base_url=f"{h.url}/v1", api_key=h.daemon.management_key, max_retries=0) as client:
        assert [model.id async for model in client.models.list()] == ["a"]
        whole = await client.chat.completions.create(model="a", messages=[{"role": "user", "content": "hi"}])
        assert whole.choices[0].message.content == " one two three four five"
        stream = await client.chat.completions.create(model="a", messages=[{"role": "user", "content": "hi"}], stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == [" one", " two", " three", " four", " five", None]
        with pytest.raises(openai.NotFoundError, match="did you mean 'a'") as unknown:
            await client.completions.create(model="A", prompt="x")
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
    assert len(await h.recorded("a", 2)) == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/chat/completions", "/models", "/models/a", "/audio/transcriptions"])
async def test_who_left_v1_out_of_the_address_is_told_so_in_a_form_that_clients_show(h: House, method: str, path: str) -> None:
    status, body = await h.ask(method, path, **({"json": {"model": "a"}} if method == "POST" else {}))
    assert status == 404
    assert f"did you mean /v1{path}?" in body["error"]["message"]


async def test_what_no_client_asks_for_is_told_without_a_guess(h: House) -> None:
    status, body = await h.ask("GET", "/chat/completions/nothing")
    assert (status, body["error"]) == (404, "not_found")
    assert "did you mean" not in body["details"]
