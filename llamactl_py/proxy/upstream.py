"""Connections to backends, kept alive and pooled: an answer's head is read once, then its bytes go from one transport to the
other as they are.

An `Upstream` carries one exchange at a time. What it hears it writes straight to the client; only when something is for the
relay to decide (the answer is complete, broken, or the client reads too slowly) does it wake the relay. So there is no task,
no queue and no timer for a chunk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from llamactl_py.instances.target import is_socket_path
from llamactl_py.proxy.http1 import MAX_HEAD, AnswerHead, Chunks, Malformed

HIGH_WATER = 1 << 16
"""Bytes that may wait for a client before we stop reading from its backend."""
MAX_INTERIM = 20
LONGEST_IDLE = 2.0
"""Seconds that a connection may rest and be used again. llama-server and uvicorn close theirs after 5."""

HeadWriter = Callable[[AnswerHead], bytes]


class Broken(Exception):
    """The exchange failed. *status* and *sent*: what the client has had of the answer already; None and 0 if nothing."""

    def __init__(self, why: str, status: int | None = None, sent: int = 0) -> None:
        super().__init__(why)
        self.status, self.sent = status, sent


class Exchange:
    """One request's answer on its way. *write_head* gives the head that the client is to see."""

    def __init__(self, client: asyncio.Transport, write_head: HeadWriter, *, has_no_body: bool, may_chunk: bool) -> None:
        self.head: AnswerHead | None = None
        self.sent = 0
        """Bytes of the answer written to the client."""
        self.is_complete = False
        self.failure = ""
        self.failure_is_closing = False
        """The failure is that the connection was closed: before a byte of an answer that may mean that it was stale."""
        self.is_closing = False
        """The connection was closed behind a body without framing: its end, or that of the backend."""
        self.is_full = False
        """The client has more than HIGH_WATER bytes to read; reading from the backend is paused."""
        self._client, self._write_head = client, write_head
        self._has_no_body, self._may_chunk = has_no_body, may_chunk
        self._buffer = b""
        self._interim = 0
        self._left = 0
        self._chunks: Chunks | None = None
        self._woken: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        return self.is_complete or bool(self.failure)

    async def wait(self) -> None:
        """Until there is something to decide: it is over, closing, or full."""
        if not (self.is_over or self.is_closing or self.is_full):
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken

    def wake(self) -> None:
        if self._woken and not self._woken.done():
            self._woken.set_result(None)

    def fail(self, why: str, is_closing: bool = False) -> None:
        if not self.failure and not self.is_complete:
            self.failure, self.failure_is_closing = why, is_closing
        self.wake()

    def feed(self, data: bytes) -> None:
        """Bytes from the backend. Raises Malformed, also when the answer was complete before: what follows it is nobody's."""
        if self.is_complete:
            raise Malformed("bytes behind the end of the answer")
        if self.head is None:
            self._feed_head(data)
        elif self._chunks:
            self._feed_chunks(data)
        elif self.head.length is not None:
            self._feed_counted(data)
        else:
            self._write(data if not self._may_chunk else b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        """The backend closed its side: the end of a body without framing, else too early."""
        if self.is_complete:
            return
        if self.head and self.head.length is None and not self._chunks:
            self.is_closing = True
            self.wake()
        else:
            when = "its answer was complete" if self.head else "it answered"
            self.fail(f"closed the connection before {when}", is_closing=True)

    def finish(self) -> None:
        """The close that was seen is the end of the answer, and not that of the backend."""
        if self._may_chunk:
            self._write(b"0\r\n\r\n")
        self._complete()

    def _feed_head(self, data: bytes) -> None:
        data = self._buffer + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > MAX_HEAD:
            if len(data) > MAX_HEAD:
                raise Malformed("the head of the answer is too long")
            self._buffer = data
            return
        head = AnswerHead.parse(data[:end], self._has_no_body)
        rest = data[end + 4 :]
        if head.status < 200:
            self._feed_interim(head, rest)
            return
        self.head, self._buffer = head, b""
        self._left = head.length or 0
        self._chunks = Chunks() if head.is_chunked else None
        self._write(self._write_head(head))
        if head.length == 0:
            self._complete()
        if rest:
            self.feed(rest)

    def _feed_interim(self, head: AnswerHead, rest: bytes) -> None:
        """An answer before the answer (100 Continue, 103 Early Hints): nothing for the client."""
        self._interim += 1
        if head.status == 101 or self._interim > MAX_INTERIM:
            raise Malformed("it switched protocols unasked" if head.status == 101 else "too many interim answers")
        self._buffer = b""
        if rest:
            self._feed_head(rest)

    def _feed_counted(self, data: bytes) -> None:
        counted = data[: self._left]
        self._left -= len(counted)
        self._write(counted)
        if not self._left:
            self._complete()
        if len(counted) < len(data):
            raise Malformed("the answer is longer than it said")

    def _feed_chunks(self, data: bytes) -> None:
        assert self._chunks
        payload: list[bytes] | None = None if self._may_chunk else []
        taken = self._chunks.feed(data, payload)
        if payload is None:
            self._write(data[:taken] if taken < len(data) else data)
        else:
            self._write(b"".join(payload))
        if self._chunks.is_complete:
            self._complete()
        if taken < len(data):
            raise Malformed("bytes behind the end of the answer")

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self._client.write(data)
        if self._client.get_write_buffer_size() > HIGH_WATER and not self.is_full:
            self.is_full = True
            self.wake()

    def _complete(self) -> None:
        self.is_complete = True
        self.wake()


class Upstream(asyncio.Protocol):
    """One connection to a backend."""

    def __init__(self, pool: Pool, authority: tuple[str, int]) -> None:
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.authority = authority
        self.rests_since = 0.0
        self.began = 0.0
        """Moment on the loop's clock when the request was sent."""
        self._pool = pool
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases

    def data_received(self, data: bytes) -> None:
        if self.exchange is None or self.exchange.is_over:
            self._pool.distrust(self.authority)  # nobody asked: a later answer might be for an earlier request
            self.close()
            return
        try:
            self.exchange.feed(data)
        except Malformed as error:
            if self.exchange.is_complete:
                self._pool.distrust(self.authority)
            self.exchange.fail(f"gave an answer that is no HTTP ({error})")
            self.close()
            return
        if self.exchange.is_full:
            self.transport.pause_reading()

    def eof_received(self) -> None:
        if self.exchange:
            self.exchange.end()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._pool.forget(self)
        if self.exchange:
            if exc is None:
                self.exchange.end()
            else:
                self.exchange.fail("reset the connection", is_closing=True)

    def begin(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Send a request and expect its answer."""
        self.exchange = exchange
        self.began = asyncio.get_running_loop().time()
        if len(body) < HIGH_WATER:
            self.transport.write(head + body)
        else:
            self.transport.write(head)
            self.transport.write(body)

    @property
    def age(self) -> float:
        """Seconds since the request was sent."""
        return asyncio.get_running_loop().time() - self.began

    def go_on(self) -> None:
        """The client has read: go on reading from the backend."""
        if self.exchange:
            self.exchange.is_full = False
        if not self._lost:
            self.transport.resume_reading()

    @property
    def is_usable(self) -> bool:
        """Open, and done with what it was given: an early answer may leave half a request unsent."""
        return not self._lost and not self.transport.is_closing() and not self.transport.get_write_buffer_size()

    def close(self) -> None:
        self.transport.abort()


class Pool:
    """Resting connections, by address; none is used again after LONGEST_IDLE."""

    def __init__(self, connect_timeout: float) -> None:
        self._connect_timeout = connect_timeout
        self._resting: dict[tuple[str, int], list[Upstream]] = {}
        self._distrusted: set[tuple[str, int]] = set()

    def distrust(self, authority: tuple[str, int]) -> None:
        """Let no connection to it rest any more: it sent bytes that nobody asked for."""
        self._distrusted.add(authority)

    def take(self, authority: tuple[str, int]) -> Upstream | None:
        """The connection that rested last, if there is one that can be used."""
        resting = self._resting.get(authority)
        oldest = asyncio.get_running_loop().time() - LONGEST_IDLE
        while resting:
            connection = resting.pop()
            if connection.is_usable and connection.rests_since >= oldest:
                return connection
            connection.close()
        return None

    async def connect(self, authority: tuple[str, int]) -> Upstream:
        """A new connection. Raises Broken."""
        loop = asyncio.get_running_loop()
        host, port = authority
        try:
            async with asyncio.timeout(self._connect_timeout):
                if is_socket_path(host):
                    _, connection = await loop.create_unix_connection(lambda: Upstream(self, authority), host)
                else:
                    _, connection = await loop.create_connection(lambda: Upstream(self, authority), host, port)
        except TimeoutError:
            raise Broken("could not be connected to in time") from None
        except OSError as error:
            raise Broken(f"could not be connected to ({error.strerror or error})") from None
        return connection

    def give_back(self, connection: Upstream, most: int) -> None:
        """Let it rest until the next request to its address, unless *most* rest there already."""
        was_paused = connection.exchange is not None and connection.exchange.is_full  # more may have come that we did not see
        connection.exchange = None
        resting = self._resting.setdefault(connection.authority, [])
        if len(resting) >= most or was_paused or connection.authority in self._distrusted or not connection.is_usable:
            connection.close()
            return
        connection.rests_since = asyncio.get_running_loop().time()
        resting.append(connection)

    def forget(self, connection: Upstream) -> None:
        """It was closed."""
        resting = self._resting.get(connection.authority, [])
        if connection in resting:
            resting.remove(connection)
        if not resting:
            self._resting.pop(connection.authority, None)

    def close(self) -> None:
        """Close all that rest."""
        for resting in list(self._resting.values()):
            for connection in resting:
                connection.close()
