"""The launcher for this machine: each instance is a process tree of its own session, and is gone only when all of it is."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shlex
import signal
import socket
import subprocess
import threading
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType

from llamactl_py.ground import chance, clock
from llamactl_py.ground.errors import StartFailed
from llamactl_py.ground.ticket import SPAWN_VARIABLE, Ticket
from llamactl_py.ground.waiting import first_of, within
from llamactl_py.launchers import logs, processes
from llamactl_py.launchers.base import Command, Exit, Listening, Record, Usage
from llamactl_py.launchers.errands import Errands, Outcome
from llamactl_py.launchers.processes import Process
from llamactl_py.launchers.spawning import abandon, become, spawn
from llamactl_py.launchers.trees import tree
from llamactl_py.launchers.usage import Meter, Survey

log = logging.getLogger(__name__)

LAST_LINES = 20
LAST_BYTES = 1 << 16
MAINTENANCE_INTERVAL = 1.0
NOTHING: Mapping[str, str] = MappingProxyType({})
CLEANUP_TIMEOUT = 30.0
"""Seconds that a ticket's cleanup command may take; docker itself waits 10 before it kills."""
ORPHAN_GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL for processes that outlived their leader."""


class LocalHandle:
    """One process tree. The leader is our child; the others are found by session, descent and the mark in their environment."""

    def __init__(
        self,
        child: subprocess.Popen[bytes],
        ticket: Ticket,
        mark: str,
        command: Command,
        log_start: int,
        now: clock.Now,
        errands: Errands,
        survey: Survey,
    ) -> None:
        self.ticket = ticket
        self._command, self._errands = command, errands
        self._now = now
        self._child = child
        self._mark = mark
        self.log = command.log
        self._log_start = log_start
        self._seen: set[Process] = set()
        """Processes once found below the leader: one that detaches itself, with a clean environment, is known all the same."""
        self._meter = Meter(survey)
        self._hurried = asyncio.Event()
        self._exit: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._watch_leader()

    def __repr__(self) -> str:
        state = self._exit.result() if self._exit.done() else "is running"
        return f"<LocalHandle {self.ticket.instance} pid={self.ticket.pid} {state}>"

    @property
    def has_ended(self) -> bool:
        """Has the leader ended?"""
        return self._exit.done()

    def remember(self, table: Mapping[int, Process]) -> None:
        """Note who is below the leader in *table*, and forget who is gone."""
        below = {table[pid] for pid in processes.descendants([self.ticket.pid], table)} if not self.has_ended else set()
        alive = {process for process in self._seen if process.is_same_as(table.get(process.pid))}
        self._seen = alive | below

    async def exited(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def stop(self, grace: float, repeat_term_after: float | None = None) -> Exit:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        self.remember(processes.snapshot())  # now: with the leader's end goes the proof of who came from it
        if self._command.stop and grace and not self._exit.done():
            await within(grace, self._run_stop_command(grace))
        while not self._exit.done() and (left := deadline - loop.time()) > 0 and not self._hurried.is_set():
            self._send([self._leader()], signal.SIGTERM)
            await within(min(left, repeat_term_after or left), self._exited_or_hurried())
        orphan_deadline = min(deadline, loop.time() + ORPHAN_GRACE) if self._exit.done() else 0.0
        asked: set[Process] = set()
        pause = 0.01
        while members := self._members():
            if loop.time() < orphan_deadline and not self._hurried.is_set():
                self._send([m for m in members if m not in asked], signal.SIGTERM)
                asked.update(members)
            else:
                self._send(members, signal.SIGKILL)
            await asyncio.sleep(pause)
            if pause >= 1.0:
                log.warning("%s: processes %s do not die; still trying", self.ticket.instance, [m.pid for m in members])
            pause = min(pause * 2, 1.0)
        if self.ticket.cleanup:
            await clean_up(self._errands, self.ticket, self._command.environment)
        return await self.exited()

    async def _run_stop_command(self, grace: float) -> None:
        """Its own way of ending it. Whatever becomes of that: signals follow."""
        assert self._command.stop
        errand = self._errands.run(self._command.stop(self.ticket.pid), self._command.environment, grace)
        done = await first_of(errand=errand, hurried=self._hurried.wait())
        outcome = done.get("errand")
        if isinstance(outcome, Outcome) and not outcome.is_good:
            why = outcome.trouble or f"exited with code {outcome.code}"
            log.warning("%s: its stop command %s; it is sent SIGTERM: %s", self.ticket.instance, why, outcome.text[-300:].strip())

    def kill(self) -> None:
        try:
            self._send(self._members(), signal.SIGKILL)
        except OSError as error:  # we may open no more files, /proc among them: its session is its own until the leader is reaped
            log.warning("%s: its processes cannot be looked at (%s); its session is killed", self.ticket.instance, error.strerror)
            if not self._exit.done():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.ticket.pid, signal.SIGKILL)

    def hurry(self) -> None:
        self._hurried.set()

    async def listening(self, port: int) -> Listening:
        # Nearly always it is the leader, and asking about one process is cheap. Only then is the whole machine looked at.
        found = processes.listening(port, [self.ticket.pid])
        return processes.listening(port, [m.pid for m in self._members()]) if found is Listening.STRANGER else found

    async def usage(self) -> Usage:
        return await self._meter.usage(self._leader(), self._mark, tuple(self._seen))

    async def _exited_or_hurried(self) -> None:
        hurried = asyncio.ensure_future(self._hurried.wait())
        try:
            await asyncio.wait((self._exit, hurried), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurried.cancel()

    def _leader(self) -> Process:
        return Process(self.ticket.pid, 0, 0, self.ticket.start_time, is_zombie=False)

    def _members(self) -> list[Process]:
        """Every living process of the tree, looking twice before saying that there is none: one may fork between looks."""
        return tree(self.ticket, self._mark, self._seen) or tree(self.ticket, self._mark, self._seen)

    def _send(self, members: Collection[Process], number: signal.Signals) -> None:
        for member in members:
            member.send(number)

    def _watch_leader(self) -> None:
        """Have `_leader_ended` called on the loop when the leader exits."""
        loop = asyncio.get_running_loop()
        if processes.LINUX:
            self._pidfd = os.pidfd_open(self._child.pid)
            loop.add_reader(self._pidfd, self._leader_ended)
            return

        def wait() -> None:
            self._child.wait()
            with suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
                loop.call_soon_threadsafe(self._leader_ended)

        threading.Thread(target=wait, name=f"wait-{self.ticket.instance}", daemon=True).start()

    def _leader_ended(self) -> None:
        code = self._child.wait()  # at once: it has ended
        if processes.LINUX:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        last_lines: list[str] = []
        with suppress(OSError):  # its end counts, whatever has become of its log
            last_lines = logs.tail(self.log, LAST_LINES, LAST_BYTES, since=self._log_start)
        ended = Exit(code, tuple(last_lines))
        logs.append(self.log, f"=== Instance {self.ticket.instance} {ended} at {clock.stamp(self._now())} ===")
        self._exit.set_result(ended)


class LocalLauncher:
    """Starts process trees on this machine, and settles what an earlier daemon left behind."""

    def __init__(self, data_dir: Path, now: clock.Now, log_max_bytes: int, log_backups: int) -> None:
        self._mark = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:16]
        self._now = now
        self._log_max_bytes = log_max_bytes
        self._log_backups = log_backups
        self._survey = Survey()
        self._running: list[LocalHandle] = []
        self._launching: set[int] = set()
        self.errands = Errands(self._mark)

    async def launch(self, command: Command, record: Record) -> LocalHandle:
        token = chance.token(16)
        mark = f"{self._mark}:{token}"
        with ExitStack() as cleanup:
            try:
                output = logs.open_for_child(command.log)
            except OSError as error:
                raise StartFailed(f"its log {command.log} cannot be written: {error.strerror}") from None
            cleanup.callback(os.close, output)
            line = shlex.join(command.argv)
            logs.append(command.log, f"{logs.started(command.instance)}{clock.stamp(self._now())}: {line} ===")
            log_start = logs.size(command.log)
            ours, theirs = socket.socketpair()
            cleanup.callback(ours.close)
            child = spawn(theirs, output, mark)
            cleanup.callback(abandon, child)
            self._launching.add(child.pid)
            cleanup.callback(self._launching.discard, child.pid)
            ours.setblocking(False)
            identity = processes.look(child.pid)
            if identity is None:
                raise StartFailed("the new process vanished before it ran anything")
            ticket = Ticket(token, command.instance, processes.boot_id(), child.pid, identity.start_time, command.cleanup)
            await record(ticket)
            await become(ours, command.argv, {**command.environment, SPAWN_VARIABLE: mark}, command.directory)
            cleanup.pop_all()  # from here on the handle owns the child
        os.close(output)
        ours.close()
        handle = LocalHandle(child, ticket, mark, command, log_start, self._now, self.errands, self._survey)
        self._running.append(handle)
        self._launching.discard(child.pid)
        return handle

    def forget_log(self, log_file: Path) -> None:
        logs.remove(log_file)

    async def sweep(self, tickets: Collection[Ticket], environment: Mapping[str, str] = NOTHING) -> list[int]:
        """Kill whatever an earlier daemon on this data directory left running, then clean up behind it; the pids. Returns when
        all of it is gone. *environment* is for the commands that clean up."""
        killed: set[int] = set()
        pause = 0.01
        while leftovers := self._leftovers(tickets):
            for process in leftovers:
                process.send(signal.SIGKILL)
                killed.add(process.pid)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 1.0)
        await asyncio.gather(*(clean_up(self.errands, ticket, environment) for ticket in tickets if ticket.cleanup))
        return sorted(killed)

    def _leftovers(self, tickets: Collection[Ticket]) -> list[Process]:
        found = {
            p for ticket in tickets if ticket.boot_id == processes.boot_id() for p in tree(ticket, f"{self._mark}:{ticket.token}")
        }
        marked = (processes.look(pid) for pid in processes.marked(f"{self._mark}:", SPAWN_VARIABLE))
        return [p for p in found.union(p for p in marked if p and not p.is_zombie) if p.pid != os.getpid()]

    async def maintain(self) -> None:
        """Rotate logs and bury orphans for as long as the daemon runs."""
        while True:
            await asyncio.sleep(MAINTENANCE_INTERVAL)
            self._running = [handle for handle in self._running if not handle.has_ended]
            try:
                if self._running:
                    # Whom a parent left behind the kernel has made a child of ours: so everybody of theirs is below us.
                    table = await asyncio.to_thread(processes.below, {os.getpid()})
                    for handle in self._running:
                        handle.remember(table)
                self._reap_orphans()
            except OSError as error:  # we may open no more files now; the next time does it
                log.warning("processes cannot be looked at: %s", error.strerror)
            for file in [handle.log for handle in self._running]:
                try:
                    if logs.size(file) > self._log_max_bytes > 0:
                        await asyncio.to_thread(logs.rotate, file, self._log_max_bytes, self._log_backups)
                except OSError as error:
                    log.warning("log %s cannot be rotated: %s", file, error.strerror)

    def _reap_orphans(self) -> None:
        """Collect ended processes that the kernel made our children because theirs died: nobody else will."""
        leaders = {handle.ticket.pid for handle in self._running} | self._launching | self.errands.leaders
        for child in processes.children(os.getpid()):
            if child.is_zombie and child.pid not in leaders and child.session != os.getsid(0):
                with suppress(ChildProcessError):
                    os.waitpid(child.pid, os.WNOHANG)


async def clean_up(errands: Errands, ticket: Ticket, environment: Mapping[str, str]) -> None:
    """Run the ticket's cleanup command. Where it fails, somebody has to look: what it was to take away may still be there."""
    outcome = await errands.run(ticket.cleanup, environment, CLEANUP_TIMEOUT)
    if not outcome.is_good and "no such container" not in outcome.text.lower():
        why = outcome.trouble or f"exited with code {outcome.code}"
        log.error(
            "%s: what it ran in may still be there: %s %s: %s",
            ticket.instance, shlex.join(ticket.cleanup), why, outcome.text[-300:].strip(),
        )  # fmt: skip
