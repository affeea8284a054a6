"""Where clients come in: every connection begins with a front, and what that may not know of the others is seen to here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from llamactl_py.proxy.bodies import Bodies
from llamactl_py.proxy.desk import Desk, Patience
from llamactl_py.proxy.front import Front

TICK = 1.0

Log = Callable[[str | None, str, str, int, int, float], None]
"""Is told (peer, method, path, status, bytes of the answer's body, seconds) of each request that was answered."""


class Door:
    """All clients that no answer of aiohttp has been for yet. With *is_open* False every connection is handed over."""

    aiohttp: Callable[[], asyncio.BaseProtocol] | None = None
    """Makes the protocol that takes over from a front. It comes with `furnish`, as it takes long to import: until then, whoever
    is to be handed over waits, and everybody else is served."""

    def __init__(
        self,
        desk: Desk,
        bodies: Bodies,
        patience: Patience,
        is_open: bool = True,
        log: Log | None = None,
    ) -> None:
        self.log = log
        self.desk, self.bodies, self.patience, self.is_open = desk, bodies, patience, is_open
        self.fronts: set[Front] = set()
        self.wants_aiohttp = asyncio.Event()
        """Somebody waits for it."""
        self.time: Callable[[], float] = asyncio.get_running_loop().time
        self._tasks: asyncio.TaskGroup

    def __call__(self) -> Front:
        return Front(self)

    def furnish(self, aiohttp: Callable[[], asyncio.BaseProtocol]) -> None:
        """Hand over to *aiohttp* from now on, and who waits for it."""
        self.aiohttp = aiohttp
        for front in list(self.fronts):
            front.furnished()

    async def run(self) -> None:
        """Close connections that wait for too long; until cancelled. Tasks of the fronts live no longer than this."""
        async with asyncio.TaskGroup() as self._tasks:
            while True:
                await asyncio.sleep(TICK)
                for front in list(self.fronts):
                    front.look_around(self.time(), self.patience)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do *work* for a client; it may raise nothing but CancelledError."""
        return self._tasks.create_task(work)

    def close(self) -> None:
        """Close what is idle, and what is busy when it is done."""
        self.is_open = False
        for front in list(self.fronts):
            front.close()
