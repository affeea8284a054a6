"""From options to a running process: the exact command, its environment, its port, its key; then the launcher starts it."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llamactl_py.backends import Backend, backend
from llamactl_py.config.settings import Instances, Settings
from llamactl_py.ground.errors import StartFailed, StorageFailed
from llamactl_py.ground.ticket import Ticket
from llamactl_py.instances.options import InstanceOptions
from llamactl_py.instances.ports import LOOPBACK, Ports, is_free
from llamactl_py.instances.readiness import Probe, probe
from llamactl_py.instances.target import Target
from llamactl_py.launchers.base import Command, Handle, Launcher

INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|XDG_\w+|LD_LIBRARY_PATH|DYLD_\w+|VIRTUAL_ENV|CONDA_\w+"
    r"|(CUDA|NVIDIA|NCCL|HIP|ROCR|ROCM|HSA|GGML|LLAMA|MLX|VLLM|LMDEPLOY|HF|HUGGINGFACE|TRANSFORMERS|TORCH|PYTORCH|TRITON|OMP|MKL|OPENBLAS|METAL)_\w+"
    r"|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(?i:(https?|all|no|ftp)_proxy)"
)
"""Variables of the daemon's environment that a backend gets: what finds programs, models, devices, certificates."""


class TicketStore(Protocol):
    """Where tickets are kept (`storage.tickets`)."""

    async def add(self, ticket: Ticket) -> None: ...
    async def remove(self, token: str) -> None: ...


@dataclass(frozen=True)
class Launch:
    """A command that was started, and what has to be known to deal with it."""

    handle: Handle
    program: str
    port: int
    target: Target
    health_path: str
    repeat_term_after: float | None

    def port_is_free(self) -> bool:
        """After our process is gone: could it have had its port?"""
        return is_free(self.port)


@dataclass(frozen=True)
class Workshop:
    """What every owner needs to start its backend."""

    settings: Settings
    launcher: Launcher
    tickets: TicketStore
    ports: Ports
    environ: Mapping[str, str]
    probe: Probe = probe
    """How a backend is asked whether it is ready; where launchers are fakes, this is theirs too."""

    @property
    def limits(self) -> Instances:
        return self.settings.instances

    async def prepare(self, name: str, options: InstanceOptions) -> Launch:
        """Start the backend. Raises StartFailed, StorageFailed; then nothing is left of the attempt."""
        kind = backend(options.backend_type)
        refuse_missing_model(kind, options)
        environment = self.environment(kind, options)
        program = executable(self.words(kind, options), environment.get("PATH", os.defpath), kind)
        port = self.ports.take()
        api_key = secrets.token_urlsafe(32) if kind.has_api_key else None
        recorded: list[Ticket] = []

        async def record(ticket: Ticket) -> None:
            recorded.append(ticket)
            await self.tickets.add(ticket)

        try:
            line = kind.command_line(
                options.backend_options,
                command=program,
                name=name,
                host=LOOPBACK,
                port=port,
                api_key=api_key,
                environment=options.environment,
            )
            command = Command(name, line.argv, {**environment, **line.environment}, self.log_file(name), port)
            handle = await self.launcher.launch(command, record)
        except BaseException:
            self.ports.give_back(port)
            for ticket in recorded:
                await self.settled(ticket)
            raise
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        target = Target(name, LOOPBACK, port, headers, kind.may_rest(options.backend_options))
        health_path = kind.health(options.backend_options)
        return Launch(handle, Path(program[0]).name, port, target, health_path, kind.stop.repeat_term_after)

    async def settled(self, ticket: Ticket) -> None:
        """No process of that ticket is left: forget it. One that cannot be forgotten is harmless, the next sweep finds nobody."""
        try:
            await self.tickets.remove(ticket.token)
        except StorageFailed:
            return

    def words(self, kind: Backend, options: InstanceOptions) -> tuple[str, ...]:
        """Executable and leading arguments, before the options."""
        if said := kind.words(options.backend_options):
            return said
        configured = self.settings.backends.of(kind.slug)
        usual_program, *usual_arguments = kind.command
        arguments = usual_arguments if configured.args is None else list(configured.args)
        match options.command_override:
            case None:
                return (configured.command or usual_program, *arguments)
            case str() as program:
                return (program, *arguments)
            case words:
                return words

    def environment(self, kind: Backend, options: InstanceOptions) -> dict[str, str]:
        """The allowed part of the daemon's environment, then the backend's, then the instance's: later wins."""
        inherited = {name: value for name, value in self.environ.items() if INHERITED.fullmatch(name)}
        return {**inherited, **self.settings.backends.of(kind.slug).environment, **options.environment}

    def log_file(self, name: str) -> Path:
        return self.settings.logs_dir / f"{name}.log"


def executable(words: tuple[str, ...], search: str, kind: Backend) -> tuple[str, ...]:
    """*words* with the program as a full path: looked up on PATH, then beside our own interpreter, where extras are installed."""
    program = os.path.expanduser(words[0])  # noqa: PTH111 a bare name must stay one
    beside_us = str(Path(sys.executable).parent)
    found = shutil.which(program, path=os.pathsep.join((search, beside_us)))
    if found is None:
        raise StartFailed(f"{words[0]!r} is not an executable file or a command on PATH; {kind.install_hint}")
    return (str(Path(found).absolute()), *words[1:])


def refuse_missing_model(kind: Backend, options: InstanceOptions) -> None:
    """A model path that does not exist is known before any start: some servers never exit on it (mlx_lm.server does not)."""
    path = kind.model_path(options.backend_options)
    if path and not os.path.exists(os.path.expanduser(path)):  # noqa: PTH110, PTH111 Path's raise on ~nobody and long names
        raise StartFailed(f"model {path!r} does not exist, or may not be read")
