"""Which processes belong together: everybody who came from one that we started, however far they moved away."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from functools import cache

from llamactl_py.ground.ticket import SPAWN_VARIABLE, Ticket
from llamactl_py.launchers import processes
from llamactl_py.launchers.processes import Process


def tree(ticket: Ticket, mark: str, seen: Collection[Process] = ()) -> list[Process]:
    """Every living process of the ticket's instance; *seen* are some that once were.

    Reaps orphans that ended, as the kernel makes them our children.
    """
    table = processes.snapshot()
    leader = table.get(ticket.pid)
    roots = processes.marked(mark, SPAWN_VARIABLE)
    if leader is None or leader.start_time == ticket.start_time:
        # A session keeps its number for as long as it has members, so nobody else can have it while we look.
        roots |= {p.pid for p in table.values() if p.session == ticket.pid and p.start_time >= ticket.start_time}
    roots |= {process.pid for process in seen if process.is_same_as(table.get(process.pid))}
    members = [table[pid] for pid in processes.descendants(roots, table)]
    for member in members:
        if member.is_zombie and member.parent == os.getpid() and member.pid != ticket.pid:
            with suppress(ChildProcessError):
                os.waitpid(member.pid, os.WNOHANG)
    return [m for m in members if not m.is_zombie]


@cache
def become_subreaper() -> None:
    """On Linux, have orphans of our trees become our children instead of init's: visible to us, and reaped by us."""
    if processes.LINUX:
        import ctypes

        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
