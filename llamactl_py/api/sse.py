"""Answers that do not end by themselves: plain text that grows, and server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from llamactl_py.ground.errors import TooManyWatchers
from llamactl_py.services import Services

HEARTBEAT = 15.0
"""Seconds of silence after which a comment is sent: proxies end what is silent, and a client that has gone is noticed."""
EVENT_STREAM = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""The second one asks nginx to pass on what comes at once."""


class EventStream:
    """Server-sent events to one client. Several tasks may send: an event is never torn apart by another."""

    def __init__(self, patience: float | None = None) -> None:
        """*patience*: seconds for which a client may not read, before its connection is cut; None waits for ever."""
        self._patience = patience
        self._request: web.Request | None = None
        self.response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, **HEADERS})
        self._writing = asyncio.Lock()

    async def open(self, request: web.Request) -> None:
        self._request = request
        await self.response.prepare(request)

    async def send(self, kind: str, data: Any, id_: str = "") -> None:
        """One event with JSON *data*. Waits while the client does not read."""
        head = f"id: {id_}\nevent: {kind}\n" if id_ else f"event: {kind}\n"
        await self._write(head.encode() + b"data: " + msgspec.json.encode(data) + b"\n\n")

    async def beat(self) -> None:
        """A comment: something to read where there is nothing to tell."""
        await self._write(b":\n\n")

    async def _write(self, data: bytes) -> None:
        try:
            async with asyncio.timeout(self._patience), self._writing:
                await self.response.write(data)
        except TimeoutError:
            if self._request and self._request.transport:
                self._request.transport.abort()
            raise ConnectionResetError("the client did not read for too long") from None


def wants_events(request: web.Request) -> bool:
    """Does the client ask for server-sent events?"""
    return EVENT_STREAM in request.headers.get("Accept", "")


@contextmanager
def watching(services: Services) -> Iterator[None]:
    """One of the `server.max_watchers` for the length of the block. Raises TooManyWatchers."""
    most = services.settings.server.max_watchers
    if services.watchers >= most:
        raise TooManyWatchers(f"{services.watchers} clients follow events and logs already, and server.max_watchers is {most}")
    services.watchers += 1
    try:
        yield
    finally:
        services.watchers -= 1
