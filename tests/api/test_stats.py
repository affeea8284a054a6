"""What is told of an instance at work: its process, its requests, and what its whole tree takes of the machine."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamactl_py.launchers import usage
from tests.support.house import House, eventually, house

BASE = "/api/v1/instances"


@pytest.fixture
async def h(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(usage, "FRESH", 0.0)
    async with house(tmp_path) as running:
        yield running


async def stats(h: House, name: str = "a") -> dict[str, Any]:
    status, body = await h.ask("GET", f"{BASE}/{name}/stats")
    assert status == 200, body
    found: dict[str, Any] = body
    return found


async def test_one_at_rest_has_no_process_and_no_figures(h: House) -> None:
    await h.create("a")
    told = await stats(h)
    assert told.keys() == {"name", "status", "state", "since", "restarts", "in_flight"}
    assert "usage" not in (await h.ask("GET", f"{BASE}/a?stats=1"))[1]


async def test_memory_and_processes_are_those_of_the_whole_tree(h: House) -> None:
    await h.create("a", "workers=2 setsid-worker")
    await h.chat("a")
    told = await stats(h)
    pids = h.spawned("a")
    assert len(pids) == 4
    leader = psutil.Process(pids[0]).memory_info().rss
    one = told["usage"]
    assert one["processes"] == 4
    assert leader < one["memory_bytes"] < 10 * leader
    assert one["cpu_seconds"] > 0
    assert "cpu_percent" not in one
    assert (await stats(h))["usage"]["cpu_percent"] >= 0


async def test_a_busy_process_shows(h: House) -> None:
    words = ["sh", "-c", "sh -c 'while :; do :; done' & exec \"$@\"", "x", *h.stub_options("a")["command_override"]]
    await h.create("a", command_override=words)
    await h.chat("a")
    await stats(h)
    begin = time.monotonic()
    await eventually(lambda: time.monotonic() - begin > 0.5)
    assert (await stats(h))["usage"]["cpu_percent"] > 5


async def test_requests_and_moments_are_told(h: House) -> None:
    await h.create("a", "tok-rate=20 tokens=1000")
    before = int(time.time())
    async with h.session.post(f"{h.url}/v1/completions", json={"model": "a", "stream": True}) as stream:
        await stream.content.readline()
        told = await stats(h)
        assert told["in_flight"] == 1
        assert "idle_seconds" not in told
    assert told["uptime_seconds"] > 0
    assert before <= told["last_used"] <= time.time()
    assert before <= told["since"] <= time.time()
    pid = told["pid"]
    os.kill(pid, 9)
    async with asyncio.timeout(10):
        while (told := await stats(h)).get("pid") in (pid, None):
            await asyncio.sleep(0.01)
    assert told["restarts"] == 1
    assert told["last_exit"] | {"last_lines": []} == {
        "code": -9,
        "signal": "SIGKILL",
        "reason": "was ended by signal 9",
        "last_lines": [],
    }


async def test_a_list_has_the_figures_when_they_are_asked_for(h: House) -> None:
    for name in "abc":
        await h.create(name)
    await h.chat("a")
    await h.chat("b")
    _, plain = await h.ask("GET", BASE)
    assert not any("usage" in instance for instance in plain)
    _, listed = await h.ask("GET", f"{BASE}?stats=true")
    assert [instance.get("usage", {}).get("processes") for instance in listed] == [1, 1, None]
    assert (await h.ask("GET", f"{BASE}?stats=perhaps"))[0] == 422


async def test_the_machine_is_not_looked_at_twice_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    real = usage.processes.snapshot

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return real()

    async with house(tmp_path) as h:
        for name in "abc":
            await h.create(name)
            await h.chat(name)
        monkeypatch.setattr(usage, "FRESH", 3600.0)
        monkeypatch.setattr(usage.processes, "snapshot", counted)
        first = await asyncio.gather(*(h.ask("GET", f"{BASE}?stats=1") for _ in range(5)))
        seen = looks
        assert await stats(h)
        told = [[instance["usage"]["cpu_seconds"] for instance in body] for _, body in first]
        assert all(one == told[0] for one in told)
        assert seen <= 1 + 3  # ours, and the daemon's own look at trees each second
