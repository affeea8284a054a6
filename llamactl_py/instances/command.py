"""From options to a running process: the exact command, its environment, its port, its key; then the launcher starts it."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct
from msgspec.structs import replace

from llamactl_py.backends import Backend, backend
from llamactl_py.config.settings import Instances, Settings
from llamactl_py.ground import chance
from llamactl_py.ground.errors import StartFailed, StorageFailed
from llamactl_py.ground.ticket import Ticket
from llamactl_py.instances import sockets
from llamactl_py.instances.containers import Box, box, is_boxed
from llamactl_py.instances.options import InstanceOptions
from llamactl_py.instances.ports import LOOPBACK, Ports, is_free
from llamactl_py.instances.programs import Program, Programs
from llamactl_py.instances.readiness import Probe, probe
from llamactl_py.instances.target import Target, is_socket_path
from llamactl_py.launchers.base import Command, Handle, Launcher

if TYPE_CHECKING:
    from llamactl_py.backends.installed import Installed

log = logging.getLogger(__name__)

INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+|VIRTUAL_ENV|CONDA_\w+"
    r"|(CUDA|NVIDIA|NCCL|HIP|ROCR|ROCM|HSA|GGML|LLAMA|MLX|VLLM|LMDEPLOY|HF|HUGGINGFACE|TRANSFORMERS|TORCH|PYTORCH|TRITON|OMP|MKL|OPENBLAS|METAL)_\w+"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:(https?|all|no|ftp)_proxy)"
)
"""Variables of the daemon's environment that a backend gets: what finds programs, models, devices, certificates."""
ENGINE = re.compile(r"(DOCKER|CONTAINER|CONTAINERS|BUILDKIT)_\w+")
"""What docker and podman read beside these: where their engine is, and their settings."""


class TicketStore(Protocol):
    """Where tickets are kept (`storage.tickets`)."""

    async def add(self, ticket: Ticket) -> None: ...
    async def remove(self, token: str) -> None: ...


class Launch(Struct, frozen=True):
    """A command that was started, and what has to be known to deal with it."""

    handle: Handle
    program: str
    target: Target
    health_path: str
    repeat_term_after: float | None
    has_own_listener: bool = True
    """Is the one that listens on its port a process of its tree? Not so where an engine publishes a container's port."""

    @property
    def port(self) -> int | None:
        """Its TCP port, where it has one."""
        return self.target.port or None

    @property
    def socket(self) -> str | None:
        """The path of its Unix socket, where it has one."""
        return self.target.host if is_socket_path(self.target.host) else None

    def port_is_free(self) -> bool:
        """After our process is gone: could it have had its port?"""
        return self.port is None or is_free(self.port)


class Composed(Struct, frozen=True):
    """What a start runs, worked out: nothing is taken or started, and nothing looked up but the program.

    *title*: what it is called where its end is told. *program*: what can be asked about itself; None for a container.
    """

    command: Command
    title: str
    program: Program | None


class Workshop(Struct):
    """What every owner needs to start its backend. Its settings and environment are replaced when they are read again."""

    settings: Settings
    launcher: Launcher
    tickets: TicketStore
    ports: Ports
    environ: Mapping[str, str]
    probe: Probe = probe
    """How a backend is asked whether it is ready; where launchers are fakes, this is theirs too."""
    programs: Programs | None = None
    """What is known of the programs that are run; None where launchers are fakes."""

    @property
    def limits(self) -> Instances:
        return self.settings.instances

    async def prepare(self, name: str, options: InstanceOptions) -> Launch:
        """Start the backend. Raises StartFailed, StorageFailed; then nothing is left of the attempt."""
        kind = backend(options.backend_type)
        api_key = chance.token(32) if kind.has_api_key else None
        host, port = self.take_address(name, options)
        recorded: list[Ticket] = []

        async def record(ticket: Ticket) -> None:
            recorded.append(ticket)
            await self.tickets.add(ticket)

        try:
            made = self.compose(name, options, host, port, api_key)
            for objection in self.objections(options):
                log.warning("%s: %s", name, objection)
            handle = await self.launcher.launch(made.command, record)
        except BaseException:
            self.give_back((host, port))
            for ticket in recorded:
                await self.settled(ticket)
            raise
        if self.programs and made.program:
            self.programs.want(made.program)  # beside the start, which does not wait for the answer
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        target = Target(name, host, port, headers, kind.may_rest(options.backend_options))
        is_ours = made.program is not None
        return Launch(
            handle,
            made.title,
            target,
            kind.health(options.backend_options),
            kind.stop.repeat_term_after,
            has_own_listener=is_ours,
        )

    def compose(self, name: str, options: InstanceOptions, host: str, port: int, api_key: str | None) -> Composed:
        """The exact command of an instance that is to be reached at *host* and *port*. Raises StartFailed."""
        kind = backend(options.backend_type)
        container = box(kind, self.settings.backends.of(kind.slug).docker, name, options)
        if container:
            return self._compose_in(container, kind, name, options, port, api_key)
        refuse_missing_model(kind, options)
        found = self.program(kind, options)
        line = kind.command_line(
            in_home(kind, options.backend_options),
            command=found.words,
            name=name,
            host=host,
            port=port,
            api_key=api_key,
            environment=options.environment,
        )
        environment = {**found.environment, **line.environment}

        def stop(pid: int) -> tuple[str, ...]:
            words = kind.stop_argv(options.backend_options, host=host, port=port, name=name, pid=pid)
            return (_which(words[0], environment.get("PATH", os.defpath)) or words[0], *words[1:])

        asks = stop if kind.stop_argv(options.backend_options, host=host, port=port) else None
        command = Command(name, line.argv, environment, self.log_file(name), port, stop=asks)
        return Composed(command, Path(found.words[0]).name, found)

    def _compose_in(
        self, container: Box, kind: Backend, name: str, options: InstanceOptions, port: int, api_key: str | None
    ) -> Composed:
        """The same, in a container: a model path is one of its own, and so is the program."""
        configured = self.settings.backends.of(kind.slug)
        line = kind.command_line(
            options.backend_options,
            command=kind.words(options.backend_options) or container.command,
            name=name,
            host=container.host,
            port=port,
            api_key=api_key,
            environment=options.environment,
        )
        inside = {**configured.environment, **configured.docker.environment, **options.environment, **line.environment}
        environment = {**self.inherited(ENGINE), **inside}
        (engine,) = executable(
            (container.engine,), self.environ.get("PATH", os.defpath), "install it, or set docker.engine of the backend"
        )
        container = replace(container, engine=engine)
        argv = container.run(port, inside, line.argv)
        command = Command(name, argv, environment, self.log_file(name), port, cleanup=container.removal)
        return Composed(command, f"{Path(engine).name} run {container.image}", None)

    def take_address(self, name: str, options: InstanceOptions) -> tuple[str, int]:
        """Host and port that nobody uses; the path of a socket and 0 where the options want that. Raises StartFailed."""
        if options.unix_socket:
            return str(sockets.take(self.settings.sockets_dir, name)), 0
        return LOOPBACK, self.ports.take()

    def give_back(self, address: tuple[str, int]) -> None:
        """Nobody is there any more."""
        host, port = address
        if is_socket_path(host):
            sockets.remove(host)
        else:
            self.ports.give_back(port)

    async def settled(self, ticket: Ticket) -> None:
        """No process of that ticket is left: forget it. One that cannot be forgotten is harmless, the next sweep finds nobody."""
        try:
            await self.tickets.remove(ticket.token)
        except StorageFailed:
            return

    def program(self, kind: Backend, options: InstanceOptions | None = None) -> Program:
        """What starts it, looked up: for an instance with *options*, or as the settings alone say. Raises StartFailed."""
        search = self.search_path(kind, options)
        words = self.words(kind, options)
        found = Program(kind, executable(words, search, kind.install_hint), self.environment(kind, options))
        if self.programs:
            self.programs.note(words, search, found)
        return found

    def installed(self, kind: Backend, options: InstanceOptions | None = None) -> Installed | None:
        """What that program takes, as far as it has told already. Asks nobody and looks nothing up."""
        if self.programs is None or (options and self.is_in_container(kind, options)):
            return None
        return self.programs.noted(kind, self.words(kind, options), self.search_path(kind, options))

    def objections(self, options: InstanceOptions) -> tuple[str, ...]:
        """Why a start of the installed version would fail with these options, as far as is known."""
        return self.remarks(options, ())

    def remarks(self, options: InstanceOptions, warnings: tuple[str, ...]) -> tuple[str, ...]:
        """*warnings* that hold for the installed version, and its objections."""
        known = self.installed(backend(options.backend_type), options)
        return (*known.still_true(warnings), *known.objections(options.backend_options)) if known else warnings

    def ask_about(self, fleet: Iterable[InstanceOptions]) -> None:
        """Have the programs of all these asked, some time, what they take."""
        seen = set()
        for options in fleet:
            kind = backend(options.backend_type)
            words = self.words(kind, options)
            if self.programs and words not in seen and not self.is_in_container(kind, options):
                seen.add(words)
                with suppress(StartFailed):  # not there: its start will say so
                    self.programs.want(self.program(kind, options))

    def is_in_container(self, kind: Backend, options: InstanceOptions) -> bool:
        return is_boxed(self.settings.backends.of(kind.slug).docker, options)

    def words(self, kind: Backend, options: InstanceOptions | None = None) -> tuple[str, ...]:
        """Executable and leading arguments, before the options."""
        if options and (said := kind.words(options.backend_options)):
            return said
        configured = self.settings.backends.of(kind.slug)
        arguments = kind.command[1:] if configured.args is None else configured.args
        match options.command_override if options else None:
            case None:
                return (configured.command, *arguments) if configured.command else (*kind.command[:1], *arguments)
            case str() as program:
                return (program, *arguments)
            case words:
                return words

    def environment(self, kind: Backend, options: InstanceOptions | None = None) -> dict[str, str]:
        """The allowed part of the daemon's environment, then the backend's, then the instance's: later wins."""
        return {
            **self.inherited(),
            **self.settings.backends.of(kind.slug).environment,
            **(options.environment if options else {}),
        }

    def search_path(self, kind: Backend, options: InstanceOptions | None = None) -> str:
        """PATH of that environment: where programs are looked up. (For every view of an instance: no need to make it whole.)"""
        of_kind = self.settings.backends.of(kind.slug).environment
        for environment in (options.environment if options else {}, of_kind, self.environ):
            if "PATH" in environment:
                return environment["PATH"]
        return os.defpath

    def inherited(self, *more: re.Pattern[str]) -> dict[str, str]:
        """The part of the daemon's environment that every backend gets, and what *more* matches."""
        return inherited(self.environ, *more)

    def log_file(self, name: str) -> Path:
        return self.settings.logs_dir / f"{name}.log"


def inherited(environ: Mapping[str, str], *more: re.Pattern[str]) -> dict[str, str]:
    """The variables of *environ* that match INHERITED or one of *more*."""
    return {name: value for name, value in environ.items() if any(p.fullmatch(name) for p in (INHERITED, *more))}


def executable(words: tuple[str, ...], search: str, remedy: str) -> tuple[str, ...]:
    """*words* with the program as a full path: looked up on PATH, then beside our own interpreter, where extras are installed."""
    program = os.path.expanduser(words[0])  # noqa: PTH111 a bare name must stay one
    beside_us = str(Path(sys.executable).parent)
    found = _which(program, os.pathsep.join((search, beside_us)))
    if found is None:
        raise StartFailed(f"{words[0]!r} is not an executable file or a command on PATH; {remedy}")
    return (str(Path(found).absolute()), *words[1:])


def _which(program: str, search: str) -> str | None:
    import shutil  # a start of the daemon looks for nothing

    return shutil.which(program, path=search)


def in_home(kind: Backend, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """*options* with a model below ~ under its whole path: a shell would write it so, and here is none."""
    path = kind.model_path(options)
    return {**options, "model": os.path.expanduser(path)} if path and path.startswith("~") else options  # noqa: PTH111


def refuse_missing_model(kind: Backend, options: InstanceOptions) -> None:
    """A model path that does not exist is known before any start: some servers never exit on it (mlx_lm.server does not)."""
    path = kind.model_path(options.backend_options)
    if path and not os.path.exists(os.path.expanduser(path)):  # noqa: PTH110, PTH111 Path's raise on ~nobody and long names
        raise StartFailed(f"model {path!r} does not exist, or may not be read")
