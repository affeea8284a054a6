"""What the API shows of things: llamactl's fields, and beside them everything that one needs to know at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from signal import Signals
from typing import Any

from pydantic import BaseModel, Field

from llamactl_py.api.route import Tagged
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State, status_word


class ExitView(BaseModel):
    """How the last process of an instance ended."""

    code: int | None = Field(default=None, description="Exit code, or minus the number of the signal that ended it.")
    signal: str | None = Field(default=None, description="Name of that signal.")
    reason: str = Field(description="The same in words.")
    last_lines: list[str] = Field(description="The last lines that it wrote.")


class FootprintView(BaseModel, defer_build=True):
    """What all processes of an instance take of the machine; measured when asked for, at most once a second."""

    processes: int
    memory_bytes: int = Field(
        description="Resident, summed over its processes: what they share, and a model mapped from its file, counts in each."
    )
    cpu_seconds: float = Field(description="User and system time of the processes that live.")
    cpu_percent: float | None = Field(default=None, description="Of one core, since the measurement before; not in the first.")


class InstanceView(Tagged):
    """One instance. `id`, `name`, `status`, `created` and `options` are llamactl's; the rest tells exactly what is going on."""

    id: int = Field(description="Number in the database.")
    name: str
    status: str = Field(description="llamactl's word: stopped, running, failed, restarting or shutting_down.")
    created: int = Field(description="Unix seconds.")
    options: dict[str, Any] = Field(description="The options as stored, defaults filled in; secrets are masked.")
    state: State = Field(description="The exact state.")
    since: int = Field(description="Unix seconds since when it is in this state.")
    reason: str | None = Field(default=None, description="Why it failed or is being restarted.")
    pid: int | None = Field(default=None, description="Leading process, while there is one.")
    port: int | None = Field(default=None, description="Port of its backend on loopback, while it is up.")
    socket: str | None = Field(default=None, description="Unix socket of its backend, while it is up and has one.")
    in_flight: int = Field(description="Requests that it is answering now.")
    idle_seconds: float | None = Field(default=None, description="Seconds since the end of its last request, while it is ready.")
    last_used: int | None = Field(
        default=None, description="Unix seconds of the end of its last request, or of its becoming ready if that was later."
    )
    uptime_seconds: float | None = Field(default=None, description="Age of its process, while there is one.")
    restarts: int = Field(description="Automatic restarts since the daemon started.")
    restart_required: bool = Field(description="Its options were changed while it was up: restart it to apply them.")
    last_exit: ExitView | None = None
    declared: bool = Field(description="The configuration file declares it: it cannot be changed or deleted here.")
    declared_at: str | None = Field(default=None, description="FILE:LINE where that is.")
    warnings: list[str] | None = Field(
        default=None,
        description="What is odd about the options just sent, and what of the stored ones the installed server refuses.",
    )
    usage: FootprintView | None = Field(default=None, description="With `stats`, while it has a process.")


class DescriptionView(BaseModel, defer_build=True, extra="allow"):
    """An OpenAPI document (https://spec.openapis.org/oas/v3.1.1)."""

    openapi: str = Field(description="The version of OpenAPI.")
    info: dict[str, Any]
    paths: dict[str, Any]


class StatsView(BaseModel, defer_build=True):
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
        view.usage = FootprintView(
            processes=found.processes, memory_bytes=found.memory, cpu_seconds=round(found.cpu_seconds, 2), cpu_percent=percent
        )
    return view


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
