"""After `101 Switching Protocols` two connections become one, and what is said on it is no business of ours (WebSocket)."""

from __future__ import annotations

import asyncio
from typing import Protocol

from llamactl_py.ground.waiting import first_of
from llamactl_py.proxy.client import Client, has_left
from llamactl_py.proxy.exchange import HIGH_WATER

TICK = 1.0
"""Seconds between looks for a client that has left: while its backend reads nothing neither do we, and nobody hears it."""


class Listener(Protocol):
    """A client whose next bytes are no requests."""

    def listen(self, hear: asyncio.Protocol) -> None:
        """Give all that it sends from now on to `data_received` of *hear*."""


class Ear(asyncio.Protocol):
    """What the client says, to be said to the backend."""

    def __init__(self, client: asyncio.Transport, backend: asyncio.Transport) -> None:
        self._client, self._backend = client, backend

    def data_received(self, data: bytes) -> None:
        if not self._backend.is_closing():
            self._backend.write(data)


class Mouth(asyncio.Protocol):
    """What the backend says, to be said to the client. It is the protocol of the backend's connection."""

    def __init__(self, client: asyncio.Transport, backend: asyncio.Transport) -> None:
        self.told = asyncio.Event()
        """Something is to be decided: it is over, or the client reads too slowly."""
        self.is_over = backend.is_closing()
        self.is_full = False
        self.sent = 0
        self._client, self._backend = client, backend
        if not self.is_over:
            backend.set_write_buffer_limits(HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self.sent += len(data)
        self._client.write(data)
        if self._client.get_write_buffer_size() > HIGH_WATER and not self.is_full and not self.is_over:
            self.is_full = True
            self._backend.pause_reading()
            self.told.set()

    def pause_writing(self) -> None:
        self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        self.told.set()


async def tunnel(client: Client, listener: Listener, backend: asyncio.Transport, first: bytes) -> int:
    """Pass bytes both ways until an end is closed; gives how many the client got. *first*: what it is to get before all others.

    Slow readers hold up their writers. Cancelling it (the client has left) closes the backend's connection.
    """
    transport = client.transport
    if transport is None:
        raise ConnectionResetError("the client has left")
    mouth = Mouth(transport, backend)
    backend.set_protocol(mouth)
    mouth.data_received(first)
    listener.listen(Ear(transport, backend))
    try:
        while not mouth.is_over:
            waits = {"drained": client.drained()} if mouth.is_full else {}
            done = await first_of(told=mouth.told.wait(), tick=asyncio.sleep(TICK), **waits)
            mouth.told.clear()
            if "drained" in done and not mouth.is_over:
                mouth.is_full = False
                backend.resume_reading()
            if "tick" in done and has_left(transport):
                raise ConnectionResetError("the client has left")
    finally:
        backend.abort()
    return mouth.sent
