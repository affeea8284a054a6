"""The identity of a running instance: enough to find it again, and never to mistake a stranger for it."""

from __future__ import annotations

from msgspec import Struct

SPAWN_VARIABLE = "LLAMACTL_SPAWN"
"""Environment variable that marks every process of ours: `<data directory id>:<token>`. Children inherit it."""


class Ticket(Struct, frozen=True):
    """Stored before the process runs.

    A pid alone is worthless once its process is gone, as the kernel gives it to the next one: (boot, pid, start time)
    names one process for ever, and the token finds its descendants.
    """

    token: str
    instance: str
    boot_id: str
    pid: int
    start_time: int
    """Clock ticks since boot on Linux (/proc/PID/stat field 22), microseconds since 1970 elsewhere."""
    cleanup: tuple[str, ...] = ()
    """A command that takes away what no signal of ours reaches (a container), run when the tree is gone. Holds no secrets."""
