"""Short programs that run beside the instances: asked for a version, told to stop something or to take it away.

Whatever the program does (hangs, floods, crashes, leaves children), `run` comes back in time with what it said, and nothing of
it is left.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress

from msgspec import Struct

from llamactl_py.ground import chance
from llamactl_py.ground.errors import StartFailed
from llamactl_py.ground.ticket import SPAWN_VARIABLE, Ticket
from llamactl_py.launchers import processes
from llamactl_py.launchers.processes import Process
from llamactl_py.launchers.spawning import abandon, become, spawn
from llamactl_py.launchers.trees import tree

MOST_OUTPUT = 4 << 20
"""Bytes that are kept of what one says; vLLM's whole help is 130 kB."""
CALM = 10
"""How much nicer than us they run: nobody waits for most of them."""


class Outcome(Struct, frozen=True):
    """What became of one. *text*: stdout and stderr as they came. *trouble*: why *text* may not be all; empty if it is."""

    text: str
    code: int | None
    trouble: str = ""

    @property
    def is_good(self) -> bool:
        return not self.trouble and self.code == 0

    def __str__(self) -> str:
        return self.trouble or f"exited with code {self.code}"


class Errands:
    """Runs them one beside the other; `leaders` are the pids that nobody else may reap."""

    def __init__(self, mark: str) -> None:
        """*mark*: what every process of ours has in its environment, so that a later daemon finds leftovers."""
        self.leaders: set[int] = set()
        self._mark = mark

    async def run(self, argv: Sequence[str], environment: Mapping[str, str], timeout: float, most: int = MOST_OUTPUT) -> Outcome:
        """Run *argv* (a full path first) for at most *timeout* seconds; more than *most* bytes of what it says end it."""
        mark = f"{self._mark}:{chance.token(16)}"
        with ExitStack() as cleanup:
            try:
                ours, theirs = socket.socketpair()
                cleanup.callback(ours.close)
                cleanup.callback(theirs.close)
                ours.setblocking(False)
                said, output = os.pipe()
                cleanup.callback(os.close, said)
                try:
                    child = spawn(theirs, output, mark)
                finally:
                    os.close(output)
                cleanup.callback(abandon, child)
                self.leaders.add(child.pid)
                cleanup.callback(self.leaders.discard, child.pid)
                await become(ours, argv, {**environment, SPAWN_VARIABLE: mark}, None)
                return await _attend(child, said, mark, timeout, most)
            except (StartFailed, OSError) as error:  # the latter: no descriptors left, for one
                return Outcome("", None, str(error))


async def _attend(child: subprocess.Popen[bytes], said: int, mark: str, timeout: float, most: int) -> Outcome:
    leader = processes.look(child.pid)
    ticket = Ticket(mark, "", processes.boot_id(), child.pid, leader.start_time if leader else 0)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, child.pid, CALM)
    heard = bytearray()
    trouble = ""
    try:
        async with asyncio.timeout(timeout):
            if await _listen(said, heard, most):
                await _until_ended(child)
            else:
                trouble = f"wrote more than {most} bytes"
    except TimeoutError:
        trouble = f"did not end within {timeout:g} seconds"
    finally:
        await _end(child, ticket, mark)
    code = None if trouble else child.returncode
    if code is not None and code < 0:
        trouble = f"was ended by signal {-code}"
    return Outcome(heard[:most].decode(errors="replace"), code, trouble)


async def _listen(said: int, heard: bytearray, most: int) -> bool:
    """Read until nobody holds the other end of the pipe any more; False as soon as there is too much."""
    os.set_blocking(said, False)
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(said, readable.set)
    try:
        while len(heard) <= most:
            await readable.wait()
            readable.clear()
            with suppress(BlockingIOError):
                if not (part := os.read(said, 1 << 16)):
                    return True
                heard += part
        return False
    finally:
        loop.remove_reader(said)


async def _until_ended(child: subprocess.Popen[bytes]) -> None:
    """It has closed its output, which is nearly always its end."""
    pause = 0.001
    while child.poll() is None:
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)


async def _end(child: subprocess.Popen[bytes], ticket: Ticket, mark: str) -> None:
    """Kill what is left of it."""
    pause = 0.005
    while True:
        try:
            members = await asyncio.to_thread(_living, child, ticket, mark)
            for member in members:
                member.send(signal.SIGKILL)
        except OSError:  # nothing to look at processes with: that they cannot be seen does not mean that they are gone
            members = []
            pause = 0.5
        else:
            if not members:
                return
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.5)


def _living(child: subprocess.Popen[bytes], ticket: Ticket, mark: str) -> list[Process]:
    child.poll()
    return tree(ticket, mark)
