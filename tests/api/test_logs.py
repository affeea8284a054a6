"""Logs over HTTP: followed across everything that happens to an instance, as text and as events; and as a file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.api import logs as api_logs
from llamactl_py.launchers import local
from tests.support.house import House, eventually, house

BASE = "/api/v1/instances"
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
async def h(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    monkeypatch.setattr(api_logs, "FOLLOW_INTERVAL", 0.01)
    async with house(tmp_path) as running:
        yield running


async def lines(h: House, query: str = "") -> AsyncIterator[str]:
    async with h.session.get(f"{h.url}{BASE}/a/logs?follow=1{query}") as answer:
        assert answer.status == 200
        async for line in answer.content:
            yield line.decode().rstrip("\n")


async def events(h: House, query: str = "") -> AsyncIterator[tuple[str, Any]]:
    """(kind, data) of each; ("", None) is a comment."""
    async with h.session.get(f"{h.url}{BASE}/a/logs?follow=1{query}", headers=EVENTS) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        kind = ""
        async for raw in answer.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)
            elif name == ":":
                yield "", None


def log_file(h: House) -> Path:
    return h.folder / "data" / "logs" / "a.log"


def write(h: House, text: str) -> None:
    with log_file(h).open("a") as file:
        file.write(text)


async def test_a_followed_log_goes_on_when_the_instance_is_started_again(h: House) -> None:
    await h.create("a")
    starts = 0
    async with asyncio.timeout(20), aclosing(lines(h)) as followed:
        for _ in range(3):
            await h.ask("POST", f"{BASE}/a/restart")
            starts += 1
            seen = 0
            while not seen:
                seen += (await anext(followed)).startswith("=== Instance a started")


async def test_followed_lines_are_events_for_those_who_accept_them(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    write(h, "one\r\ntwo, not over")
    async with asyncio.timeout(10), aclosing(events(h, "&lines=1")) as followed:
        assert await anext(followed) == ("log", {"line": "one"})
        write(h, " yet: now\nüber\n")
        assert await anext(followed) == ("log", {"line": "two, not over yet: now"})
        assert await anext(followed) == ("log", {"line": "über"})


async def test_events_beat_while_there_is_nothing_to_tell_and_end_with_the_instance(
    h: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_logs, "HEARTBEAT", 0.05)
    await h.create("a")
    async with asyncio.timeout(10), aclosing(events(h)) as followed:
        assert await anext(followed) == ("", None)
        await h.ask("DELETE", f"{BASE}/a")
        told = [event async for event in followed]
        assert told[-1][0] == "end"


async def test_a_line_without_an_end_is_told_in_parts(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    async with asyncio.timeout(10), aclosing(events(h, "&lines=1")) as followed:
        await anext(followed)
        write(h, "x" * 200_000)
        _, data = await anext(followed)
        assert 60_000 < len(data["line"]) < 200_000


async def test_a_reader_that_does_not_read_costs_no_memory(h: House) -> None:
    await h.create("a")
    await h.chat("a")
    async with h.connection() as (_, writer):
        writer.write(h.head("GET", f"{BASE}/a/logs?follow=1"))
        await eventually(lambda: h.daemon.services.watchers)
        pieces = 0
        real = api_logs.asyncio.to_thread

        async def counted(work: Any, *arguments: Any, **named: Any) -> Any:
            nonlocal pieces
            pieces += getattr(work, "__name__", "") == "read"
            return await real(work, *arguments, **named)

        api_logs.asyncio.to_thread = counted
        try:
            write(h, "x" * 99 + "\n" * (1 << 26))
            before = -1
            while pieces != before:  # until it stands still: the sockets' buffers are full
                before = pieces
                await asyncio.sleep(0.3)
            assert 0 < pieces < (1 << 26) // (1 << 16)
        finally:
            api_logs.asyncio.to_thread = real
    await eventually(lambda: h.daemon.services.watchers == 0)


async def test_only_so_many_may_follow_and_who_leaves_makes_room(tmp_path: Path) -> None:
    async with house(tmp_path, server={"max_watchers": 1}) as h:
        await h.create("a")
        async with h.session.get(f"{h.url}{BASE}/a/logs?follow=1") as first:
            assert first.status == 200
            async with h.session.get(f"{h.url}{BASE}/a/logs?follow=1") as second:
                assert (second.status, second.headers["Retry-After"]) == (503, "5")
                assert "server.max_watchers is 1" in (await second.json())["details"]
            assert (await h.ask("GET", f"{BASE}/a/logs"))[0] == 200
        await eventually(lambda: h.daemon.services.watchers == 0)
        async with h.session.get(f"{h.url}{BASE}/a/logs?follow=1") as again:
            assert again.status == 200


async def test_only_what_was_written_since_the_last_start(h: House) -> None:
    await h.create("a")
    for _ in range(2):
        await h.chat("a")
        await h.ask("POST", f"{BASE}/a/stop")
    _, everything = await h.ask("GET", f"{BASE}/a/logs")
    _, newest = await h.ask("GET", f"{BASE}/a/logs?since=start")
    assert everything.count("=== Instance a started") == 2
    assert newest.startswith("=== Instance a started")
    assert everything.endswith(newest)
    assert newest.count("=== Instance a started") == 1
    assert (await h.ask("GET", f"{BASE}/a/logs?since=start&lines=1"))[1] == newest.splitlines()[-1]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("stream=stdout", "'stdout' is not kept apart"),
        ("stream=stderr", "'stderr' is not kept apart"),
        ("stream=both", "'both' is not 'all'"),
        ("since=10m", "'10m' is not 'start'"),
        ("download=x", "neither true nor false"),
    ],
)
async def test_what_cannot_be_told_is_refused_with_the_reason(h: House, query: str, said: str) -> None:
    await h.create("a")
    status, body = await h.ask("GET", f"{BASE}/a/logs?{query}")
    assert (status, body["problems"][0]["field"]) == (422, query.partition("=")[0])
    assert said in body["details"]
    assert (await h.ask("GET", f"{BASE}/a/logs?stream=all"))[0] == 200


async def test_a_download_is_all_that_is_kept_the_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAINTENANCE_INTERVAL", 0.01)
    async with house(tmp_path, instances={"log_rotation_max_size": 0.05, "log_rotation_backups": 2}) as h:
        await h.create("a", "spew=200000 spew-total=150000")
        await h.chat("a")
        await eventually(lambda: (h.folder / "data" / "logs" / "a.log.2").exists())
        await h.ask("POST", f"{BASE}/a/stop")
        kept = b"".join(log_file(h).with_name(name).read_bytes() for name in ("a.log.2", "a.log.1", "a.log"))
        async with h.session.get(f"{h.url}{BASE}/a/logs?download=1") as answer:
            assert answer.headers["Content-Disposition"] == 'attachment; filename="a.log"'
            assert await answer.read() == kept


async def test_a_download_of_one_that_never_ran_is_empty(h: House) -> None:
    await h.create("a")
    async with h.session.get(f"{h.url}{BASE}/a/logs?download=1") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_followers_do_not_keep_the_daemon_from_ending(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.create("a")
        await h.chat("a")
        async with h.connection() as (reader, writer):
            writer.write(h.head("GET", f"{BASE}/a/logs?follow=1", "Accept: text/event-stream"))
            await eventually(lambda: h.daemon.services.watchers)
            await reader.readuntil(b"event: log")
            began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
