"""Carries one request to a target and its answer back, as it comes: no buffering, no decoding, no waiting for the end.

The answer goes from the backend's transport straight to the client's (`exchange`). When the client leaves, the upstream
connection is closed, also before the first byte. When the backend leaves in the middle, the client's connection is cut off:
an answer that was cut must not look whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from msgspec import Struct

from llamactl_py.ground.errors import BackendFailed
from llamactl_py.ground.waiting import first_of
from llamactl_py.instances.target import Target
from llamactl_py.proxy.client import Client, cut_off
from llamactl_py.proxy.exchange import Exchange, Watch
from llamactl_py.proxy.heads import UPGRADE, request_head, upgrade_head
from llamactl_py.proxy.http1 import AnswerHead
from llamactl_py.proxy.tunnel import Listener, tunnel
from llamactl_py.proxy.upstream import Body, Broken, Pool, Stale, Upstream

log = logging.getLogger(__name__)

Hear = Callable[[AnswerHead], Watch]
"""Is told the head of an answer, and gives what is to see its body."""


def unheard(head: AnswerHead) -> Watch:
    """For those who want to know nothing."""
    return lambda piece: None


class Question(Struct):
    """A request as a backend is to get it. *path* is raw, with its query; *lines* are the headers that `heads.forwarded` left;
    *listener* is given where the client wants to go on in another protocol."""

    method: str
    path: str
    lines: bytes
    body: Body = ()
    listener: Listener | None = None

    def head(self, target: Target) -> bytes:
        lines = self.lines if self.listener is None else self.lines + UPGRADE
        return request_head(self.method, self.path, lines, target, sum(map(len, self.body)))


class Relayed(Struct):
    """What became of it: the client has had this *status* and *sent* bytes of a body; if *stays_open* it may ask again on its
    connection."""

    status: int
    sent: int
    stays_open: bool
    is_cut: bool = False
    """The answer is not whole."""


class Asking(Exchange):
    """An exchange that a task waits for. *is_current* says whether the backend is still the one to ask, *hear* is told of the
    answer."""

    def __init__(self, client: Client, target: Target, is_current: Callable[[], bool], hear: Hear, may_upgrade: bool) -> None:
        super().__init__(client, target, may_upgrade)
        self.told = asyncio.Event()
        self._asked_is_current, self._asked_hear = is_current, hear

    def tell(self) -> None:
        self.told.set()

    def is_current(self) -> bool:
        return self._asked_is_current()

    def hear(self, head: AnswerHead) -> Watch:
        return self._asked_hear(head)


async def relay(
    pool: Pool,
    client: Client,
    question: Question,
    target: Target,
    is_current: Callable[[], bool] = lambda: True,
    hear: Hear = unheard,
    *,
    anew: bool = False,
) -> Relayed:
    """Ask *target*, and stream its answer to *client*.

    *is_current* says whether the backend behind *target* is still the one to ask; *hear* is told the head of the answer, and
    gives what is to see its body. *anew*: it was sent over a connection that had rested, and is sent once more, over a new one.
    Raises BackendFailed while no byte of an answer was sent; after that the client's connection
    is cut off. Raises ConnectionResetError when the client has left.
    """

    def asking() -> Asking:
        return Asking(client, target, is_current, hear, question.listener is not None)

    resting = None if anew else pool.take(target.authority)
    try:
        if resting is not None:
            try:
                return await _ask(resting, client, question, asking)
            except Stale:
                pass  # it was closed before our request got there; a new one tells whether the backend lives
        return await _ask(await pool.connect(target.authority), client, question, asking)
    except Broken as broken:
        return cut_short(broken, client, target)


def cut_short(broken: Broken, client: Client, target: Target) -> Relayed:
    """Tell the client that its answer is not whole. Raises BackendFailed if it can still be told in words."""
    if broken.status is None:
        raise BackendFailed(str(broken)) from None
    log.warning("%s %s; the client's connection is cut off", target.instance, broken)
    cut_off(client)
    return Relayed(broken.status, broken.sent, stays_open=False, is_cut=True)


async def _ask(upstream: Upstream, client: Client, question: Question, asking: Callable[[], Asking]) -> Relayed:
    exchange: Asking | None = None
    try:
        exchange = asking()
        upstream.carry(exchange)
        upstream.send(question.head(exchange.target), question.body)
        while not exchange.is_over:
            await exchange.told.wait()
            exchange.told.clear()
            if exchange.is_over or not exchange.is_full:
                continue
            if "drained" in await first_of(drained=client.drained(), told=exchange.told.wait()):
                upstream.go_on()
        if exchange.is_upgraded and question.listener and exchange.head:
            upstream.release()
            first = upgrade_head(exchange.head) + exchange.rest
            return Relayed(101, await tunnel(client, question.listener, upstream.transport, first), stays_open=False)
    except BaseException:
        if exchange:
            exchange.lose_client()
            if exchange.head:
                cut_off(client)  # whatever happened is not to be told in the middle of an answer
        upstream.close()
        raise
    upstream.conclude()
    assert exchange.head is not None
    return Relayed(exchange.head.status, exchange.sent, exchange.stays_open)
