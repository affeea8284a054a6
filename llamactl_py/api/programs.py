"""Backends as they are on this machine: is the server there, which version, what does it take, what does it say itself?"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from aiohttp import web
from msgspec.structs import asdict, replace

from llamactl_py.api.route import Handler, Query, Route, View, flag
from llamactl_py.auth.policy import Access
from llamactl_py.backends import BACKENDS, Backend, backend
from llamactl_py.ground import errors
from llamactl_py.ground.errors import BackendFailed, Invalid, NotFound, StartFailed
from llamactl_py.ground.fields import about
from llamactl_py.instances.command import Workshop
from llamactl_py.instances.programs import Program, Programs, Question, version_of
from llamactl_py.services import Services

PATIENCE = 3.0
"""Seconds that the list waits for versions nobody has asked for yet; the rest are told the next time."""

ASKING = "its version is being asked for"


class BackendView(View, kw_only=True):
    """One kind of server, and whether it can be run here."""

    type: Annotated[str, about("Its name in `backend_type`.")]
    slug: Annotated[str, about("Its name in paths.")]
    title: str
    found: Annotated[bool, about("Is its program there? An image is not looked for.")]
    command: Annotated[list[str], about("The words that start it, as the settings have them.")]
    path: Annotated[str | None, about("Full path of the program.")] = None
    version: Annotated[str | None, about("The version that the program tells, as soon as it is known.")] = None
    options_version: Annotated[str, about("The version whose options are described where the program's own are not known.")]
    install: Annotated[str, about("How to install it.")]
    searched: Annotated[list[str] | None, about("Where the program was looked for in vain.")] = None
    docker_enabled: Annotated[bool, about("Do its instances run in containers unless they say otherwise?")]
    unix_socket: Annotated[bool, about("Can its instances be reached over a Unix socket?")]
    note: Annotated[str | None, about("Why something is not known.")] = None


class FlagView(View):
    """A flag that only one of the two knows: the installed program, or the description of its options."""

    flags: list[str]
    help: str
    instead: str | None = None


class BackendDetail(BackendView, kw_only=True):
    """The same, with what its own help says."""

    help_is_read: Annotated[bool, about("Has the program told what it takes? Then its options are described as it has them.")]
    new_flags: Annotated[list[FlagView] | None, about("What it takes and our description lacks: for extra_args.")] = None
    missing_flags: Annotated[list[FlagView] | None, about("What our description has and it does not take.")] = None


class OptionsSchema(View):
    """JSON Schema (2020-12) of `backend_options`."""

    SCHEMA: ClassVar = {"additionalProperties": True}


async def list_backends(services: Services, request: web.Request) -> list[BackendView]:
    """List the kinds of servers, and whether each is installed here.

    A version that takes long to find out may be missing at first; ask again.
    """
    workshop = services.fleet.workshop
    return list(await asyncio.gather(*(_view(workshop, kind, PATIENCE) for kind in BACKENDS.values())))


async def get_backend(services: Services, request: web.Request) -> BackendDetail:
    """Show one kind of server.

    Whether it is found, its version, and how what it takes differs from what is described. The first time this waits for the
    program to tell (vLLM takes 15 seconds or more); `refresh` asks it again.
    """
    workshop, kind = services.fleet.workshop, kind_of(request)
    refresh = flag(request, "refresh")
    note = ""
    if (program := _find(workshop, kind)) and workshop.programs and kind.help_arguments:
        if refresh:
            await workshop.programs.answer(program, "version", afresh=True)
        note = (await workshop.programs.answer(program, "help", afresh=refresh)).trouble
    view = await _view(workshop, kind, None)
    known = workshop.installed(kind)
    return BackendDetail(
        **asdict(replace(view, note=view.note or (f"its help is not known: it {note}" if note else None))),
        help_is_read=known is not None,
        new_flags=[FlagView(flags=list(f.spellings), help=f.help[:200]) for f in known.new] if known else None,
        missing_flags=[
            FlagView(flags=[*f.spellings, *f.negations], help=f.help, instead=f.instead or None) for f in known.lacking
        ]
        if known
        else None,
    )


async def get_options(services: Services, request: web.Request) -> dict[str, Any]:
    """Describe the options of one kind of server.

    A JSON Schema with groups, units, defaults and help. What the installed version does not take is marked `deprecated`, and
    `x-new-flags` has what only it takes, as soon as its help was read; this asks nobody.
    """
    from llamactl_py.backends.schema import schema

    kind = kind_of(request)
    return schema(kind.title, kind.catalogue, services.fleet.workshop.installed(kind))


async def get_backend_help(services: Services, request: web.Request) -> str:
    """Show the help of the installed server, in its own words."""
    return await _told(services, kind_of(request), "help", flag(request, "refresh"))


async def get_backend_version(services: Services, request: web.Request) -> str:
    """Show the version of the installed server, in its own words."""
    return await _told(services, kind_of(request), "version", flag(request, "refresh"))


async def get_backend_devices(services: Services, request: web.Request) -> str:
    """Show the devices that the installed server can use.

    In its own words; of llama.cpp only, as no other server tells.
    """
    return await _told(services, kind_of(request), "devices", False)


async def get_server_help(services: Services, request: web.Request) -> str:
    """Show the help of llama-server. An older name of /api/v1/backends/llama-cpp/help."""
    return await get_backend_help(services, request)


async def get_server_version(services: Services, request: web.Request) -> str:
    """Show the version of llama-server. An older name of /api/v1/backends/llama-cpp/version."""
    return await get_backend_version(services, request)


async def get_server_devices(services: Services, request: web.Request) -> str:
    """Show the devices that llama-server can use. An older name of /api/v1/backends/llama-cpp/devices."""
    return await get_backend_devices(services, request)


async def _told(services: Services, kind: Backend, question: Question, refresh: bool) -> str:
    workshop = services.fleet.workshop
    if question == "devices" and not kind.devices_arguments:
        raise NotFound(f"{kind.title} has no way to list devices; ask the driver's own tools, such as nvidia-smi")
    programs, program = workshop.programs, _find(workshop, kind)
    if program is None or programs is None:
        raise NotFound(f"{' '.join(workshop.words(kind)) or kind.title} was not found; {kind.install_hint}")
    answer = await programs.answer(program, question, afresh=refresh)
    if answer.trouble:
        raise BackendFailed(f"{program.words[0]} {answer.trouble}")
    return answer.text


async def _view(workshop: Workshop, kind: Backend, patience: float | None) -> BackendView:
    """*patience*: seconds to wait for its version, None for as long as it takes."""
    words = workshop.words(kind)
    program = _find(workshop, kind)
    version, note = None, None
    found = program is not None or not words
    if program and workshop.programs:
        version, note = await _version(workshop.programs, program, patience)
        if words[1:2] == ("-m",) and note and note != ASKING:  # a Python there is nearly always; the package is what counts
            found = False
    return BackendView(
        type=kind.type,
        slug=kind.slug,
        title=kind.title,
        found=found,
        command=list(words),
        path=program.words[0] if program else None,
        version=version,
        options_version=kind.catalogue.version,
        install=kind.install_hint,
        searched=_searched(workshop, kind, words) if words and not program else None,
        docker_enabled=workshop.settings.backends.of(kind.slug).docker.enabled,
        unix_socket=kind.socket_flag is not None,
        note=note,
    )


async def _version(programs: Programs, program: Program, patience: float | None) -> tuple[str | None, str | None]:
    """(version, why there is none). One that is not told in time is asked for beside us."""
    try:
        async with asyncio.timeout(patience):
            answer = await programs.answer(program, "version")
    except TimeoutError:
        programs.want(program)
        return None, ASKING
    return (None, f"its version is not known: it {answer.trouble}") if answer.trouble else (version_of(answer.text), None)


def _find(workshop: Workshop, kind: Backend) -> Program | None:
    try:
        return workshop.program(kind) if workshop.words(kind) else None
    except StartFailed:
        return None


def _searched(workshop: Workshop, kind: Backend, words: Sequence[str]) -> list[str]:
    if os.sep in words[0]:
        return [words[0]]
    folders = workshop.search_path(kind).split(os.pathsep)
    return list(dict.fromkeys((*folders, str(Path(sys.executable).parent))))


def kind_of(request: web.Request) -> Backend:
    """The backend of the path, by type or slug; llama.cpp where the path names none. Raises NotFound."""
    try:
        return backend(request.match_info.get("backend", "llama_cpp"))
    except Invalid as error:
        raise NotFound(error.problems[0].what) from None


_BASE = "/api/v1/backends"
_ONE = f"{_BASE}/{{backend}}"
_OLD = "/api/v1/server"
_REFRESH = Query("refresh", "Ask the program again.", {"type": "boolean", "default": False})


def _text(path: str, call: Handler, *query: Query) -> Route:
    raises = (errors.NotFound, errors.Invalid, errors.BackendFailed)
    return Route("GET", path, call, Access.MANAGEMENT, "backends", returns=str, query=query, raises=raises)


ROUTES = (
    Route("GET", _BASE, list_backends, Access.MANAGEMENT, "backends", returns=list[BackendView]),
    Route(
        "GET", _ONE, get_backend, Access.MANAGEMENT, "backends", returns=BackendDetail, query=(_REFRESH,),
        raises=(errors.NotFound, errors.Invalid),
    ),
    Route("GET", f"{_ONE}/options", get_options, Access.READ, "backends", returns=OptionsSchema, raises=(errors.NotFound,)),
    _text(f"{_ONE}/help", get_backend_help, _REFRESH),
    _text(f"{_ONE}/version", get_backend_version, _REFRESH),
    _text(f"{_ONE}/devices", get_backend_devices),
    _text(f"{_OLD}/help", get_server_help, _REFRESH),
    _text(f"{_OLD}/version", get_server_version, _REFRESH),
    _text(f"{_OLD}/devices", get_server_devices),
)  # fmt: skip
"""`/api/v1/server/*` are llamactl's older names of the same for llama.cpp."""
