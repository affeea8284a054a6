"""What a start would run, to the letter, without starting or reserving anything. Secrets are masked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from llamactl_py.backends import Backend, backend
from llamactl_py.ground.errors import StartFailed
from llamactl_py.ground.masking import MASK
from llamactl_py.instances import sockets
from llamactl_py.instances.command import Workshop, refuse_missing_model
from llamactl_py.instances.options import InstanceOptions, is_secret
from llamactl_py.instances.ports import LOOPBACK

_PASSWORD_IN_URL = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")

Address = tuple[str, int]
"""Host and port; the path of a socket and 0."""


class Preview(Struct, frozen=True):
    """*address_is_settled*: it is reached there now; else a start at this moment would take that. *problems*: why a start would
    fail as things are. *argv* is empty where there is none then, which is so of containers only."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    directory: Path
    address: Address
    address_is_settled: bool
    shell: str
    problems: tuple[str, ...]
    stop: tuple[str, ...]
    """What asks it to end, before any signal; with pid 0."""


def preview(workshop: Workshop, name: str, options: InstanceOptions, address: Address | None = None) -> Preview:
    """What starting instance *name* with *options* would run. *address*: where it is reached, if it runs with just these."""
    kind = backend(options.backend_type)
    problems: list[str] = []
    host, port = address or _next_address(workshop, name, options, problems)
    key = MASK if kind.has_api_key else None
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    try:
        command = workshop.compose(name, options, host, port, key).command
        argv, environment = command.argv, command.environment
        stop = tuple(command.stop(0)) if command.stop else ()
    except StartFailed as error:
        if workshop.is_in_container(kind, options):
            problems.append(str(error))
            argv, environment = (), workshop.environment(kind, options)
        else:
            problems += _problems(lambda: workshop.program(kind, options), lambda: refuse_missing_model(kind, options))
            line = kind.command_line(
                options.backend_options, command=workshop.words(kind, options), name=name, host=host, port=port, api_key=key,
                environment=options.environment,
            )  # fmt: skip
            argv, environment = line.argv, {**workshop.environment(kind, options), **line.environment}
        stop = ()
    secret = _secrets(environment, kind)
    own = {n: value for n, value in environment.items() if workshop.environ.get(n) != value and n != kind.api_key_variable}
    return Preview(
        argv,
        {n: MASK if n in secret else _PASSWORD_IN_URL.sub(rf"\g<1>{MASK}@", value) for n, value in sorted(environment.items())},
        workshop.log_file(name),
        Path.cwd(),
        (host, port),
        address is not None,
        shell_text(argv, own, secret, Path.cwd()) if argv else "",
        tuple(problems),
        stop,
    )


def shell_text(argv: Iterable[str], environment: Mapping[str, str], secret: Collection[str], directory: Path) -> str:
    """A command for sh that runs *argv* there. A secret comes from the shell's own variable of that name, which has to be set."""
    lines = [f"cd {shlex.quote(str(directory))} &&"]
    for name, value in sorted(environment.items()):
        masks = name in secret or _PASSWORD_IN_URL.search(value)
        lines.append(f'{name}="${{{name}:?}}"' if masks else f"{name}={shlex.quote(value)}")
    for number, word in enumerate(argv):
        if word.startswith("-") or not number:
            lines.append(shlex.quote(word))
        else:
            lines[-1] += f" {shlex.quote(word)}"
    return " \\\n  ".join(lines)


def _next_address(workshop: Workshop, name: str, options: InstanceOptions, problems: list[str]) -> Address:
    """What a start at this moment would take; the first port of all where none is free."""
    try:
        if options.unix_socket:
            return str(sockets.path_of(workshop.settings.sockets_dir, name)), 0
        return LOOPBACK, workshop.ports.next_free()
    except StartFailed as error:
        problems.append(str(error))
        return LOOPBACK, workshop.limits.port_range[0]


def _problems(*checks: Callable[[], object]) -> list[str]:
    found = []
    for check in checks:
        try:
            check()
        except StartFailed as error:
            found.append(str(error))
    return found


def _secrets(environment: Iterable[str], kind: Backend) -> set[str]:
    of_flags = {flag.env for flag in kind.catalogue if flag.secret and flag.env}
    return {name for name in environment if is_secret(name) or name in of_flags or name == kind.api_key_variable}
