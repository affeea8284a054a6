"""Where clients come in: every connection begins with a front, and what that may not know of the others is seen to here."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from typing import Any

from llamactl_py.proxy import narrow
from llamactl_py.proxy.bodies import Bodies
from llamactl_py.proxy.desk import Desk, Patience
from llamactl_py.proxy.front import Front
from llamactl_py.proxy.narrow import Head

log = logging.getLogger(__name__)

TICK = 1.0
BEGUN_A_TURN = 8
"""Heads that are read, of those that are not known yet, before everything else has its turn: a hundred new clients at once would
keep those waiting whose streams flow."""
MOST_KNOWN = 256
"""Heads, of up to `narrow.MAX_HEAD` bytes, whose meaning is remembered."""

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
        self._known: dict[bytes, tuple[Head, bytes]] = {}  # clients of one kind say the same on all their connections
        self._begun = 0  # in this turn of the loop
        self._waiting: OrderedDict[Front, None] = OrderedDict()  # each once, however many pieces it sends

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
                self._known.clear()
                for front in list(self.fronts):
                    try:
                        front.look_around(self.time(), self.patience)
                    except Exception:  # a defect of ours: it costs this client its connection, and nobody else
                        log.exception("a client's connection could not be looked after, and is closed")
                        front.abort()

    def meaning(self, text: bytes) -> tuple[Head, bytes] | None:
        """What *text*, a head less its length, means, and the digest of its key; None if it is not of the narrow form, or not
        for us. It is remembered for a second at most, as keys are in it."""
        if text in self._known:
            return self._known[text]
        head = narrow.read(text)
        if head is None or (digest := self.desk.greet(head)) is None:
            return None
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[text] = head, digest
        return head, digest

    def has_time_for(self, front: Front) -> bool:
        """May *front* read a head now? If not, it is told to go on in one of the next turns of the loop."""
        if not self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        if self._begun < BEGUN_A_TURN:
            self._begun += 1
            return True
        self._waiting[front] = None
        return False

    def _next_turn(self) -> None:
        self._begun = min(len(self._waiting), BEGUN_A_TURN)
        if self._begun:
            asyncio.get_running_loop().call_soon(self._next_turn)
        for _ in range(self._begun):
            self._waiting.popitem(last=False)[0].go_on_reading()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do *work* for a client; it may raise nothing but CancelledError."""
        return self._tasks.create_task(work)

    def close(self) -> None:
        """Close what is idle, and what is busy when it is done."""
        self.is_open = False
        for front in list(self.fronts):
            front.close()
