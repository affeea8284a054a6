"""What happens, as it happens: one stream of server-sent events for whoever watches."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from aiohttp import web

from llamactl_py.api.logs import appended, whole_lines
from llamactl_py.api.route import Query, Route, flag, whole_number
from llamactl_py.api.sse import EVENT_STREAM, HEARTBEAT, EventStream, watching
from llamactl_py.auth.policy import Access
from llamactl_py.events.bus import Subscription
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, Problem
from llamactl_py.ground.names import NAME_SCHEMA, instance_name
from llamactl_py.instances.instance import Instance
from llamactl_py.services import Services

PATIENCE = 60.0
"""Seconds for which a client may not read a byte."""
MAX_LOGS = 20
MAX_EVENTS = 1_000_000
LINES_AT_ONCE = 1000


async def get_events(services: Services, request: web.Request) -> web.StreamResponse:
    """Watch what happens.

    Server-sent events until the client leaves. `state`: an instance changed its state; `created`, `updated`, `deleted`: somebody
    changed it. These have an id: who comes back with it in `Last-Event-ID` is told what happened since, or gets `gap` when that
    is not kept any more and everything has to be read anew. Without it the first event is `hello`. On demand: `log`, the lines
    that instances write, and `request`, what is asked of them. `dropped`: the client did not keep up; `closing`: the daemon ends.
    """
    followed = _followed(services, request)
    passing = ("request",) if flag(request, "requests") else ()
    most = whole_number(request, "limit", MAX_EVENTS, 1, MAX_EVENTS)
    stream = EventStream(PATIENCE)
    with watching(services), services.bus.subscription(request.headers.get("Last-Event-ID", "")[:100], passing) as subscription:
        await stream.open(request)
        try:
            async with asyncio.TaskGroup() as tasks:
                logs = [tasks.create_task(_tell_log(services, instance, stream)) for instance in followed]
                await _tell_events(subscription, stream, most)
                for log in logs:
                    log.cancel()
        except* ConnectionError:
            pass  # the client has gone: there is nobody to be told
    return stream.response


async def _tell_events(subscription: Subscription, stream: EventStream, most: int) -> None:
    while most:
        try:
            async with asyncio.timeout(HEARTBEAT):
                event = await subscription.next()
        except TimeoutError:
            await stream.beat()
            continue
        if event is None:
            return
        await stream.send(event.kind, event.data, event.id)
        most -= 1


async def _tell_log(services: Services, instance: Instance, stream: EventStream) -> None:
    follower, _ = await asyncio.to_thread(services.log_follower, instance.name)
    async with aclosing(appended(services, instance, follower)) as growth:
        async for lines in whole_lines(growth):
            for begin in range(0, len(lines), LINES_AT_ONCE):
                await stream.send("log", {"name": instance.name, "lines": lines[begin : begin + LINES_AT_ONCE]})


def _followed(services: Services, request: web.Request) -> list[Instance]:
    names = [name for value in request.query.getall("logs", ()) for name in value.split(",")]
    if len(names) > MAX_LOGS:
        raise Invalid([Problem("logs", f"names {len(names)} instances; one client may follow {MAX_LOGS}")])
    return [services.fleet.get(name) for name in dict.fromkeys(map(instance_name, names))]


ROUTES = (
    Route(
        "GET", "/api/v1/events", get_events, Access.READ, "events", returns=str, text_types=(EVENT_STREAM,),
        tells=("Cache-Control", "X-Accel-Buffering"),
        raises=(errors.Invalid, errors.InvalidName, errors.NotFound, errors.TooManyWatchers),
        headers=(Query("Last-Event-ID", "The id of the last event that you saw: you are told what happened since."),),
        query=(
            Query(
                "logs", f"Names of up to {MAX_LOGS} instances, commas between, whose new log lines you want.",
                {"type": "array", "items": {"type": "string", **NAME_SCHEMA}, "minItems": 1, "maxItems": MAX_LOGS}, repeats=True,
            ),
            Query("requests", "Tell what is asked of instances too.", {"type": "boolean", "default": False}),
            Query("limit", "End after so many events.", {"type": "integer", "minimum": 1, "maximum": MAX_EVENTS}),
        ),
    ),
)  # fmt: skip
