"""What the ledger is told of true requests, whichever way they come in: each ends once, as what it was."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.test_leaving import FRAME
from tests.support.house import House, eventually, house


@pytest.fixture(params=[True, False], ids=["front", "aiohttp"])
async def h(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """Inference requests take the fast path, or the other one."""
    async with house(tmp_path, server={"fast_path": request.param}) as running:
        yield running


async def get(h: House, path: str) -> Any:
    status, body = await h.ask("GET", path)
    assert status == 200, body
    return body


async def ended(h: House, count: int = 1) -> list[dict[str, Any]]:
    """The newest requests, newest first, as soon as there are *count* and all have ended."""
    async with asyncio.timeout(10):
        while len(told := await get(h, "/api/v1/requests")) < count or not all("outcome" in one for one in told):
            await asyncio.sleep(0.02)
    return list(told)


def chat(h: House, model: str = "a", **fields: Any) -> bytes:
    """A streamed chat as bytes of the form that the fast path takes."""
    body = json.dumps({"model": model, "messages": [], "stream": True, **fields}).encode()
    head = h.head("POST", "/v1/chat/completions", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return head.replace(b"Connection: close\r\n", b"") + body


async def test_an_answered_request_is_accounted_for(h: House) -> None:
    await h.create("a", "load-time=0.2", aliases=["other"])
    assert (await h.chat("a"))[0] == 200
    assert (await h.chat("other", stream=True, stream_options={"include_usage": True}))[0] == 200
    stream, cold = await ended(h, 2)
    assert [(one["outcome"], one["status"], one["key"], one["instance"]) for one in (cold, stream)] == [
        ("answered", 200, "management", "a")
    ] * 2
    assert (cold["model"], cold["streamed"], cold["load_seconds"] >= 0.2) == ("a", False, True)
    assert (stream["model"], stream["streamed"], "load_seconds" in stream) == ("other", True, False)
    for one in (cold, stream):
        assert one["completion_tokens"] == 10
        assert one["bytes_in"] > 0
        assert one["bytes_out"] > 0
        assert 0 <= one["queue_seconds"] < 10
        assert one.get("load_seconds", 0) <= one["first_byte_seconds"] <= one["duration_seconds"]
    total = (await get(h, "/api/v1/usage"))["total"]
    assert (total["requests"], total["in_flight"], total["completion_tokens"]) == (2, 0, 20)


async def test_a_request_that_came_to_nothing_says_why(h: House) -> None:
    await h.create("a", "exit-code=1", auto_restart=False)
    assert (await h.chat("b"))[0] == 404
    assert (await h.chat("a"))[0] == 503
    failed, unknown = await ended(h, 2)
    assert (unknown["outcome"], unknown["status"], unknown["instance"]) == ("refused", 404, "")
    assert (failed["outcome"], failed["status"], failed["instance"]) == ("failed", 503, "a")


@pytest.mark.parametrize(
    "stub", ["tok-rate=5 tokens=1000", "load-time=5", "hang-on-request"], ids=["streaming", "loading", "silent"]
)
async def test_a_client_that_leaves_ends_its_entry(h: House, stub: str) -> None:
    await h.create("a", stub)
    async with h.connection() as (reader, writer):
        writer.write(chat(h))
        if "tok-rate" in stub:
            await reader.readuntil(b"data: ")
        else:
            await eventually(lambda: next(h.daemon.services.ledger.entries(), None))
    (left,) = await ended(h)
    assert (left["outcome"], left.get("status")) == ("left", None)
    assert (await get(h, "/api/v1/usage"))["total"]["in_flight"] == 0


async def test_an_answer_that_breaks_off_is_cut(h: House) -> None:
    await h.create("a", "drop-mid-stream=3")
    for _ in range(2):  # over a new connection, and where the fast path may take one that rested
        assert b"HTTP/1.1 200 OK" in await h.raw(chat(h))
    for one in await ended(h, 2):
        assert (one["outcome"], one["status"], one["streamed"]) == ("cut", 200, True)


async def test_whenever_clients_leave_none_stays_in_flight(h: House) -> None:
    await h.create("a", "tok-rate=200 tokens=20")
    await h.chat("a")
    rng = random.Random(7)

    async def visit() -> None:
        is_whole = rng.random() < 0.8
        patience = rng.choice([0, 0, 0.001, 0.01, 0.05, None]) if is_whole else 0.01
        async with h.connection() as (reader, writer):
            writer.write(chat(h)[: None if is_whole else 300])
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await reader.readuntil(b"[DONE]")
            if rng.random() < 0.5:
                writer.transport.abort()

    for _ in range(5):
        await asyncio.gather(*(visit() for _ in range(40)))
    await ended(h)
    usage = await get(h, "/api/v1/usage")
    assert usage["total"]["in_flight"] == 0
    assert sum(usage["total"]["outcomes"].values()) == usage["total"]["requests"]
    assert {"answered", "left"} <= set(usage["total"]["outcomes"])
    async with asyncio.timeout(10):
        while (await h.get("a"))["in_flight"]:
            await asyncio.sleep(0.02)


SLOW_TO_CLOSE = r"""
    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    connection.sendall(b'data: {{"choices":[],"usage":{{"prompt_tokens":3,"completion_tokens":4}}}}\n\ndata: [DONE]\n\n')
    time.sleep(5)
    connection.close()
"""


async def test_who_goes_with_the_last_event_was_answered(h: House, tmp_path: Path) -> None:
    """OpenAI's clients close at [DONE], whatever would have come behind it."""
    program = tmp_path / "backend.py"
    program.write_text(FRAME.format(post=SLOW_TO_CLOSE.replace("{{", "{").replace("}}", "}")))
    options = {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "/dev/null"},
        "command_override": [sys.executable, "-S", "-E", str(program)],
        "stop_timeout": 1,
    }
    assert (await h.ask("POST", "/api/v1/instances/a", json=options))[0] == 201
    async with asyncio.timeout(10), h.connection() as (reader, writer):
        writer.write(chat(h))
        await reader.readuntil(b"data: [DONE]\n\n")
    (told,) = await ended(h)
    assert (told["outcome"], told["status"], told["prompt_tokens"], told["completion_tokens"]) == ("answered", 200, 3, 4)
    assert told["bytes_out"] > 50


async def test_what_a_client_had_before_it_left_is_counted(h: House) -> None:
    await h.create("a", "tokens=100 tok-rate=20")
    async with asyncio.timeout(10), h.connection() as (reader, writer):
        writer.write(chat(h))
        await reader.readuntil(b"data: ")
    (told,) = await ended(h)
    assert (told["outcome"], told["bytes_out"] > 0) == ("left", True)
