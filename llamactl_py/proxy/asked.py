"""A client whose request aiohttp has read, and whose answer goes past aiohttp."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, cast

from aiohttp import HttpVersion11, web

from llamactl_py.proxy.heads import forwarded
from llamactl_py.proxy.relay import Question, Relayed
from llamactl_py.proxy.upstream import Body


class Asked:
    """The client of one aiohttp request (a `Client`). When it leaves, aiohttp cancels the handler."""

    def __init__(self, request: web.Request) -> None:
        self.speaks_11 = request.version >= HttpVersion11
        self.is_head = request.method == "HEAD"
        self.wants_upgrade = _asks_for_websocket(request)
        self.keeps_alive = bool(request.keep_alive) and not self.wants_upgrade
        self._request = request
        self._draining: asyncio.Future[None] | None = None

    @property
    def transport(self) -> asyncio.Transport | None:
        return self._request.transport

    async def drained(self) -> None:
        """Until the client has read most of what was written, or left. aiohttp has one future for all who wait for that: whoever
        is cancelled while it waits must not take the future with it."""
        if self._draining is None or self._draining.done():
            self._draining = asyncio.ensure_future(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        with suppress(ConnectionError):  # then the handler is cancelled
            await self._request.writer.drain()

    def listen(self, hear: asyncio.Protocol) -> None:
        self._request.protocol.set_parser(cast(Any, _Rest(hear)))

    def question(self, path: str, body: Body, may_upgrade: bool = False) -> Question:
        """The request, to *path* (raw, with query) and with *body*."""
        listener = self if may_upgrade and self.wants_upgrade else None
        return Question(self._request.method, path, forwarded(self._request.raw_headers), body, listener)


def _asks_for_websocket(request: web.Request) -> bool:
    """Does it ask for another protocol, and in so many words (RFC 6455, section 4.1)?"""
    words = [word.strip() for word in request.headers.get("Connection", "").lower().split(",")]
    is_plain = request.method == "GET" and request.version == HttpVersion11 and not request.body_exists
    return is_plain and "upgrade" in words and request.headers.get("Upgrade", "").lower() == "websocket"


class _Rest:
    """What aiohttp calls a payload parser: it gets every byte behind a request with Upgrade."""

    def __init__(self, hear: asyncio.Protocol) -> None:
        self._hear = hear

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._hear.data_received(data)
        return False, b""

    def feed_eof(self) -> None:
        """The client has left; the handler is cancelled for it."""


class AlreadySent(web.StreamResponse):
    """Tells aiohttp that the answer has gone out."""

    def __init__(self, relayed: Relayed) -> None:
        super().__init__(status=relayed.status)
        self._sent = relayed.sent
        self._keep_alive = relayed.stays_open

    @property
    def prepared(self) -> bool:
        return True

    @property
    def body_length(self) -> int:
        return self._sent

    async def prepare(self, request: web.BaseRequest) -> None:
        """Until the client has read most of the answer: who reads nothing need not be given the next one too."""
        await request.writer.drain()

    async def write_eof(self, data: bytes = b"") -> None:
        return None
