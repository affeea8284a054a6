"""A house for both ways in, and a backend that does as it is told. What depends on how transports behave runs on uvloop, as the
daemon does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.support import puppet
from tests.support.house import House, house

ON_UVLOOP = ("test_front.py", "test_passage.py", "test_tunnel.py")


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Which event loop a test runs on."""
    if item.path.name in ON_UVLOOP:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(params=[True, False], ids=["front", "aiohttp"])
def fast_path(request: pytest.FixtureRequest) -> bool:
    """By which of the two ways narrow requests come in."""
    chosen: bool = request.param
    return chosen


@asynccontextmanager
async def puppets(folder: Path, *names: str, **settings: Any) -> AsyncIterator[House]:
    """A house with running instances that do as each request says."""
    async with house(folder, **settings) as h:
        for name in names or ("a",):
            command = [sys.executable, "-S", "-E", puppet.__file__]
            await h.create(name, command_override=command, restart_delay="0ms", max_restarts=1000, stop_timeout=1)
            await h.ask("POST", f"/api/v1/instances/{name}/start")
            await h.until(name, "ready")
        yield h


def narrow(h: House, *steps: list[Any], head: tuple[str, ...] = (), keep: bool = True, **fields: Any) -> bytes:
    """A request of the narrow form whose backend is to take these *steps*."""
    body = json.dumps({"model": "a", **({"do": steps} if steps else {}), **fields}).encode()
    return posted(h, body, *head, keep=keep)


def posted(h: House, body: bytes, *headers: str, keep: bool = True) -> bytes:
    """A request of the narrow form with this *body*."""
    connection = "Connection: keep-alive" if keep else "Connection: close"
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", connection, *headers)
    return h.head("POST", "/v1/x", *lines) + body
