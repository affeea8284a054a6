"""Backends: understanding a pasted command line."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta

from llamactl_py.api.programs import kind_of
from llamactl_py.api.route import Route, View, read_model
from llamactl_py.auth.policy import Access
from llamactl_py.backends import BACKEND_NAMES, parse_command
from llamactl_py.backends.parse import Parsed
from llamactl_py.ground import errors
from llamactl_py.ground.fields import Frozen, Rule, about
from llamactl_py.instances.options import parse_options
from llamactl_py.services import Services

Line = Annotated[str, Meta(max_length=65_536), Rule(schema={"minLength": 1})]


class CommandLine(Frozen):
    """A command line, as one would type it into a shell."""

    command: Annotated[
        Line | Annotated[tuple[str, ...], Rule(schema={"minItems": 1})],
        about("The whole line, which may span lines and have quotes, escapes and comments; or its words, already split."),
    ]
    backend_type: Annotated[
        str | None,
        about(
            "Kind of server, where the line names no program that is known; custom takes any command.",
            schema={"enum": [*BACKEND_NAMES, None]},
        ),
    ] = None


class ParsedCommand(View):
    """The options of an instance that would run this command: send them to POST /api/v1/instances/{name}."""

    backend_type: str
    backend_options: dict[str, Any]
    environment: dict[str, str] | None = None
    command_override: str | list[str] | None = None
    docker_enabled: Annotated[bool | None, about("True where the line ran a container.")] = None
    docker: Annotated[
        dict[str, Any] | None,
        about("That container: engine, image, args (words for the engine), command (words behind the image)."),
    ] = None
    warnings: Annotated[list[str] | None, about("What was ignored, replaced or is risky; not part of the options.")] = None


async def parse_any(services: Services, request: web.Request) -> ParsedCommand:
    """Understand a command line of any backend.

    The backend is recognised by the executable. Nothing is executed, and nothing is lost: what the catalogue does not know
    is kept in extra_args, in order.
    """
    return await _parse(services, request, None)


async def parse_for(services: Services, request: web.Request) -> ParsedCommand:
    """Understand a command line of one backend.

    The executable may be left out.
    """
    return await _parse(services, request, kind_of(request).type)


async def _parse(services: Services, request: web.Request, kind: str | None) -> ParsedCommand:
    line = await read_model(request, CommandLine)
    parsed = parse_command(line.command, kind or line.backend_type)
    warnings = _remarks(services, parsed)
    override = parsed.command_override
    return ParsedCommand(
        backend_type=parsed.backend_type,
        backend_options=dict(parsed.backend_options),
        environment=dict(parsed.environment) or None,
        command_override=list(override) if isinstance(override, tuple) else override,
        docker_enabled=True if parsed.docker else None,
        docker=parsed.docker,
        warnings=list(warnings) or None,
    )


def _remarks(services: Services, parsed: Parsed) -> tuple[str, ...]:
    """The warnings that hold for the version installed here, and what that one would refuse, as far as it has told already.
    Nothing is run for a command line that was only pasted."""
    workshop = services.fleet.workshop
    raw = {
        "backend_type": parsed.backend_type,
        "backend_options": parsed.backend_options,
        "environment": parsed.environment,
        "command_override": parsed.command_override,
        "docker_enabled": True if parsed.docker else None,
        "docker": parsed.docker,
    }
    try:
        options, _ = parse_options(raw, workshop.limits)
    except errors.Invalid:  # creating the instance will say it, field by field
        return parsed.warnings
    return workshop.remarks(options, parsed.warnings)


_EXAMPLE = {"command": "llama-server -m /models/qwen3-8b-q4_k_m.gguf -c 8192 -ngl 99"}
_RAISES = (errors.BadCommand, errors.BadRequest, errors.Invalid, errors.TooLarge)

ROUTES = (
    Route(
        "POST", "/api/v1/backends/parse-command", parse_any, Access.MANAGEMENT, "backends",
        CommandLine, ParsedCommand, raises=_RAISES, example=_EXAMPLE,
    ),
    Route(
        "POST", "/api/v1/backends/{backend}/parse-command", parse_for, Access.MANAGEMENT, "backends",
        CommandLine, ParsedCommand, raises=(*_RAISES, errors.NotFound), example=_EXAMPLE,
    ),
)  # fmt: skip
