"""How a process of ours comes to life: first the shim, which waits; then, once it is known and written down, the command."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from llamactl_py.ground.errors import StartFailed
from llamactl_py.ground.ticket import SPAWN_VARIABLE
from llamactl_py.launchers.trees import become_subreaper

SHIM = str(Path(__file__).with_name("shim.py"))
EXEC_TIMEOUT = 10.0


def spawn(channel: socket.socket, output: int, mark: str) -> subprocess.Popen[bytes]:
    """Start the shim, in a session of its own and with *output* as its stdout and stderr; *channel* is handed to it and closed.

    On the loop's thread, always: the kernel's death signal is tied to the thread that forked. Raises StartFailed.
    """
    become_subreaper()
    with channel:
        try:
            return subprocess.Popen(
                (sys.executable, "-I", "-S", "-E", SHIM, str(channel.fileno())),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={SPAWN_VARIABLE: mark},
                start_new_session=True,
                pass_fds=(channel.fileno(),),
            )
        except OSError as error:
            raise StartFailed(f"no process could be started: {error.strerror}") from None


async def become(channel: socket.socket, argv: Sequence[str], environment: Mapping[str, str], directory: Path | None) -> None:
    """Have the shim at the other end become the command; returns when it has. Raises StartFailed with the kernel's reason."""
    loop = asyncio.get_running_loop()
    fields = [str(directory or ""), str(len(argv)), *argv, *(f"{name}={value}" for name, value in environment.items())]
    if any("\0" in field for field in fields):
        raise StartFailed("an argument or environment variable holds a NUL character")
    answer = b""
    try:
        async with asyncio.timeout(EXEC_TIMEOUT):
            await loop.sock_sendall(channel, b"".join(os.fsencode(field) + b"\0" for field in fields) + b"\0")
            answer = await loop.sock_recv(channel, 64)
    except (TimeoutError, OSError) as error:
        raise StartFailed(f"{argv[0]} could not be started: {error or 'no answer in time'}") from None
    if answer:
        raise StartFailed(f"{argv[0]} could not be started: {os.strerror(int(answer))}")


def abandon(child: subprocess.Popen[bytes]) -> None:
    """End a shim that never became a command."""
    child.kill()
    child.wait()
