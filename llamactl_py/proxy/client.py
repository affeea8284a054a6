"""Whom an answer goes to, as far as the proxy has to know: a connection that is written to, and may be gone at any moment."""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from typing import Protocol


class Client(Protocol):
    """One client's connection, at the time of one request."""

    speaks_11: bool
    """HTTP/1.1: it understands chunks."""
    keeps_alive: bool
    """It may send another request on this connection."""
    is_head: bool
    """It asked for a head without a body."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """Where its answer is written; None when it has left."""

    async def drained(self) -> None:
        """Until it has read most of what was written. Raises ConnectionError when it has left."""


def has_left(transport: asyncio.Transport | None) -> bool:
    """Has the client hung up, perhaps behind bytes that nobody has read yet (requests that it sent ahead)?"""
    sock = transport.get_extra_info("socket") if transport else None
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))  # macOS tells of a full close only
    return bool(poll.poll(0))


def cut_off(client: Client) -> None:
    """Close the client's connection so that its answer looks cut. Where chunks or a length say how much is missing, closing is
    enough; to an HTTP/1.0 client the end of the connection is the end of the answer, and only a reset says otherwise."""
    if (transport := client.transport) is None:
        return
    if not client.speaks_11 and (sock := transport.get_extra_info("socket")):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
