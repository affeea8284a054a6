"""Reads request bodies: whole, within the limits of one and of all together, and large uploads into a file."""

from __future__ import annotations

import asyncio
import mmap
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from llamactl_py.ground.errors import BadRequest, TooLarge
from llamactl_py.proxy.multipart import Buffer
from llamactl_py.services import Services

HELD: web.RequestKey[int] = web.RequestKey("held", int)
"""Bytes of its body that a request holds; `give_back` when it is answered."""


async def read_body(services: Services, request: web.Request) -> bytes:
    """The whole request body. Raises TooLarge, NoRoom, and BadRequest when it does not come in time or is broken."""
    limit = services.settings.server.max_body_size
    too_large = TooLarge(f"the request body is over {limit} bytes (server.max_body_size)")
    parts = []
    async for part in _pieces(services, request, limit, too_large):
        _hold(services, request, len(part))
        parts.append(part)
    return b"".join(parts) if len(parts) != 1 else parts[0]


async def read_small(services: Services, request: web.Request, limit: int, too_large: TooLarge) -> bytes:
    """A body of at most *limit* bytes, for which there is always room. Raises *too_large*, and BadRequest as `read_body` does."""
    parts = [part async for part in _pieces(services, request, limit, too_large)]
    return b"".join(parts) if len(parts) != 1 else parts[0]


def _hold(services: Services, request: web.Request, size: int) -> None:
    services.bodies.take(size)
    request[HELD] = request.get(HELD, 0) + size


def give_back(services: Services, request: web.Request) -> None:
    """The request is answered: its body takes no memory any more."""
    if HELD in request:
        services.bodies.give_back(request.pop(HELD))


@asynccontextmanager
async def read_upload(services: Services, request: web.Request) -> AsyncIterator[Buffer]:
    """The whole request body for the length of the block, in an unnamed file where it is over server.spool_size. Raises what
    `read_body` does."""
    most = services.settings.server.spool_size
    with tempfile.TemporaryFile(prefix="llamactl-upload-") as file:
        memory = bytearray()
        spooled = 0
        limit = services.settings.server.max_body_size
        too_large = TooLarge(f"the request body is over {limit} bytes (server.max_body_size)")
        async for part in _pieces(services, request, limit, too_large):
            _hold(services, request, len(part))
            memory += part
            if spooled or len(memory) > most:
                spooled += await asyncio.to_thread(file.write, bytes(memory))
                memory.clear()
                give_back(services, request)
        if not spooled:
            yield memory
            return
        await asyncio.to_thread(file.flush)
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        yield mapped  # closed when the last piece of it is written: a connection may hold one longer than this block


async def _pieces(services: Services, request: web.Request, limit: int, too_large: TooLarge) -> AsyncIterator[bytes]:
    seconds, size = services.settings.server.body_timeout, 0
    if (request.content_length or 0) > limit:
        raise too_large
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    try:
        while True:
            async with asyncio.timeout_at(ends):
                piece = await request.content.readany()
            if not piece:
                return
            size += len(piece)
            if size > limit:
                raise too_large
            yield piece
    except TimeoutError:
        raise BadRequest(f"the request body did not arrive within {seconds:g} seconds (server.body_timeout)") from None
    except web.RequestPayloadError:
        raise BadRequest("the request body could not be read: its encoding or framing is broken") from None
