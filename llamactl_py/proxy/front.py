"""The first to hear a client: takes requests of the one narrow form by itself, and hands a connection that says anything else,
byte for byte, to aiohttp. So the common request costs a fraction of what a web framework takes for it, and the uncommon one is
judged by a parser that has seen everything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import NoRoom
from llamactl_py.proxy import narrow
from llamactl_py.proxy.client import has_left
from llamactl_py.proxy.desk import UNFURNISHED, Patience, Work
from llamactl_py.proxy.exchange import HIGH_WATER
from llamactl_py.proxy.http1 import Mould, cut_length
from llamactl_py.proxy.intake import Intake
from llamactl_py.proxy.narrow import Head
from llamactl_py.proxy.relay import Relayed

if TYPE_CHECKING:
    from llamactl_py.proxy.door import Door

LONGEST_HEAD = 1 << 16
"""Bytes of a head that we wait for; aiohttp refuses most that are longer, but it would wait for the end of one for ever."""
NO_HEAD = re.compile(rb"(?<!\r)\n|\0")
"""Whatever has this in it needs no end to be refused."""
LINGER = 3.0
"""Seconds that we go on listening to a client that is refused while it still sends: closing would take the answer from it."""


class Front(asyncio.Protocol):
    """One client's connection (a `Client`). Its state is what it waits for: a head, the rest of a body, the end of *work*, or
    that the client reads."""

    speaks_11 = True
    is_head = False

    def __init__(self, door: Door) -> None:
        self.transport: asyncio.Transport | None = None
        self.keeps_alive = True
        self._door = door
        self._work: Work | None = None
        self._intake: Intake | None = None
        self._ahead = b""  # what came, and is not read yet
        self._looked_at = 0  # how much of that is known to have no end of a head in it
        self._mould = Mould()  # the last head that was read, its text without the length, and its meaning
        self._known = b""
        self._head: Head
        self._digest: bytes
        self._caller: Caller
        self._began = 0.0  # and when the request that is being answered was there
        self._held = 0  # bytes of a body that arrives, or is on its way to the backend
        self._since = 0.0  # moment on the loop's clock when it began to wait for what it waits for
        self._is_paused = False
        self._is_deaf = False
        self._may_write: asyncio.Future[None] | None = None

    # -- what the transport tells -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        self._since = self._door.time()
        self._door.fronts.add(self)

    def data_received(self, data: bytes) -> None:
        if self._work is None and not self._ahead and self._may_write is None and self._take_known(data):
            return
        if self._is_deaf:
            return
        if self._ahead:
            data = self._ahead + data
            self._ahead = b""
        elif self._work is None:
            self._since = self._door.time()
        if self._work is None and self._may_write is None and self._door.has_time_for(self):
            self._read(data)
        else:
            self._ahead = data
        self._keep_within_bounds()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._door.fronts.discard(self)
        self._intake = None
        self._let_go()
        if self._may_write and not self._may_write.done():
            self._may_write.set_exception(ConnectionResetError("the client has left"))
            self._may_write.exception()  # perhaps nobody waits for it
        self._leave()

    def pause_writing(self) -> None:
        self._may_write = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._may_write and not self._may_write.done():
            self._may_write.set_result(None)
        self._may_write = None
        if self._work:
            self._work.go_on()
        elif self._ahead:
            asyncio.get_running_loop().call_soon(self.go_on_reading)

    async def drained(self) -> None:
        """Until the client has read most of what was written. Raises ConnectionError when it has left."""
        if self.transport is None:
            raise ConnectionResetError("the client has left")
        if self._may_write:
            await asyncio.shield(self._may_write)

    # -- requests ---------------------------------------------------------------------------------------------------------

    def _take_known(self, data: bytes) -> bool:
        """Take a whole request that begins like the last one, as most do. False if that is for `_read` to judge."""
        body = self._mould.body(data)
        door = self._door
        if body is None or len(body) > door.patience.max_body or not door.is_open or self._is_deaf:
            return False
        caller = door.desk.caller(self._digest)
        if caller is None:
            return False
        self._caller = caller
        self._begin(body)
        return True

    def _read(self, data: bytes) -> None:
        """Take the request that *data* begins with, wait for the rest of it, or hand it all over. Who sends byte after byte does
        not make us look at all of them each time."""
        assert self.transport is not None
        looked_at, self._looked_at = self._looked_at, 0
        data = data.lstrip(b"\r\n")  # empty lines between requests are nothing (RFC 9112, section 2.2)
        looked_at = max(0, min(looked_at, len(data)) - 3)
        end = data.find(b"\r\n\r\n", looked_at)
        if end < 0:
            self._wait_for_head(data, looked_at)
            return
        length = self._understand(data, end + 2)
        if length is None:
            self._hand_over(data)
            return
        body_at = end + 4
        if len(data) - body_at < length:
            self._intake = Intake(self, self.transport, data[body_at:], length)
            self.holds(len(data) - body_at)
            return
        self._ahead = data[body_at + length :]
        self._begin(data[body_at : body_at + length])

    def _wait_for_head(self, data: bytes, looked_at: int) -> None:
        """*data* is the beginning of one. Also where aiohttp is to read it, the time that it may take is ours to watch."""
        if NO_HEAD.search(data, looked_at):
            self._hand_over(data)
        elif len(data) <= LONGEST_HEAD:
            self._ahead, self._looked_at = data, len(data)
        else:
            self._known = b""
            self._dismiss(self._door.desk.too_long, self)

    def _understand(self, data: bytes, end: int) -> int | None:
        """The length of the body behind the head *data*[:*end*]; None if this request is not for us."""
        if end > narrow.MAX_HEAD or not self._door.is_open:
            return None
        text, digits, at = cut_length(data, end)
        if text != self._known:
            known = self._door.meaning(text)
            if known is None:
                return None
            self._known, (self._head, self._digest) = text, known
            self._mould.take(data[: end + 2], at, digits)
        if (digits is None) is not (self._head.method == "GET"):
            return None  # a Content-Length without digits looks like one whose digits were cut out
        caller = self._door.desk.caller(self._digest)
        if caller is None or (length := int(digits or 0)) > self._door.patience.max_body:
            return None
        self._caller = caller
        return length

    def _begin(self, body: bytes | bytearray) -> None:
        if body and not self._held and not self.holds(len(body)):
            return
        self._intake = None
        self._began = self._door.time()
        self.keeps_alive = self._head.keeps_alive and self._door.is_open
        self._work = self._door.desk.begin(self, self._head, self._caller, body)

    def holds(self, size: int) -> bool:
        """*size* bytes more of a body are there; False if that is too much, and told. Called by the intake, too."""
        try:
            self._door.bodies.take(size)
        except NoRoom as error:
            assert self.transport is not None
            self._intake = None
            self.transport.set_protocol(self)
            self._dismiss(self._door.desk.refuse, self, self._head, error)
            return False
        self._held += size
        return True

    def whole(self, body: bytearray) -> None:
        """The body is there. Called by the intake."""
        assert self.transport is not None
        self.transport.set_protocol(self)
        self._begin(body)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do *work* for this client in a task; it may raise nothing but CancelledError."""
        return self._door.spawn(work)

    def go_on_with(self, work: Work) -> None:
        """The answer is to come another way than the one that was tried."""
        self._work = work

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer with JSON of our own."""
        if self.transport is None:
            return
        lines = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        if not self.keeps_alive:
            lines["Connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.transport.write(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{head}\r\n".encode("latin-1") + body)
        self.finish(Relayed(status, len(body), self.keeps_alive))

    def abort(self) -> None:
        """There is nobody left to answer to."""
        if self.transport:
            self.transport.abort()

    def finish(self, relayed: Relayed) -> None:
        """The answer is written: on to the next request."""
        self._work = None
        self._let_go()
        if self._door.log:
            self._log(relayed)
        if self.transport is None:
            return
        self._since = self._door.time()
        if self._is_deaf:
            try:
                self.transport.write_eof()
            except OSError:  # it left while we wrote; asyncio's own loop, unlike uvloop, tells so here
                self.transport.abort()
        elif not relayed.stays_open or not self._door.is_open:
            self.transport.close()
        elif self._ahead and self._may_write is None:  # who does not read answers need not be given more of them
            asyncio.get_running_loop().call_soon(self.go_on_reading)

    def _log(self, relayed: Relayed) -> None:
        assert self._door.log
        peer = self.transport.get_extra_info("peername") if self.transport else None
        seconds = self._door.time() - self._began
        method, path = (self._head.method, self._head.path) if self._known else ("-", "")
        self._door.log(peer[0] if peer else None, method, path, relayed.status, relayed.sent, seconds)

    def _let_go(self) -> None:
        """The body of the last request takes no memory any more."""
        if self._held:
            self._door.bodies.give_back(self._held)
            self._held = 0

    def go_on_reading(self) -> None:
        """There is time for what came, and is not read yet."""
        if self.transport is None or self.transport.is_closing() or self._work or not self._ahead:
            return
        data, self._ahead = self._ahead, b""
        self._read(data)
        self._keep_within_bounds()

    def _keep_within_bounds(self) -> None:
        """Read on only when little is left of what was read: who sends many requests ahead does not fill our memory with them."""
        transport, has_much = self.transport, len(self._ahead) > HIGH_WATER
        if has_much is self._is_paused or transport is None or transport.is_closing():
            return
        self._is_paused = has_much
        transport.pause_reading() if has_much else transport.resume_reading()

    def _dismiss(self, tell: Callable[..., None], *what: object) -> None:
        """Refuse a client in the middle of what it sends, with the last answer on this connection."""
        self.keeps_alive = False
        self._is_deaf = True
        self._began = self._since
        tell(*what)

    def _hand_over(self, data: bytes) -> None:
        assert self.transport is not None
        if self._door.aiohttp is None:
            self._ahead, self._work = data, UNFURNISHED
            self._door.wants_aiohttp.set()
            return
        self._door.fronts.discard(self)
        self._keep_within_bounds()
        handler = self._door.aiohttp()
        self.transport.set_protocol(handler)
        handler.connection_made(self.transport)
        cast(asyncio.Protocol, handler).data_received(data)

    def furnished(self) -> None:
        """aiohttp is there now, for those who wait for it."""
        if self._work is UNFURNISHED and self.transport:
            self._work = None
            data, self._ahead = self._ahead, b""
            self._hand_over(data)

    # -- what no event tells ----------------------------------------------------------------------------------------------

    def look_around(self, now: float, patience: Patience) -> None:
        """Close what waits for too long. Called about once a second."""
        transport, waited = self.transport, now - self._since
        if transport is None:
            return
        if self._is_paused and has_left(transport):  # nobody reads, so nobody hears it hang up
            transport.abort()
        elif self._intake:
            if waited > patience.body:
                self._intake = None
                transport.set_protocol(self)
                self._dismiss(self._door.desk.too_slow, self, self._head)
        elif not self._work and waited > self._longest(patience):
            self._since = now
            transport.abort() if transport.is_closing() else transport.close()  # the former when it does not read the rest either

    def _longest(self, patience: Patience) -> float:
        """Seconds that may pass while nothing is done for the client."""
        if self._is_deaf:
            return LINGER
        return patience.head if self._ahead and not self._may_write else patience.idle

    def close(self) -> None:
        """The daemon ends: now if nothing is being answered, else with the answer."""
        self.keeps_alive = False
        if self.transport and not self._work:
            self.transport.close()

    def _leave(self) -> None:
        work, self._work = self._work, None
        if work:
            work.leave()
