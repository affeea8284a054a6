"""Clients that read slowly, but do read: they get everything, on each way in. The backend sends what no kernel buffer holds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.proxy.test_leaving import FRAME
from tests.support.house import House, house

SIZE = 24 << 20
LARGE = f"""
    connection.sendall(b"HTTP/1.1 200 OK\\\\r\\\\nContent-Length: {SIZE}\\\\r\\\\n\\\\r\\\\n")
    for _ in range({SIZE >> 20}):
        connection.sendall(b"x" * (1 << 20))
""".replace("\\\\", "\\")
BODY = b'{"model":"a"}'


@pytest.fixture(params=["", "1s"], ids=["", "response_timeout"])
async def h(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """One for which a backend must not be silent for a second too: while we do not listen to it, it is not."""
    program = tmp_path / "backend.py"
    program.write_text(FRAME.format(post=LARGE))
    options = {
        "backend_type": "llama_cpp",
        "backend_options": {"model": "/dev/null"},
        "command_override": [sys.executable, "-S", "-E", str(program)],
        "stop_timeout": 1,
    }
    async with house(tmp_path, server={"response_timeout": request.param} if request.param else {}) as running:
        assert (await running.ask("POST", "/api/v1/instances/a", json=options))[0] == 201
        await running.ask("POST", "/api/v1/instances/a/start")
        await running.until("a", "ready")
        yield running


WAYS = {
    "front": ("/v1/chat/completions", ("Content-Type: application/json", f"Content-Length: {len(BODY)}"), BODY),
    "aiohttp": ("/v1/chat/completions?x=1", (f"Content-Length: {len(BODY)}",), BODY),
    "proxy": ("/api/v1/instances/a/proxy/x", (f"Content-Length: {len(BODY)}",), BODY),
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_pause_of_a_reader_costs_it_nothing(h: House, way: str) -> None:
    target, headers, body = WAYS[way]
    async with asyncio.timeout(30), h.connection() as (reader, writer):
        writer.write(h.head("POST", target, *headers) + body)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(2.5)  # the daemon looks around once a second: it must not take the pause for an end
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = 0
        while part := await reader.read(1 << 20):
            got += len(part)
    assert got == SIZE
