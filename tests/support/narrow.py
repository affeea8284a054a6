"""Houses whose backends do as they are told, and requests of the narrow form that tell them."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from llamactl_py.accounting.ledger import Outcome
from tests.support import puppet
from tests.support.house import House, house


@asynccontextmanager
async def puppets(folder: Path, *names: str, **settings: Any) -> AsyncIterator[House]:
    """A house with running instances that do as each request says."""
    async with house(folder, **settings) as h:
        for name in names or ("a",):
            command = [sys.executable, "-S", "-E", puppet.__file__]
            await h.create(name, command_override=command, restart_delay="0ms", max_restarts=1000, stop_timeout=1)
            await h.ask("POST", f"/api/v1/instances/{name}/start")
            await h.until(name, "ready")
        yield h


def narrow(h: House, *steps: list[Any], head: tuple[str, ...] = (), keep: bool = True, **fields: Any) -> bytes:
    """A request of the narrow form whose backend is to take these *steps*."""
    body = json.dumps({"model": "a", **({"do": steps} if steps else {}), **fields}).encode()
    return posted(h, body, *head, keep=keep)


def posted(h: House, body: bytes, *headers: str, keep: bool = True) -> bytes:
    """A request of the narrow form with this *body*."""
    connection = "Connection: keep-alive" if keep else "Connection: close"
    lines = ("Content-Type: application/json", f"Content-Length: {len(body)}", connection, *headers)
    return h.head("POST", "/v1/x", *lines) + body


def outcomes(h: House) -> list[Outcome | None]:
    """What the ledger says of all requests, oldest first."""
    return [entry.outcome for entry in h.daemon.services.ledger.entries()][::-1]


def nothing_is_held(h: House) -> bool:
    """Is no lease, no connection to a backend and no request of the ledger in use?"""
    services = h.daemon.services
    leases = [instance.leases.value for instance in services.fleet]
    in_flight = [sums.in_flight for _, _, sums in services.ledger.sums()]
    return not any(leases) and not any(in_flight) and not services.pool.busy
