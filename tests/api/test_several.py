"""One request for several instances: what can be done is done, and each of the others says why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.house import House, house, is_alive

BASE = "/api/v1/instances"


@pytest.fixture
async def h(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as running:
        for name, group in (("a", "g"), ("b", "g"), ("c", "")):
            await running.create(name, group=group)
        yield running


async def several(h: House, action: str, **which: Any) -> tuple[int, Any]:
    return await h.ask("POST", f"{BASE}/{action}", json=which)


async def states(h: House) -> str:
    return " ".join(instance["state"] for instance in (await h.ask("GET", BASE))[1])


async def test_a_group_is_started_and_stopped_and_nobody_else(h: House) -> None:
    status, body = await several(h, "start", group="g")
    assert (status, body["succeeded"], body["failed"]) == (200, 2, 0)
    assert [(result["name"], result["http_status"]) for result in body["results"]] == [("a", 200), ("b", 200)]
    for name in "ab":
        await h.until(name, "ready")
    assert await states(h) == "ready ready stopped"
    status, body = await several(h, "stop", group="g")
    assert [result["instance"]["state"] for result in body["results"]] == ["stopped", "stopped"]
    assert not any(map(is_alive, h.spawned("a") + h.spawned("b")))


async def test_all_are_restarted_and_those_that_were_stopped_started(h: House) -> None:
    await h.chat("a")
    pid = (await h.get("a"))["pid"]
    _, body = await several(h, "restart", all=True)
    assert [result["name"] for result in body["results"]] == ["a", "b", "c"]
    for name in "bc":
        await h.until(name, "ready")
    async with asyncio.timeout(10):
        while (await h.get("a")).get("pid", pid) == pid:
            await asyncio.sleep(0.01)


async def test_a_failure_of_one_is_told_with_the_success_of_the_others(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"max_running_instances": 1}) as h:
        for name in "ab":
            await h.create(name, "load-time=60")
        status, body = await several(h, "start", names=["a", "nobody", "b", "a", "../x"])
        assert (status, body["succeeded"], body["failed"]) == (200, 1, 3)
        told = [(result["name"], result["http_status"], result.get("error")) for result in body["results"]]
        assert told == [("a", 200, None), ("nobody", 404, "not_found"), ("b", 503, "no_room"), ("../x", 404, "not_found")]
        assert "a is about to start" in body["results"][2]["details"]
        assert body["results"][2]["instance"]["state"] == "stopped"
        assert "instance" not in body["results"][1]


@pytest.mark.parametrize(
    ("which", "status", "said"),
    [
        ({}, 422, "exactly one of names, group and all; got none"),
        ({"all": False}, 422, "got none"),
        ({"names": ["a"], "all": True}, 422, "got names and all"),
        ({"name": "a"}, 422, "unknown key (did you mean 'names'?)"),
        ({"names": "a"}, 422, "names: expected a list"),
        ({"group": "h"}, 404, "no instance is in a group named 'h'"),
        ({"backend_type": "llama_cpp"}, 400, "cannot be created under that name"),
    ],
)
async def test_who_is_meant_has_to_be_clear(h: House, which: dict[str, Any], status: int, said: str) -> None:
    for action in ("start", "stop", "restart"):
        told, body = await several(h, action, **which)
        assert told == status
        assert said in body["details"]
    assert await states(h) == "stopped stopped stopped"


async def test_none_of_none_is_no_error(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        assert await several(h, "stop", all=True) == (200, {"succeeded": 0, "failed": 0, "results": []})
        assert await several(h, "stop", names=[]) == (200, {"succeeded": 0, "failed": 0, "results": []})


async def test_a_group_limit_swaps_within_the_group(tmp_path: Path) -> None:
    async with house(tmp_path, instances={"group_limits": {"g": 1}}) as h:
        for name, group in (("a", "g"), ("b", "g"), ("c", "")):
            await h.create(name, group=group)
        for name in ("c", "a", "b"):
            assert (await h.chat(name))[0] == 200
        assert await states(h) == "stopped ready ready"
