"""Looking at the machine's processes: who they are, who started whom, which are ours. Reads only.

On Linux straight from /proc (a scan of 300 processes takes 3 ms); elsewhere through psutil.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from llamactl_py.ground.importing import lazily
from llamactl_py.launchers.base import Listening
from llamactl_py.launchers.sockets import listening_inodes

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazily("psutil")

LINUX = sys.platform == "linux"
GONE = (FileNotFoundError, ProcessLookupError, PermissionError)
"""What reading about a process raises when it has ended meanwhile, or is none of ours. Nothing else may pass for that: with no
descriptor left to look with, every tree would seem to be empty."""
WENT = GONE if LINUX else (*GONE, psutil.Error)
PROC = Path("/proc")


class Process(Struct, frozen=True):
    """One process at one moment. *start_time* as in `Ticket`."""

    pid: int
    parent: int
    session: int
    start_time: int
    is_zombie: bool

    def is_same_as(self, other: Process | None) -> bool:
        """Are both the same process, perhaps at different moments?"""
        return other is not None and (self.pid, self.start_time) == (other.pid, other.start_time)

    def send(self, number: signal.Signals) -> bool:
        """Signal this very process; False when it is gone, also when its pid belongs to another one by now."""
        try:
            if not LINUX:
                if start_time(self.pid) != self.start_time:
                    return False
                os.kill(self.pid, number)
                return True
            # A pidfd names the process, not the number: checked after opening, it cannot become a stranger in between.
            descriptor = os.pidfd_open(self.pid)
            try:
                if start_time(self.pid) != self.start_time:
                    return False
                signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
        except (ProcessLookupError, PermissionError):
            return False
        return True


@cache
def boot_id() -> str:
    """Changes with each boot of the machine: pids and start times of another boot mean nothing."""
    if LINUX:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return str(int(psutil.boot_time()))


def start_time(pid: int) -> int | None:
    """When that process began, in its own unit; None when there is none."""
    found = look(pid)
    return found.start_time if found else None


def look(pid: int) -> Process | None:
    """The process with that pid now."""
    try:
        if not LINUX:
            process = psutil.Process(pid)
            with process.oneshot():
                ended = process.status() == psutil.STATUS_ZOMBIE
                return Process(pid, process.ppid(), os.getsid(pid), int(process.create_time() * 1e6), ended)
        stat = (PROC / str(pid) / "stat").read_bytes()
    except WENT:
        return None
    # The second field is the name in parentheses and may itself hold spaces and parentheses.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in (b"Z", b"X"))


def snapshot() -> dict[int, Process]:
    """Every process of the machine, by pid."""
    pids = (int(entry) for entry in os.listdir(PROC) if entry.isdigit()) if LINUX else psutil.pids()
    return {pid: process for pid in pids if (process := look(pid))}


def children(pid: int) -> list[Process]:
    """Direct children of that process."""
    if not LINUX:
        return [process for process in snapshot().values() if process.parent == pid]
    found: list[Process] = []
    with suppress(*GONE):
        for task in os.listdir(f"/proc/{pid}/task"):
            pids = (PROC / str(pid) / "task" / task / "children").read_text().split()
            found.extend(process for child in pids if (process := look(int(child))))
    return found


def below(pids: Collection[int]) -> dict[int, Process]:
    """Those of *pids* that are there, and everybody below them, by pid: what `snapshot` tells of them, at less cost."""
    if not LINUX:
        table = snapshot()
        return {pid: table[pid] for pid in descendants(pids, table)}
    found = {pid: process for pid in pids if (process := look(pid))}
    to_visit = list(found)
    while to_visit:
        for child in children(to_visit.pop()):
            if child.pid not in found:
                found[child.pid] = child
                to_visit.append(child.pid)
    return found


def marked(value: str, variable: str) -> set[int]:
    """Processes of ours whose environment has *variable* beginning with *value*.

    A program that writes over its own environment (setproctitle does) is not found by this; its session and parents tell.
    """
    if LINUX:
        return {int(entry) for entry in os.listdir(PROC) if entry.isdigit() and is_marked(int(entry), value, variable)}
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable, "").startswith(value):
                found.add(process.pid)
    return found


def is_marked(pid: int, value: str, variable: str) -> bool:
    """The same for one process; on Linux only."""
    needle = f"{variable}={value}".encode()
    with suppress(*GONE):
        environment = (PROC / str(pid) / "environ").read_bytes()
        return environment.startswith(needle) or b"\0" + needle in environment
    return False


def descendants(roots: Collection[int], table: Mapping[int, Process]) -> set[int]:
    """*roots* and everything below them."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    to_visit = [pid for pid in roots if pid in table]
    while to_visit:
        pid = to_visit.pop()
        if pid not in found:
            found.add(pid)
            to_visit.extend(children.get(pid, ()))
    return found


def listening(port: int, ours: Collection[int]) -> Listening:
    """Who listens on that TCP port. OURS only if every listener is one of *ours*: with SO_REUSEPORT several processes can
    share a port, and the kernel would hand part of our requests to the stranger."""
    if not LINUX:
        return _listening_by_psutil(port, ours)
    inodes = {f"socket:[{inode}]" for inode in listening_inodes(port)}
    for pid in ours:
        if not inodes:
            break
        with suppress(*GONE):
            folder = f"/proc/{pid}/fd"
            for descriptor in os.listdir(folder):
                with suppress(*GONE):
                    link = os.readlink(f"{folder}/{descriptor}")  # noqa: PTH115 thousands of them: strings are enough
                    if link in inodes:
                        inodes.discard(link)
                        if not inodes:
                            return Listening.OURS
    return Listening.STRANGER if inodes else Listening.NOBODY


def _listening_by_psutil(port: int, ours: Collection[int]) -> Listening:
    """Elsewhere only our own processes' sockets can be seen without being root: a stranger is what nobody of ours explains."""
    for pid in ours:
        with suppress(psutil.Error):
            for connection in psutil.Process(pid).net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return Listening.OURS
    return Listening.NOBODY
