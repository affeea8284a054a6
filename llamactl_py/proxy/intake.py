"""The rest of a large body on its way into the place where it will be used: no piece of it is copied twice."""

from __future__ import annotations

import asyncio
from typing import Protocol

ROOM = bytes(1 << 18)
"""So much is made ready at a time, at most."""
LEAST_ROOM = 1 << 14
"""And at least: beyond it never more than is there already, so a client that only says that its body is large gets no memory for
saying so."""


class Owner(Protocol):
    """Whose connection it is."""

    def holds(self, size: int) -> bool:
        """*size* bytes more are there; False if that is too much, and the transport has another protocol already."""

    def whole(self, body: bytearray) -> None:
        """The body is there; the transport is to get another protocol."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left."""


class Intake(asyncio.BufferedProtocol):
    """Takes the place of its owner as the transport's protocol until *length* bytes are there; *first* came before."""

    def __init__(self, owner: Owner, transport: asyncio.Transport, first: bytes, length: int) -> None:
        self._owner, self._at, self._length = owner, len(first), length
        self._body = bytearray(first)
        transport.set_protocol(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._at == len(self._body):
            self._body += ROOM[: min(self._length - self._at, max(self._at, LEAST_ROOM))]
        return memoryview(self._body)[self._at :]

    def buffer_updated(self, nbytes: int) -> None:
        self._at += nbytes
        if self._owner.holds(nbytes) and self._at == self._length:
            self._owner.whole(self._body)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)
