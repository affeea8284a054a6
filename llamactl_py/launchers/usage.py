"""What process trees use: looked at when somebody asks, in a thread, and not twice within a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from llamactl_py.ground.importing import lazily
from llamactl_py.ground.ticket import SPAWN_VARIABLE
from llamactl_py.launchers import processes
from llamactl_py.launchers.base import Usage
from llamactl_py.launchers.processes import Process

if TYPE_CHECKING:
    import psutil
else:
    psutil = lazily("psutil")

FRESH = 1.0
"""Seconds for which a look at the machine is good enough."""


class Survey:
    """All processes of the machine; one look serves all instances, and everybody who asks meanwhile."""

    def __init__(self) -> None:
        self._table: Mapping[int, Process] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    async def table(self) -> Mapping[int, Process]:
        """Every process by pid, as of at most `FRESH` seconds ago."""
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._looked_at >= FRESH:
                self._table = await asyncio.to_thread(processes.snapshot)
                self._looked_at = now
            return self._table


class Meter:
    """Measures one tree, again and again."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._measured_at = float("-inf")
        self._spent: dict[Process, float] = {}
        self._latest = Usage(0, 0, 0.0, None)
        self._measuring = asyncio.Lock()

    async def usage(self, leader: Process, mark: str, seen: Collection[Process]) -> Usage:
        """Of *leader*, its session, orphans with its *mark*, those of *seen* that still live, and all below these."""
        async with self._measuring:
            now = asyncio.get_running_loop().time()
            passed = now - self._measured_at
            if passed >= FRESH:
                table = await self._survey.table()
                memory, spent = await asyncio.to_thread(_measure, table, leader, mark, seen)
                self._latest = Usage(len(spent), memory, sum(spent.values()), self._percent(spent, passed))
                self._measured_at, self._spent = now, spent
            return self._latest

    def _percent(self, spent: Mapping[Process, float], passed: float) -> float | None:
        """What was spent since the last time; all that a process has spent, if it is new."""
        if passed == float("inf"):
            return None
        return 100 * sum(max(0.0, total - self._spent.get(process, 0.0)) for process, total in spent.items()) / passed


def _members(table: Mapping[int, Process], leader: Process, mark: str, seen: Collection[Process]) -> list[Process]:
    roots = {process.pid for process in seen if process.is_same_as(table.get(process.pid))}
    if leader.is_same_as(table.get(leader.pid)):
        roots.add(leader.pid)
        roots |= {p.pid for p in table.values() if p.session == leader.pid}
    if processes.LINUX:  # the kernel makes orphans our children; their environment says whose they were
        ours = (p.pid for p in table.values() if p.parent == os.getpid() and p.pid not in roots)
        roots |= {pid for pid in ours if processes.is_marked(pid, mark, SPAWN_VARIABLE)}
    return [table[pid] for pid in processes.descendants(roots, table) if not table[pid].is_zombie]


def _measure(
    table: Mapping[int, Process], leader: Process, mark: str, seen: Collection[Process]
) -> tuple[int, dict[Process, float]]:
    """(bytes resident, CPU seconds of each). Those that ended meanwhile are left out."""
    memory = 0
    spent: dict[Process, float] = {}
    for member in _members(table, leader, mark, seen):
        try:
            process = psutil.Process(member.pid)
            with process.oneshot():
                times = process.cpu_times()
                resident = process.memory_info().rss
        except psutil.Error:
            continue
        if processes.start_time(member.pid) == member.start_time:
            memory += resident
            spent[Process(member.pid, 0, 0, member.start_time, is_zombie=False)] = times.user + times.system
    return memory, spent
