"""The command that a start would run: of a stored instance, of one with other options, of one that does not exist."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from msgspec.structs import replace

from llamactl_py.api.instances import EXAMPLE, named
from llamactl_py.api.route import Route, View, read_json
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, InvalidName, Problem
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.merge_patch import MEDIA_TYPE
from llamactl_py.ground.names import NAME_SCHEMA, instance_name
from llamactl_py.ground.validation import parse
from llamactl_py.instances.options import InstanceOptions, parse_options, patched
from llamactl_py.instances.ports import LOOPBACK
from llamactl_py.instances.preview import Preview, preview
from llamactl_py.instances.target import is_socket_path
from llamactl_py.services import Services


class CommandView(View, kw_only=True):
    """What a start would run. Nothing was started, and nothing reserved."""

    argv: Annotated[
        list[str],
        about("The exact words: program, arguments. A container has another name each time. Empty where there is no engine."),
    ]
    environment: Annotated[
        dict[str, str],
        about("Every variable that it would get, those handed on from the daemon included; values of secrets are masked."),
    ]
    directory: Annotated[str, about("Its working directory.")]
    log: Annotated[str, about("The file that its output goes to.")]
    port: Annotated[int | None, about("The port that it listens on.")] = None
    socket: Annotated[str | None, about("Its Unix socket, where it has one instead.")] = None
    port_is_settled: Annotated[
        bool,
        about(
            "True while it runs there with these options; else a start at this moment would take that port, "
            "and a later one perhaps another."
        ),
    ]
    stop: Annotated[list[str] | None, about("What asks it to end before it gets a signal; with pid 0.")] = None
    shell: Annotated[
        str,
        about(
            "The same as text for sh, without what any shell hands on. Secrets come from variables of the same name, "
            "which must be set; the daemon's own key for the backend is left out."
        ),
    ]
    problems: Annotated[list[str] | None, about("Why a start would fail as things are.")] = None
    warnings: Annotated[list[str] | None, about("What is odd about the options just sent.")] = None


class Draft(Frozen, kw_only=True):
    """An instance that does not exist."""

    name: Annotated[str, about("The name that it would have; many servers are told it as their model's.", schema=NAME_SCHEMA)] = (
        "unsaved"
    )
    options: Annotated[dict[str, Any], about("Its options, as for creating it.")]


async def get_command(services: Services, request: web.Request) -> CommandView:
    """Show the command of an instance.

    With the options as they are stored. For one that runs with just these it is what runs, else what a start would run.
    """
    instance = named(services, request)
    is_there = instance.pid and instance.running_options == instance.options
    address = (instance.socket or LOOPBACK, instance.port or 0) if is_there else None
    return _view(preview(services.fleet.workshop, instance.name, instance.options, address), instance.remarks())


async def try_change(services: Services, request: web.Request) -> CommandView:
    """Show the command that an instance would have with other options.

    A dry run of PUT; of PATCH when the body is sent as application/merge-patch+json. Nothing is stored.
    """
    instance = named(services, request)
    raw = await read_json(request)
    wanted = patched(instance.options, raw) if request.content_type == MEDIA_TYPE else raw
    options, warnings = parse_options(wanted, services.settings.instances, instance.options)
    workshop = services.fleet.workshop
    return _view(preview(workshop, instance.name, options), workshop.remarks(options, warnings))


async def try_draft(services: Services, request: web.Request) -> CommandView:
    """Show the command that an instance would have if it existed.

    A dry run of creating it. Nothing is stored.
    """
    raw = await read_json(request)
    refuse_options(raw, "command")
    draft = parse(Draft, raw)
    try:
        options, warnings = parse_options(draft.options, services.settings.instances)
    except Invalid as error:
        raise Invalid(replace(problem, where=f"options.{problem.where}") for problem in error.problems) from None
    workshop = services.fleet.workshop
    return _view(preview(workshop, instance_name(draft.name), options), workshop.remarks(options, warnings))


def refuse_options(raw: object, word: str) -> None:
    """Somebody may mean to create an instance of that name. Raises InvalidName."""
    if isinstance(raw, dict) and "backend_type" in raw:
        raise InvalidName([Problem("name", f"{word!r} is a word of the API here: an instance cannot be created under that name")])


def _view(found: Preview, warnings: tuple[str, ...] = ()) -> CommandView:
    return CommandView(
        argv=list(found.argv),
        environment=dict(found.environment),
        directory=str(found.directory),
        log=str(found.log),
        port=found.address[1] or None,
        socket=found.address[0] if is_socket_path(found.address[0]) else None,
        port_is_settled=found.address_is_settled,
        stop=list(found.stop) or None,
        shell=found.shell,
        problems=list(found.problems) or None,
        warnings=list(warnings) or None,
    )


_BASE = "/api/v1/instances"
_FINDS = (errors.InvalidName, errors.NotFound)
_READS = (errors.BadRequest, errors.Invalid, errors.TooLarge)

ROUTES = (
    Route(
        "POST", f"{_BASE}/command", try_draft, Access.MANAGEMENT, "instances", Draft, CommandView,
        raises=(*_READS, errors.InvalidName), example={"name": "qwen", "options": EXAMPLE},
    ),
    Route("GET", f"{_BASE}/{{name}}/command", get_command, Access.READ, "instances", returns=CommandView, raises=_FINDS),
    Route(
        "POST", f"{_BASE}/{{name}}/command", try_change, Access.MANAGEMENT, "instances", InstanceOptions, CommandView,
        raises=(*_FINDS, *_READS), example=EXAMPLE, body_types=("application/json", MEDIA_TYPE),
    ),
)  # fmt: skip
