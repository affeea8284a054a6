"""When is a backend ready? When its health path answers 200, and the process that answers is our own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from llamactl_py.ground.errors import LlamactlError
from llamactl_py.instances.target import Target, is_socket_path
from llamactl_py.launchers.base import Handle, Listening

PROBE_TIMEOUT = 5.0

Probe = Callable[[Target, str], Awaitable[int | None]]
"""Asks a target for a path, as `probe` does."""


class PortStolen(LlamactlError):
    """Somebody else listens on the port that we chose: our backend cannot, or worse, shares it."""


async def until_ready(handle: Handle, target: Target, path: str, ask: Probe, *, proves_port: bool = True) -> None:
    """Return once our backend answers `GET path` with 200; with an empty *path*, once it accepts a connection. Raises PortStolen.

    *proves_port*: whoever listens there must be a process of its tree; for a port only, a socket is nobody else's (`sockets`).
    Without the question who listens, a leftover or a stranger on that port would pass for our backend and serve another
    model under its name, with no error anywhere.
    """
    for pause in _pauses():
        status = await ask(target, path or "/")
        if status is not None:
            listening = await handle.listening(target.port) if proves_port and target.port else Listening.OURS
            if listening is Listening.STRANGER:
                raise PortStolen(f"another process listens on port {target.port}")
            if (status == 200 or not path) and listening is Listening.OURS:
                return
        await asyncio.sleep(pause)


def _pauses() -> Iterator[float]:
    """Seconds between probes: a small model is ready in 20 ms and must not wait for us; a large one takes minutes."""
    for count, pause in ((100, 0.002), (80, 0.025), (280, 0.1)):
        for _ in range(count):
            yield pause
    while True:
        yield 0.5


async def probe(target: Target, path: str) -> int | None:
    """The status of `GET path` there; 0 when somebody is there who gives none in time; None when nobody is there."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            if is_socket_path(target.host):
                reader, writer = await asyncio.open_unix_connection(target.host, limit=8192)
            else:
                reader, writer = await asyncio.open_connection(target.host, target.port, limit=8192)
    except (OSError, TimeoutError):
        return None
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {target.host_header}\r\nConnection: close\r\n\r\n".encode("ascii"))
            version, status, *_ = (await reader.readline()).split()
    except (OSError, TimeoutError, ValueError):
        return 0
    finally:
        writer.close()
    return int(status) if version.startswith(b"HTTP/1.") and status.isdigit() and len(status) == 3 else 0
