"""What a launcher and a handle promise. `local` keeps these promises with processes, the tests' fakes in virtual time."""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from llamactl_py.ground.private import Private
from llamactl_py.ground.ticket import Ticket


class Command(Private, frozen=True):
    """What to run: exact words, never a shell line."""

    instance: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    port: int
    """TCP port that it is to listen on; 0 where that is none of this machine's (a Unix socket)."""
    directory: Path | None = None
    stop: Callable[[int], Sequence[str]] | None = None
    """Given its pid: the command that asks it to end, run before any signal; None where signals are enough."""
    cleanup: tuple[str, ...] = ()
    """See `Ticket.cleanup`."""


class Exit(Struct, frozen=True):
    """How the leading process ended. *code*: its exit code, or minus the number of the signal that ended it (None: unknown)."""

    code: int | None
    last_lines: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.code is None:
            return "ended in an unknown way"
        return f"was ended by signal {-self.code}" if self.code < 0 else f"exited with code {self.code}"


class Usage(Struct, frozen=True):
    """What a process tree takes of the machine."""

    processes: int
    memory: int
    """Bytes resident, summed over the tree: pages that processes share, and a model mapped from its file, count in each."""
    cpu_seconds: float
    """User and system time of those that live."""
    cpu_percent: float | None
    """Of one core, since the measurement before; None for the first."""


class Listening(enum.Enum):
    """Who has the instance's port."""

    NOBODY = "nobody"
    OURS = "ours"
    STRANGER = "stranger"


Record = Callable[[Ticket], Awaitable[None]]
"""Stores a ticket; called after the process has its identity and before it runs the command."""


class Handle(Protocol):
    """A running instance, as its launcher sees it."""

    @property
    def ticket(self) -> Ticket: ...

    async def exited(self) -> Exit:
        """Wait until the leading process has ended; any number may wait. Others of its tree may still live: `stop` ends them."""
        ...

    async def stop(self, grace: float, repeat_term_after: float | None = None) -> Exit:
        """End the whole tree: run its stop command if it has one, ask the leader (SIGTERM, again every *repeat_term_after*
        seconds), and after *grace* seconds kill all; then clean up. Returns when no process of the instance is left, and only
        then."""
        ...

    def kill(self) -> None:
        """Kill what is known of the tree, at once and without waiting: the way out when there is no time to await."""
        ...

    def hurry(self) -> None:
        """Let the grace of a `stop` under way end now."""
        ...

    async def listening(self, port: int) -> Listening:
        """Whose process listens on that TCP port of this machine."""
        ...

    async def usage(self) -> Usage:
        """What the tree uses now, or did within the last second or so."""
        ...


class Launcher(Protocol):
    """Where instances run."""

    async def launch(self, command: Command, record: Record) -> Handle:
        """Start *command*. Raises StartFailed (not found, not executable, ...), leaving nothing behind."""
        ...

    def forget_log(self, log_file: Path) -> None:
        """Delete the log of an instance that is no more, rotated files included."""
        ...
