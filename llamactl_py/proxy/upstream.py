"""Connections to backends, kept alive and pooled. One carries one exchange at a time, and tells it what it hears."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from typing import cast
from weakref import WeakValueDictionary

from llamactl_py.ground.memory import give_memory_back
from llamactl_py.instances.target import Target, is_socket_path
from llamactl_py.proxy.exchange import FLOWS_AFTER, HIGH_WATER, Exchange, Memo
from llamactl_py.proxy.http1 import Malformed
from llamactl_py.proxy.pump import Pump

log = logging.getLogger(__name__)

LONGEST_IDLE = 2.0
"""Seconds that a connection may rest and be used again. llama-server and uvicorn close theirs after 5."""
TICK = 1.0
LOOKS_A_TURN = 32
"""Exchanges that are looked at before everything else has its turn."""
STALE_WITHIN = 0.2
"""Seconds: between looks around; within which a connection that had rested proves to have been closed. Later than that the
request may have been worked on, and is not sent again."""

CROWDED = 0.01
"""Seconds until a Unix socket where too many wait to be accepted is tried again."""

Authority = tuple[str, int]
Body = Sequence[bytes | bytearray | memoryview]
"""The pieces of a request's body."""


class Broken(Exception):
    """The exchange failed. *status* and *sent*: what the client has had of the answer already; None and 0 if nothing."""

    def __init__(self, why: str, status: int | None = None, sent: int = 0) -> None:
        super().__init__(why)
        self.status, self.sent = status, sent


class Stale(Exception):
    """A connection that had rested was closed without a byte of an answer: servers close idle ones at any moment."""


class Upstream(asyncio.Protocol):
    """One connection to a backend."""

    def __init__(self, pool: Pool, authority: Authority, memo: Memo) -> None:
        """*memo*: that of all connections to *authority*."""
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.target: Target | None = None
        """Of its latest exchange."""
        self.authority = authority
        self.rests_since = 0.0
        self._began = 0.0  # moment on the loop's clock when the request was sent
        self._memo = memo
        self._pool = pool
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.is_between and exchange.pass_chunk(data):
            if len(exchange.passed) == FLOWS_AFTER:
                self._pool.pump.join(self, exchange.client_transport, exchange.passed)
            return
        self.hear(data)

    def hear(self, data: bytes) -> None:
        """What came, and was not passed on yet."""
        exchange = self.exchange
        if exchange is None or ((exchange.is_complete or exchange.failure) and not exchange.is_upgraded):
            self._pool.distrust(self)  # nobody asked: a later answer might be for an earlier request
            self.close()
            return
        try:
            exchange.feed(data)
        except Malformed as error:
            if exchange.is_complete:
                self._pool.distrust(self)
            exchange.fail(f"gave an answer that is no HTTP ({error})")
            self.close()
        if exchange.is_complete or exchange.failure:
            exchange.tell()
        elif exchange.is_full:
            if not self._pool.pump.dismiss(self):
                self.transport.pause_reading()
            exchange.tell()
        elif not exchange.is_between or exchange.client_transport.get_write_buffer_size():
            self._pool.pump.leave(self)  # also where some of it waits: the pump would write before that

    def write_rest(self, data: bytes) -> None:
        """What the client has not taken of a chunk that the pump passed on."""
        assert self.exchange is not None
        self.exchange.send(data)

    def break_off(self, error: OSError) -> None:
        """The pump could not read on."""
        self._end(error)
        self.close()

    def eof_received(self) -> None:
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._pool.forget(self)
        self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        exchange = self.exchange
        if exchange is None or exchange.is_over:
            return
        if exc is None:
            exchange.end()
        else:
            exchange.fail("reset the connection", is_closing=True)
        exchange.tell()

    def carry(self, exchange: Exchange) -> None:
        """Expect the answer to the request that is sent; `conclude` when it is over."""
        self.exchange, self.target = exchange, exchange.target
        exchange.memo = self._memo
        self._began = self._pool.time()
        self._pool.busy.add(self)

    def send(self, head: bytes, body: Body) -> None:
        """Send a request, and `carry` its exchange before anything else can happen."""
        if len(body) == 1 and len(body[0]) < HIGH_WATER:
            self.transport.write(head + body[0])
            return
        self.transport.write(head)
        for piece in body:
            self.transport.write(piece)

    def conclude(self) -> None:
        """The exchange is over: rest until the next one, or close.

        Raises Stale when the connection had been closed while it rested, Broken when the backend failed, ConnectionResetError
        when the client has left.
        """
        exchange = self.exchange
        assert exchange is not None
        head = exchange.head
        if not exchange.failure:
            assert head is not None
            if head.is_chunked:
                self._pool.pump.leave(self)
            if head.keeps_alive and (head.is_chunked or exchange.length is not None):
                self._pool.give_back(self, exchange.target.resting_connections)
            else:
                self.close()
            return
        self.close()
        if exchange.has_left:
            raise ConnectionResetError("the client has left")
        if self.rests_since and not exchange.has_heard and exchange.failure_is_closing and self._age < STALE_WITHIN:
            raise Stale
        raise Broken(exchange.failure, head.status if head else None, exchange.sent)

    @property
    def _age(self) -> float:
        """Seconds since the request was sent."""
        return self._pool.time() - self._began

    def look_around(self, silence: float) -> None:
        """See `Exchange.look_around`, and tell whom it concerns."""
        exchange = self.exchange
        if exchange is None or exchange.is_over:
            return  # whoever was told has yet to conclude it
        exchange.look_around(self._pool.time(), silence)
        if exchange.failure:
            self._pool.pump.dismiss(self)  # nothing is passed on behind that
        if exchange.is_over or exchange.is_full:
            exchange.tell()

    def go_on(self) -> None:
        """The client has read: go on reading from the backend."""
        if self.exchange:
            self.exchange.is_full = False
        if not self._lost:
            self.transport.resume_reading()

    @property
    def is_usable(self) -> bool:
        """Open, and done with what it was given: an early answer may leave half a request unsent."""
        return not self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def release(self) -> None:
        """It is the pool's no longer: what it carries from now on is no HTTP."""
        self._pool.forget(self)
        self.exchange = None

    def close(self) -> None:
        self._pool.pump.dismiss(self)
        self._pool.busy.discard(self)
        self.transport.abort()


class Pool:
    """Every connection to a backend: the busy ones, and those that rest, by address; none is used again after LONGEST_IDLE."""

    def __init__(self, connect_timeout: float, response_timeout: float = 0.0, *, is_compiled: bool = True) -> None:
        """*is_compiled*: pass on streams in compiled code, if there is some."""
        self.pump = Pump(is_compiled)
        self.busy: set[Upstream] = set()
        self.time: Callable[[], float] = asyncio.get_running_loop().time
        self._connect_timeout = connect_timeout
        self._response_timeout = response_timeout
        self._resting: dict[Authority, list[Upstream]] = {}
        self._distrusted: dict[Authority, Target] = {}
        self._memos: WeakValueDictionary[Authority, Memo] = WeakValueDictionary()

    async def run(self) -> None:
        """Look around on behalf of every exchange, once a second, and close what has rested too long; until cancelled."""
        was_used = False
        while True:
            await asyncio.sleep(min(TICK, self._response_timeout or TICK))
            for number, upstream in enumerate(list(self.busy), 1):
                if number % LOOKS_A_TURN == 0:
                    await asyncio.sleep(0)
                try:
                    upstream.look_around(self._response_timeout)
                except Exception:  # a defect of ours: it costs this exchange, and nobody else
                    log.exception("a connection to %s could not be looked after, and is closed", upstream.authority)
                    upstream.close()
            if self.busy or self._resting:
                was_used = True
                self._let_go()
            elif was_used:
                was_used = False
                give_memory_back()

    def _let_go(self) -> None:
        """Close the connections that have rested too long to be used again: two thousand of them take 20 MB."""
        oldest = self.time() - LONGEST_IDLE
        for authority, resting in list(self._resting.items()):
            old = [connection for connection in resting if connection.rests_since < oldest]
            self._resting[authority] = resting[len(old) :]  # who rested first stands first
            for connection in old:
                connection.close()
            if len(old) == len(resting):
                del self._resting[authority]

    def distrust(self, connection: Upstream) -> None:
        """Let none to the same backend rest any more: it sent bytes that nobody asked for. Its address may be another's later."""
        if connection.target:
            self._distrusted[connection.authority] = connection.target

    def take(self, authority: Authority) -> Upstream | None:
        """The connection that rested last, if there is one that can be used."""
        resting = self._resting.get(authority)
        while resting:
            connection = resting.pop()
            if self.time() - connection.rests_since <= LONGEST_IDLE and not connection.transport.is_closing():
                return connection
            connection.close()
        return None

    async def connect(self, authority: Authority) -> Upstream:
        """A new connection. Raises Broken."""
        loop = asyncio.get_running_loop()
        host, port = authority
        memo = self._memos.get(authority) or self._memos.setdefault(authority, Memo())
        try:
            async with asyncio.timeout(self._connect_timeout):
                if is_socket_path(host):
                    sock = await _connected(host)
                    _, connection = await loop.create_unix_connection(lambda: Upstream(self, authority, memo), sock=sock)
                else:
                    _, connection = await loop.create_connection(lambda: Upstream(self, authority, memo), host, port)
        except TimeoutError:
            raise Broken("could not be connected to in time") from None
        except OSError as error:
            raise Broken(f"could not be connected to ({error.strerror or error})") from None
        return connection

    def give_back(self, connection: Upstream, most: int) -> None:
        """Let it rest until the next request to its address, unless *most* rest there already."""
        exchange, connection.exchange = connection.exchange, None
        authority = connection.authority
        was_paused = exchange is not None and exchange.is_full  # more may have come that we did not see
        self.busy.discard(connection)
        resting = self._resting.setdefault(authority, [])
        is_trusted = not self._distrusted or self._distrusted.get(authority) is not connection.target
        if len(resting) < most and not was_paused and is_trusted and connection.is_usable:
            connection.rests_since = self.time()
            resting.append(connection)
        else:
            connection.close()

    def forget(self, connection: Upstream) -> None:
        """It was closed, or is used for something else now."""
        self.pump.leave(connection)
        self.busy.discard(connection)
        resting = self._resting.get(connection.authority, [])
        if connection in resting:
            resting.remove(connection)
        if not resting:
            self._resting.pop(connection.authority, None)

    def close(self) -> None:
        """Close all that rest, and pass on nothing in compiled code any more."""
        self.pump.close()
        for resting in list(self._resting.values()):
            for connection in resting:
                connection.close()


async def _connected(path: str) -> socket.socket:
    """A connection to a Unix socket. Where many wait there to be accepted, the kernel says so at once, and does not try again, as
    it does for TCP; uvloop takes that for an error, and asyncio for a connection."""
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.connect(path)
        except BlockingIOError:
            sock.close()
            await asyncio.sleep(CROWDED)
        except BaseException:
            sock.close()
            raise
        else:
            return sock
