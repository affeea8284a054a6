"""A line for each request, for those who ask for it. Never the query: people put secrets there.

    2026-11-21T12:00:00.123Z 127.0.0.1 POST /v1/chat/completions 200 512 0.034

Time of the answer (UTC), peer, method, path, status, bytes of the answer's body, seconds. Lines are written together, several
times a second: a call of the logging machinery for each would cost more than the request.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from llamactl_py.ground.clock import Now

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.abc import AbstractAccessLogger

EVERY = 0.2
"""Seconds between writes."""
MOST_LINES = 1000
"""So many lines are written at once, however young they are."""
LONGEST_PATH = 256


class AccessLog:
    """Its state is the lines that are not written yet. *out*: where they go, by default standard error."""

    def __init__(self, now: Now, out: TextIO | None = None) -> None:
        self._now, self._out = now, out
        self._lines: list[str] = []

    def add(self, peer: str | None, method: str, path: str, status: int, size: int, seconds: float) -> None:
        """A request was answered."""
        when = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        plain = "".join(c if c.isprintable() and c != " " else "?" for c in path[:LONGEST_PATH])
        self._lines.append(f"{when}Z {peer or '-'} {method} {plain} {status} {size} {seconds:.3f}\n")
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(EVERY, self.flush)
        elif len(self._lines) >= MOST_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._lines:
            out = self._out or sys.stderr
            out.write("".join(self._lines))
            out.flush()
            self._lines.clear()

    def of_aiohttp(self) -> type[AbstractAccessLogger]:
        """What aiohttp calls for each request that it has read."""
        from aiohttp.abc import AbstractAccessLogger

        add = self.add

        class Logger(AbstractAccessLogger):
            def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
                add(request.remote, request.method, request.path, response.status, response.body_length, time)

        return Logger
