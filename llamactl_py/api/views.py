"""What the API shows of things: llamactl's fields, and beside them everything that one needs to know at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from signal import Signals
from typing import Annotated, Any, ClassVar

from msgspec.structs import replace

from llamactl_py.api.route import Tagged, View
from llamactl_py.ground.fields import about
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State, status_word


class ExitView(View, kw_only=True):
    """How the last process of an instance ended."""

    code: Annotated[int | None, about("Exit code, or minus the number of the signal that ended it.")] = None
    signal: Annotated[str | None, about("Name of that signal.")] = None
    reason: Annotated[str, about("The same in words.")]
    last_lines: Annotated[list[str], about("The last lines that it wrote.")]


class FootprintView(View):
    """What all processes of an instance take of the machine; measured when asked for, at most once a second."""

    processes: int
    memory_bytes: Annotated[
        int, about("Resident, summed over its processes: what they share, and a model mapped from its file, counts in each.")
    ]
    cpu_seconds: Annotated[float, about("User and system time of the processes that live.")]
    cpu_percent: Annotated[float | None, about("Of one core, since the measurement before; not in the first.")] = None


class InstanceView(Tagged, kw_only=True):
    """One instance. `id`, `name`, `status`, `created` and `options` are llamactl's; the rest tells exactly what is going on."""

    id: Annotated[int, about("Number in the database.")]
    name: str
    status: Annotated[str, about("llamactl's word: stopped, running, failed, restarting or shutting_down.")]
    created: Annotated[int, about("Unix seconds.")]
    options: Annotated[dict[str, Any], about("The options as stored, defaults filled in; secrets are masked.")]
    state: Annotated[State, about("The exact state.")]
    since: Annotated[int, about("Unix seconds since when it is in this state.")]
    reason: Annotated[str | None, about("Why it failed or is being restarted.")] = None
    pid: Annotated[int | None, about("Leading process, while there is one.")] = None
    port: Annotated[int | None, about("Port of its backend on loopback, while it is up.")] = None
    socket: Annotated[str | None, about("Unix socket of its backend, while it is up and has one.")] = None
    in_flight: Annotated[int, about("Requests that it is answering now.")]
    idle_seconds: Annotated[float | None, about("Seconds since the end of its last request, while it is ready.")] = None
    last_used: Annotated[
        int | None, about("Unix seconds of the end of its last request, or of its becoming ready if that was later.")
    ] = None
    uptime_seconds: Annotated[float | None, about("Age of its process, while there is one.")] = None
    restarts: Annotated[int, about("Automatic restarts since the daemon started.")]
    restart_required: Annotated[bool, about("Its options were changed while it was up: restart it to apply them.")]
    last_exit: ExitView | None = None
    declared: Annotated[bool, about("The configuration file declares it: it cannot be changed or deleted here.")]
    declared_at: Annotated[str | None, about("FILE:LINE where that is.")] = None
    warnings: Annotated[
        list[str] | None,
        about("What is odd about the options just sent, and what of the stored ones the installed server refuses."),
    ] = None
    usage: Annotated[FootprintView | None, about("With `stats`, while it has a process.")] = None


class DescriptionView(View):
    """An OpenAPI document (https://spec.openapis.org/oas/v3.1.1)."""

    SCHEMA: ClassVar = {"additionalProperties": True}

    openapi: Annotated[str, about("The version of OpenAPI.")]
    info: dict[str, Any]
    paths: dict[str, Any]


class StatsView(View, kw_only=True):
    """What goes on with an instance, without its options. The fields are those of the instance."""

    name: str
    status: str
    state: State
    since: int
    reason: str | None = None
    pid: int | None = None
    port: int | None = None
    socket: str | None = None
    uptime_seconds: float | None = None
    restarts: int
    in_flight: int
    idle_seconds: float | None = None
    last_used: int | None = None
    last_exit: ExitView | None = None
    usage: FootprintView | None = None


async def show_with_usage(instance: Instance) -> InstanceView:
    """*instance* as it is now, measured."""
    found = await instance.usage()
    view = show(instance)
    if found and view.pid:
        percent = None if found.cpu_percent is None else round(found.cpu_percent, 1)
        return replace(view, usage=FootprintView(found.processes, found.memory, round(found.cpu_seconds, 2), percent))
    return view


def stats(view: InstanceView) -> StatsView:
    """What of *view* goes on."""
    return StatsView(**{name: getattr(view, name) for name in StatsView.__struct_fields__})


def _exit(instance: Instance) -> ExitView | None:
    ended = instance.last_exit
    if ended is None:
        return None
    signal = None
    if ended.code is not None and ended.code < 0:
        with suppress(ValueError):
            signal = Signals(-ended.code).name
    return ExitView(code=ended.code, signal=signal, reason=str(ended), last_lines=list(ended.last_lines))


def show(instance: Instance, warnings: tuple[str, ...] = ()) -> InstanceView:
    """*instance* as it is now."""
    is_idle = instance.state is State.READY and not instance.leases.value
    return InstanceView(
        revision=instance.revision,
        id=instance.id,
        name=instance.name,
        status=status_word(instance.state),
        created=instance.created_at,
        options=instance.options.public(),
        state=instance.state,
        since=int(instance.since),
        reason=instance.reason or None,
        pid=instance.pid,
        port=instance.port,
        socket=instance.socket,
        in_flight=instance.leases.value,
        idle_seconds=round(asyncio.get_running_loop().time() - instance.last_used, 1) if is_idle else None,
        last_used=None if instance.last_used_at is None else int(instance.last_used_at),
        uptime_seconds=None if instance.uptime is None else round(instance.uptime, 1),
        restarts=instance.restarts,
        restart_required=instance.running_options is not None and instance.running_options != instance.options,
        last_exit=_exit(instance),
        declared=bool(instance.declared_at),
        declared_at=instance.declared_at or None,
        warnings=list(instance.remarks(warnings)) or None,
    )
