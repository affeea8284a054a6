"""Carries one request to a target and its answer back, as it comes: no buffering, no decoding, no waiting for the end.

aiohttp reads the client's request; the answer goes from the backend's transport straight to the client's (`upstream`). When
the client leaves, aiohttp cancels the handler, and the upstream connection is closed, also before the first byte. When the
backend leaves in the middle, the client's connection is reset: an answer that was cut must not look whole.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import struct
from collections.abc import Callable, Iterable
from functools import partial

from aiohttp import HttpVersion11, web

from llamactl_py.ground.errors import BackendFailed, BadRequest
from llamactl_py.ground.waiting import within
from llamactl_py.instances.target import Target
from llamactl_py.proxy.http1 import AnswerHead
from llamactl_py.proxy.upstream import Broken, Exchange, Pool, Upstream

log = logging.getLogger(__name__)

HOP_BY_HOP = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
     b"transfer-encoding", b"upgrade")
)  # fmt: skip
"""RFC 9110, section 7.6.1, and what browsers and proxies made of it: meant for one connection, never passed on."""
NOT_FOR_BACKENDS = HOP_BY_HOP | {
    b"host", b"content-length", b"content-encoding", b"expect", b"authorization", b"x-api-key", b"cookie", b"forwarded",
}  # fmt: skip
"""Credentials of our clients are ours alone; framing is made anew, and aiohttp has undone any encoding of the body; who the
client is, is no business of a backend."""
NOT_FOR_CLIENTS = HOP_BY_HOP | {b"content-length"}


TICK = 1.0
SETTLE = 0.05
STALE_WITHIN = 0.2
"""Seconds: between looks around; to wait whether a close was the death of the backend; within which a connection that had
rested proves to have been closed. Later than that the request may have been worked on, and is not sent again."""


class Relayed(web.StreamResponse):
    """Tells aiohttp that the answer has gone out already."""

    def __init__(self, status: int, sent: int, keeps_alive: bool) -> None:
        super().__init__(status=status)
        self._sent = sent
        self._keep_alive = keeps_alive

    @property
    def prepared(self) -> bool:
        return True

    @property
    def body_length(self) -> int:
        return self._sent

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


async def relay(
    pool: Pool,
    request: web.Request,
    target: Target,
    path: str,
    body: bytes,
    *,
    is_current: Callable[[], bool] = lambda: True,
    response_timeout: float = 0.0,
) -> web.StreamResponse:
    """Send *body* to *path* (raw, with its query) of *target* with the method and headers of *request*; stream the answer back.

    *is_current* says whether the backend behind *target* is still the one to ask. *response_timeout*: longest silence of the
    backend in seconds, 0 for none. Raises BackendFailed while no byte of an answer was sent; after that the client's
    connection is cut off.
    """
    wire = request_head(request.method, refuse_tricks(path), request.raw_headers, target, len(body))
    exchange = partial(_exchange, pool, request, target, wire, body, is_current, response_timeout)
    resting = pool.take(target.authority)
    try:
        if resting is not None:
            try:
                return await exchange(resting)
            except Stale:
                pass  # it was closed before our request got there; a new one tells whether the backend lives
        return await exchange(await pool.connect(target.authority))
    except Broken as broken:
        if broken.status is None:
            raise BackendFailed(str(broken)) from None
        log.warning("%s %s; the client's connection is cut off", target.instance, broken)
        cut_off(request)
        return Relayed(broken.status, broken.sent, keeps_alive=False)


def cut_off(request: web.Request) -> None:
    """Close the client's connection so that its answer looks cut. Where chunks or a length say how much is missing, closing is
    enough; to an HTTP/1.0 client the end of the connection is the end of the answer, and only a reset says otherwise."""
    if (transport := request.transport) is None:
        return
    if request.version < HttpVersion11 and (sock := transport.get_extra_info("socket")):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Stale(Exception):
    """A connection that had rested was closed without a byte of an answer: servers close idle ones at any moment."""


async def _exchange(
    pool: Pool,
    request: web.Request,
    target: Target,
    wire: bytes,
    body: bytes,
    is_current: Callable[[], bool],
    silence: float,
    upstream: Upstream,
) -> web.StreamResponse:
    client = request.transport
    if client is None:
        upstream.close()
        raise ConnectionResetError("the client has left")
    speaks_11 = request.version >= HttpVersion11
    has_rested = upstream.rests_since > 0

    def write_head(head: AnswerHead) -> bytes:
        return answer_head(head, target, speaks_11, _stays_open(request, head, speaks_11))

    exchange = Exchange(client, write_head, has_no_body=request.method == "HEAD", may_chunk=speaks_11)
    upstream.begin(exchange, wire, body)
    try:
        await _carry(exchange, upstream, request, is_current, silence)
    except BaseException:
        upstream.close()
        raise
    head = exchange.head
    if exchange.failure:
        upstream.close()
        if has_rested and head is None and exchange.failure_is_closing and upstream.age < STALE_WITHIN:
            raise Stale
        raise Broken(exchange.failure, head.status if head else None, exchange.sent)
    assert head is not None
    if head.keeps_alive and (head.is_chunked or head.length is not None):
        pool.give_back(upstream, target.resting_connections)
    else:
        upstream.close()
    return Relayed(head.status, exchange.sent, _stays_open(request, head, speaks_11))


async def _carry(
    exchange: Exchange, upstream: Upstream, request: web.Request, is_current: Callable[[], bool], silence: float
) -> None:
    """See an exchange to its end. Raises ConnectionResetError when the client has left.

    Once a second it looks around for what no event tells: while nothing is read from a side, nobody hears it hang up.
    """
    loop = asyncio.get_running_loop()
    sent, since = 0, loop.time()
    tick = min(TICK, silence or TICK)
    while not exchange.is_over:
        if exchange.is_closing:
            await asyncio.sleep(SETTLE)  # a backend that is dying closes its connections a moment before it is gone
            if is_current():
                exchange.finish()
            else:
                exchange.fail("ended in the middle of its answer")
        elif await within(tick, request.writer.drain() if exchange.is_full else exchange.wait()):
            if exchange.is_full:
                upstream.go_on()
        elif has_left(request):
            raise ConnectionResetError("the client has left")
        elif not is_current():
            exchange.fail("ended before its answer was complete")
        if exchange.sent != sent:
            sent, since = exchange.sent, loop.time()
        elif silence and loop.time() - since >= silence:
            exchange.fail(f"was silent for {silence:g} seconds (server.response_timeout)")


def has_left(request: web.Request) -> bool:
    """Has the client hung up, perhaps behind bytes that nobody has read yet (requests that it sent ahead)?"""
    sock = request.transport.get_extra_info("socket") if request.transport else None
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), getattr(select, "POLLRDHUP", 0))  # macOS tells of a full close only
    return bool(poll.poll(0))


def _stays_open(request: web.Request, head: AnswerHead, speaks_11: bool) -> bool:
    """May the client's connection be used again? For an HTTP/1.0 client the end of an unframed body is its close."""
    return bool(request.keep_alive) and (speaks_11 or head.length is not None)


def request_head(method: str, path: str, headers: Iterable[tuple[bytes, bytes]], target: Target, length: int) -> bytes:
    """The head as the backend is to see it: the client's headers less what is not for it, and the backend's own key."""
    headers = list(headers)
    dropped = NOT_FOR_BACKENDS | named_by_connection(headers)
    lines = [f"{method} {path} HTTP/1.1\r\nHost: {target.host_header}\r\n".encode("ascii")]
    for name, value in headers:
        folded = name.lower()
        if folded not in dropped and not folded.startswith(b"x-forwarded-"):
            lines.append(b"%b: %b\r\n" % (name, value))
    lines.extend(f"{name}: {value}\r\n".encode("latin-1") for name, value in target.headers.items())
    if length or method not in ("GET", "HEAD", "OPTIONS", "DELETE"):
        lines.append(b"Content-Length: %d\r\n" % length)
    return b"".join((*lines, b"\r\n"))


def answer_head(head: AnswerHead, target: Target, speaks_11: bool, stays_open: bool) -> bytes:
    """The head as the client is to see it. Who may read answers across sites is for us to say, and a redirect to the
    backend's own address would lead past us."""
    dropped = NOT_FOR_CLIENTS | named_by_connection((folded, value) for _, folded, value in head.headers)
    own_address = target.host_header.encode()
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    for name, folded, value in head.headers:
        if folded in dropped or folded.startswith(b"access-control-") or (folded == b"location" and own_address in value):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    lines.append(_framing(head, speaks_11))
    if not stays_open:
        lines.append(b"Connection: close\r\n")
    elif not speaks_11:
        lines.append(b"Connection: keep-alive\r\n")
    return b"".join((*lines, b"\r\n"))


def _framing(head: AnswerHead, speaks_11: bool) -> bytes:
    said = [value for _, folded, value in head.headers if folded == b"content-length"]
    if said and head.status != 204:
        return b"Content-Length: %b\r\n" % said[0]  # as the backend says, also where a HEAD has no body
    if head.length is not None or not speaks_11:
        return b""
    return b"Transfer-Encoding: chunked\r\n"


def named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    """Headers that Connection declares to be for one connection only, in lower case."""
    return {word.strip() for name, value in headers if name.lower() == b"connection" for word in value.lower().split(b",")}


def refuse_tricks(path: str) -> str:
    """*path* (raw, with query) if no server could read it as leading elsewhere. Raises BadRequest."""
    plain = path.partition("?")[0].lower()
    decoded = plain.replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\")
    segments = decoded.replace("\\", "/").split("/")
    tricks = "\\" in decoded or "%00" in plain or "#" in path or any(part.partition(";")[0] in (".", "..") for part in segments)
    if tricks or not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise BadRequest("the path of the request is not usable: it has dot segments, a backslash, # or NUL, or no leading slash")
    return path
