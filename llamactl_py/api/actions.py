"""Start, stop and restart: one instance, or several in one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta
from msgspec.structs import asdict

from llamactl_py.api.command import refuse_options
from llamactl_py.api.instances import named
from llamactl_py.api.problems import status_of
from llamactl_py.api.route import Route, View, read_json
from llamactl_py.api.views import InstanceView, show
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, LlamactlError, NotFound, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.validation import parse
from llamactl_py.instances.instance import Instance
from llamactl_py.services import Services

Action = Callable[[Services, Instance], Awaitable[None]]


Names = Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=10_000)]
_EXACTLY_ONE = [
    {"required": ["names"], "properties": {"names": {"type": "array"}}},
    {"required": ["group"], "properties": {"group": {"type": "string"}}},
    {"required": ["all"], "properties": {"all": {"const": True}}},
]


class Several(Frozen):
    """Which instances: exactly one of the three."""

    SCHEMA: ClassVar = {"oneOf": _EXACTLY_ONE}

    names: Annotated[Names | None, about("These; each counts once.")] = None
    group: Annotated[str | None, about("Those of this group.")] = None
    all: Annotated[bool, about("Every instance.")] = False


class ResultView(View):
    """What became of one instance."""

    name: str
    http_status: Annotated[int, about("The status that the request for this instance alone would have had.")]
    error: Annotated[str | None, about("The code of its error.")] = None
    details: Annotated[str | None, about("What is wrong and what to do.")] = None
    instance: Annotated[InstanceView | None, about("The instance afterwards; not for one that is unknown.")] = None


class ResultsView(View):
    """What became of each."""

    succeeded: int
    failed: int
    results: Annotated[
        list[ResultView], about("In the order of the names; of a group and of all, in the order of their creation.")
    ]


async def start_instance(services: Services, request: web.Request) -> InstanceView:
    """Start an instance.

    Answers when the start has begun; watch `state` for it to become ready. An idle instance is stopped if room is needed.
    """
    return await _one(services, request, _start)


async def stop_instance(services: Services, request: web.Request) -> InstanceView:
    """Stop an instance.

    Requests in flight may finish first (drain_timeout). Answers when no process of it is left.
    """
    return await _one(services, request, _stop)


async def restart_instance(services: Services, request: web.Request) -> InstanceView:
    """Restart an instance, with its newest options.

    One that is stopped is started. Answers when this has begun.
    """
    return await _one(services, request, _restart)


async def start_several(services: Services, request: web.Request) -> ResultsView:
    """Start several instances.

    By name, by group, or all. Answers 200 when every start has begun or was refused; each result tells which.
    """
    return await _several(services, request, "start", _start)


async def stop_several(services: Services, request: web.Request) -> ResultsView:
    """Stop several instances, at the same time.

    By name, by group, or all. Answers 200 when no process of any is left; what went wrong stands in the results.
    """
    return await _several(services, request, "stop", _stop)


async def restart_several(services: Services, request: web.Request) -> ResultsView:
    """Restart several instances.

    By name, by group, or all; those that are stopped are started. Answers 200 when every restart has begun or was refused.
    """
    return await _several(services, request, "restart", _restart)


async def _start(services: Services, instance: Instance) -> None:
    await services.dispatcher.start(instance)


async def _stop(services: Services, instance: Instance) -> None:
    await services.dispatcher.stop(instance)


async def _restart(services: Services, instance: Instance) -> None:
    await services.dispatcher.restart(instance)


async def _one(services: Services, request: web.Request, act: Action) -> InstanceView:
    instance = named(services, request)
    await act(services, instance)
    return show(instance)


async def _several(services: Services, request: web.Request, word: str, act: Action) -> ResultsView:
    raw = await read_json(request)
    refuse_options(raw, word)
    wanted = _names(services, parse(Several, raw))
    async with asyncio.TaskGroup() as tasks:
        acting = [tasks.create_task(_result(services, name, act)) for name in wanted]
    results = [task.result() for task in acting]
    failed = sum(1 for result in results if result.error)
    return ResultsView(succeeded=len(results) - failed, failed=failed, results=results)


def _names(services: Services, which: Several) -> list[str]:
    """Raises Invalid, and NotFound for a group that nobody is in."""
    given = [name for name, value in asdict(which).items() if value not in (None, False)]
    if len(given) != 1:
        raise Invalid([Problem("", f"takes exactly one of names, group and all; got {' and '.join(given) or 'none'}")])
    if which.names is not None:
        return list(dict.fromkeys(which.names))
    found = [instance.name for instance in services.fleet if which.all or instance.options.group == which.group]
    if which.group is not None and not found:
        raise NotFound(f"no instance is in a group named {which.group[:60]!r}")
    return found


async def _result(services: Services, name: str, act: Action) -> ResultView:
    try:
        instance = services.fleet.get(name)
    except NotFound as error:
        return _failure(name, error, None)
    try:
        await act(services, instance)
    except LlamactlError as error:
        return _failure(name, error, show(instance))
    return ResultView(name=name, http_status=200, instance=show(instance))


def _failure(name: str, error: LlamactlError, view: InstanceView | None) -> ResultView:
    status, code = status_of(type(error))
    return ResultView(name=name, http_status=status, error=code, details=str(error), instance=view)


_BASE = "/api/v1/instances"
_ONE = f"{_BASE}/{{name}}"
_FINDS = (errors.InvalidName, errors.NotFound)
_STARTS = (errors.NoRoom, errors.ShuttingDown, errors.TimedOut)
_SEVERAL = (errors.BadRequest, errors.Invalid, *_FINDS, errors.TooLarge)

ROUTES = (
    Route(
        "POST", f"{_BASE}/start", start_several, Access.MANAGEMENT, "instances", Several, ResultsView, raises=_SEVERAL,
        example={"names": ["qwen", "llama"]},
    ),
    Route(
        "POST", f"{_BASE}/stop", stop_several, Access.MANAGEMENT, "instances", Several, ResultsView, raises=_SEVERAL,
        example={"group": "large"},
    ),
    Route(
        "POST", f"{_BASE}/restart", restart_several, Access.MANAGEMENT, "instances", Several, ResultsView, raises=_SEVERAL,
        example={"all": True},
    ),
    Route(
        "POST", f"{_ONE}/start", start_instance, Access.MANAGEMENT, "instances", returns=InstanceView, raises=(*_FINDS, *_STARTS),
    ),
    Route("POST", f"{_ONE}/stop", stop_instance, Access.MANAGEMENT, "instances", returns=InstanceView, raises=_FINDS),
    Route(
        "POST", f"{_ONE}/restart", restart_instance, Access.MANAGEMENT, "instances", returns=InstanceView,
        raises=(*_FINDS, *_STARTS),
    ),
)  # fmt: skip
