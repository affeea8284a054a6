"""Instances: create, see, change, delete; and the way through to the backend itself."""

from __future__ import annotations

import asyncio

from aiohttp import web
from msgspec.json import encode

from llamactl_py.api import inference
from llamactl_py.api.account import Account
from llamactl_py.api.body import read_body
from llamactl_py.api.conditions import IF_MATCH, IF_NONE_MATCH, expected, refuse_stale, refuse_unmet
from llamactl_py.api.listing import PARAMETERS, chosen
from llamactl_py.api.route import Query, Route, caller_of, flag, read_json
from llamactl_py.api.views import InstanceView, StatsView, show, show_with_usage, stats
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, Problem, WrongType
from llamactl_py.ground.merge_patch import MEDIA_TYPE
from llamactl_py.ground.names import instance_name
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.options import InstanceOptions
from llamactl_py.proxy.asked import AlreadySent, Asked
from llamactl_py.proxy.heads import refuse_tricks
from llamactl_py.services import Services

PATCH_TYPES = (MEDIA_TYPE, "application/json", "application/x-www-form-urlencoded", "application/octet-stream")
"""The last two: what curl says of any text, and what no header at all means."""


async def list_instances(services: Services, request: web.Request) -> web.Response:
    """List the instances.

    All, in the order of their creation, unless the query says otherwise. The header `X-Total-Count` tells how many there are
    without `limit` and `offset`.
    """
    found, total = chosen(request, services.fleet)
    if flag(request, "stats"):
        views = list(await asyncio.gather(*map(show_with_usage, found)))
    else:
        views = [show(instance) for instance in found]
    return web.Response(body=encode(views), content_type="application/json", headers={"X-Total-Count": str(total)})


async def get_instance(services: Services, request: web.Request) -> InstanceView:
    """Show one instance."""
    instance, with_usage = named(services, request), flag(request, "stats")
    refuse_unmet(request, instance)
    return await show_with_usage(instance) if with_usage else show(instance)


async def get_stats(services: Services, request: web.Request) -> StatsView:
    """Show what goes on with an instance.

    Its state, its process, its requests, and what all of its processes take of the machine: measured now, at most once a second.
    """
    view = await show_with_usage(named(services, request))
    return stats(view)


async def create_instance(services: Services, request: web.Request) -> InstanceView:
    """Create an instance.

    It is stored and stays stopped until it is started, or first asked for.
    """
    name = instance_name(request.match_info["name"])
    instance, warnings = await services.fleet.create(name, unnamed(await read_json(request), name))
    return show(instance, warnings)


async def replace_instance(services: Services, request: web.Request) -> InstanceView:
    """Replace the options of an instance.

    One that is up keeps running as it is; `restart_required` then says so. A secret sent back as its mask stays what it was.
    """
    return await _change(services, request, merge=False)


async def patch_instance(services: Services, request: web.Request) -> InstanceView:
    """Change some options of an instance.

    A JSON Merge Patch (RFC 7396): what it does not name stays, objects merge, null means the default. Patches at the same time
    are applied one after the other. For the rest as with PUT.
    """
    if request.content_type not in PATCH_TYPES:
        raise WrongType(f"{request.content_type!r} is no form of patch known here; send {MEDIA_TYPE} (RFC 7396)")
    return await _change(services, request, merge=True)


async def _change(services: Services, request: web.Request, *, merge: bool) -> InstanceView:
    instance = named(services, request)
    raw = unnamed(await read_json(request), instance.name)
    refuse_unmet(request, instance)
    instance, warnings = await services.fleet.change(instance.name, raw, merge=merge, expected=expected(request))
    return show(instance, warnings)


async def delete_instance(services: Services, request: web.Request) -> None:
    """Delete an instance and its logs.

    One that is up is refused, unless `force` says to stop it first.
    """
    instance = services.fleet.to_change(instance_name(request.match_info["name"]))
    refuse_stale(request, instance)  # before it is stopped; and again, as a stop takes its time
    async with services.dispatcher.retiring(instance, force=flag(request, "force")):
        await services.fleet.delete(instance.name, expected=expected(request))


async def proxy_to_instance(services: Services, request: web.Request) -> web.StreamResponse:
    """Pass any request to the backend of an instance.

    The path after `/proxy` is the backend's. The instance is not started for it, and reading requests do not keep it from
    idling out.
    """
    instance = named(services, request)
    path = "/" + request.raw_path.split("/", 6)[6]  # behind /api/v1/instances/NAME/proxy/, however that was spelled
    counts = request.method not in ("GET", "HEAD", "OPTIONS")
    body = await read_body(services, request)
    return await pass_on(services, request, instance, path, body, False, counts, may_upgrade=True)


async def pass_on(
    services: Services,
    request: web.Request,
    instance: Instance,
    path: str,
    body: bytes,
    may_start: bool,
    counts_as_use: bool,
    may_upgrade: bool = False,
) -> web.StreamResponse:
    """Lease *instance* and relay *request*. Raises what `inference.pass_on` does."""
    client = Asked(request)
    question = client.question(refuse_tricks(path), (body,), may_upgrade)
    account = Account(services, instance, "", caller_of(request), question.method, question.path, len(body))
    relayed = await inference.pass_on(
        services, client, question, instance, account, may_start=may_start, counts_as_use=counts_as_use
    )
    return AlreadySent(relayed)


def unnamed(raw: object, name: str) -> object:
    """*raw* without a `name`, as llamactl's examples have it among the options: it may only repeat the address.

    Raises Invalid.
    """
    if not isinstance(raw, dict) or "name" not in raw:
        return raw
    if raw["name"] != name:
        raise Invalid([Problem("name", f"the address says {name!r}; leave it out, or say the same")])
    return {key: value for key, value in raw.items() if key != "name"}


def named(services: Services, request: web.Request) -> Instance:
    return services.fleet.get(instance_name(request.match_info["name"]))


STATS = Query("stats", "With `usage`: memory and CPU of its processes.", {"type": "boolean", "default": False})
_BASE = "/api/v1/instances"
_ONE = f"{_BASE}/{{name}}"
EXAMPLE = {
    "backend_type": "llama_cpp",
    "backend_options": {"model": "/models/qwen3-8b-q4_k_m.gguf", "ctx_size": 8192, "gpu_layers": 99},
    "idle_timeout": "15m",
}
_CHANGES = (errors.BadRequest, errors.Invalid, errors.InvalidName, errors.NameTaken, errors.StorageFailed, errors.TooLarge)
_FINDS = (errors.InvalidName, errors.NotFound)

ROUTES = (
    Route(
        "GET", _BASE, list_instances, Access.READ, "instances", returns=list[InstanceView], raises=(errors.Invalid,),
        tells=("X-Total-Count",),
        query=(*PARAMETERS, STATS),
    ),
    Route(
        "GET", _ONE, get_instance, Access.READ, "instances", returns=InstanceView, raises=(*_FINDS, errors.Invalid),
        query=(STATS,), headers=(IF_NONE_MATCH,), also=(304,),
    ),
    Route("GET", f"{_ONE}/stats", get_stats, Access.READ, "instances", returns=StatsView, raises=_FINDS),
    Route(
        "POST", _ONE, create_instance, Access.MANAGEMENT, "instances", InstanceOptions, InstanceView, 201,
        raises=(*_CHANGES, errors.LimitReached), example=EXAMPLE, location=_ONE,
    ),
    Route(
        "PUT", _ONE, replace_instance, Access.MANAGEMENT, "instances", InstanceOptions, InstanceView,
        raises=(*_CHANGES, errors.Declared, errors.NotFound, errors.Changed), example=EXAMPLE, headers=(IF_MATCH,),
    ),
    Route(
        "PATCH", _ONE, patch_instance, Access.MANAGEMENT, "instances", returns=InstanceView,
        raises=(*_CHANGES, errors.Declared, errors.NotFound, errors.Changed, errors.WrongType), headers=(IF_MATCH,),
        example={"idle_timeout": "1h", "backend_options": {"ctx_size": 16384, "threads": None}},
        body_types=(MEDIA_TYPE, "application/json"), patches=True,
    ),
    Route(
        "DELETE", _ONE, delete_instance, Access.MANAGEMENT, "instances", status=204,
        raises=(*_FINDS, errors.Changed, errors.Conflict, errors.Declared, errors.Invalid, errors.StorageFailed),
        headers=(IF_MATCH,),
        query=(Query("force", "Stop it first if it is up.", {"type": "boolean", "default": False}),),
    ),
    *(
        Route(
            method, f"{_ONE}/proxy/{{path}}", proxy_to_instance, Access.MANAGEMENT, "instances",
            raises=(*_FINDS, errors.BackendFailed, errors.BadRequest, errors.NotRunning, errors.TooLarge),
        )
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    ),
)  # fmt: skip
