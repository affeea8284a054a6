"""Logs of instances: their last lines, what is written from now on, or all of it as a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from aiohttp import web

from llamactl_py.api.instances import named
from llamactl_py.api.route import Query, Route, flag, whole_number
from llamactl_py.api.sse import EVENT_STREAM, HEADERS, HEARTBEAT, EventStream, wants_events, watching
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.instances.instance import Instance
from llamactl_py.services import MAX_LOG_LINES, LogFollower, Services

FOLLOW_INTERVAL = 0.25
LONGEST_LINE = 1 << 16
"""Bytes of a line that is not over from which on its parts are told as lines of their own."""


async def get_logs(services: Services, request: web.Request) -> web.StreamResponse:
    """Show the log of an instance.

    Plain text; rotated files are included. With `follow` the answer goes on with what is written, across rotations and restarts,
    until the client leaves or the instance is deleted; as server-sent events where the client accepts text/event-stream. With
    `download` it is all that is kept, as a file.
    """
    instance = named(services, request)
    _refuse_single_streams(request)
    newest_run = _is_newest_run(request)
    asked = whole_number(request, "lines", 0, -MAX_LOG_LINES, MAX_LOG_LINES)
    lines = asked if asked > 0 else MAX_LOG_LINES
    follow = flag(request, "follow")
    if flag(request, "download"):
        return await _download(services, request, instance)
    if not follow:
        text = await asyncio.to_thread(services.log_text, instance.name, lines, newest_run=newest_run)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")
    with watching(services):
        # What is followed goes on exactly where the text before it ends: no line is told twice, or cut in two.
        follower, end = await asyncio.to_thread(services.log_follower, instance.name)
        text = await asyncio.to_thread(services.log_text, instance.name, lines, end, newest_run=newest_run)
        async with aclosing(appended(services, instance, follower)) as growth:
            return await (_events if wants_events(request) else _plain)(request, text, growth)


async def _plain(request: web.Request, text: bytes, growth: AsyncIterator[bytes]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8", **HEADERS})
    await response.prepare(request)
    await response.write(text + b"\n" if text else b"")
    async for piece in growth:
        await response.write(piece)
    return response


async def _events(request: web.Request, text: bytes, growth: AsyncIterator[bytes]) -> web.StreamResponse:
    stream = EventStream()
    await stream.open(request)
    for line in text.decode("utf-8", "replace").splitlines():
        await stream.send("log", {"line": line})
    loop = asyncio.get_running_loop()
    told_at = loop.time()
    async for lines in whole_lines(growth):
        for line in lines:
            await stream.send("log", {"line": line})
        if lines:
            told_at = loop.time()
        elif loop.time() - told_at >= HEARTBEAT:
            await stream.beat()
            told_at = loop.time()
    await stream.send("end", {"reason": "the instance was deleted, or the daemon ends"})
    return stream.response


async def _download(services: Services, request: web.Request, instance: Instance) -> web.StreamResponse:
    files = await asyncio.to_thread(services.log_files, instance.name)
    try:
        name = f'attachment; filename="{instance.name}.log"'
        headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Disposition": name, **HEADERS}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        for file in files:
            while piece := await asyncio.to_thread(file.read, 1 << 18):
                await response.write(piece)
    finally:
        for file in files:
            file.close()
    return response


async def appended(services: Services, instance: Instance, follower: LogFollower) -> AsyncGenerator[bytes]:
    """What is appended to the log, until the instance is deleted or the daemon ends; an empty piece where there is nothing new.
    Nothing is read before it is asked for: a client that does not read costs no memory."""
    try:
        while instance in services.fleet and not services.is_closing:
            piece = await asyncio.to_thread(follower.read)
            yield piece
            if not piece:
                await asyncio.sleep(FOLLOW_INTERVAL)
    finally:
        follower.close()


async def whole_lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[list[str]]:
    """The lines in *pieces*, without their ends; a list for each piece, as soon as it came."""
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        yield [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]


def _refuse_single_streams(request: web.Request) -> None:
    """A server has one descriptor for both: two files would tell what it said, but no longer in which order."""
    stream = request.query.get("stream", "all")
    if stream in ("stdout", "stderr"):
        why = "is not kept apart: both are written to one log, in the order in which they came; leave it out, or take 'all'"
        raise Invalid([Problem("stream", f"{stream!r} {why}")])
    if stream != "all":
        raise Invalid([Problem("stream", f"{stream[:40]!r} is not 'all'")])


def _is_newest_run(request: web.Request) -> bool:
    since = request.query.get("since", "")
    if since not in ("", "start"):
        why = "is not 'start' (the last start of the instance): servers' lines carry no time of which we could know"
        raise Invalid([Problem("since", f"{since[:40]!r} {why}")])
    return since == "start"


_LINES = {"type": "integer", "minimum": -MAX_LOG_LINES, "maximum": MAX_LOG_LINES, "default": 0}

ROUTES = (
    Route(
        "GET", "/api/v1/instances/{name}/logs", get_logs, Access.READ, "instances", returns=str,
        text_types=("text/plain", EVENT_STREAM),
        may_tell=("Cache-Control", "X-Accel-Buffering", "Content-Disposition"),
        raises=(errors.InvalidName, errors.NotFound, errors.Invalid, errors.TooManyWatchers),
        query=(
            Query("lines", "How many lines from the end; 0 or less means all, up to 16 MiB.", _LINES),
            Query("since", "`start`: only what was written since its last start.", {"type": "string", "enum": ["start"]}),
            Query("follow", "Go on with what is written from now on.", {"type": "boolean", "default": False}),
            Query("stream", "Only `all`: both streams are one log.", {"type": "string", "enum": ["all"], "default": "all"}),
            Query("download", "All that is kept, the oldest first, as a file.", {"type": "boolean", "default": False}),
        ),
    ),
)  # fmt: skip
