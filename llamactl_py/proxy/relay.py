"""Carries one request to a target and its answer back, as it comes: no buffering, no decoding, no waiting for the end.

aiohttp reads the client's request; the answer goes from the backend's transport straight to the client's (`upstream`). When
the client leaves, aiohttp cancels the handler, and the upstream connection is closed, also before the first byte. When the
backend leaves in the middle, the client's connection is reset: an answer that was cut must not look whole.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Iterable

from aiohttp import HttpVersion11, web

from llamactl_py.ground.errors import BackendFailed, BadRequest
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
    pool: Pool, request: web.Request, target: Target, path: str, body: bytes, response_timeout: float = 0.0
) -> web.StreamResponse:
    """Send *body* to *path* (raw, with its query) of *target* with the method and headers of *request*; stream the answer back.

    *response_timeout*: longest silence of the backend in seconds, 0 for none. Raises BackendFailed while no byte of an answer
    was sent; after that the client's connection is cut off.
    """
    wire = request_head(request.method, refuse_tricks(path), request.raw_headers, target, len(body))
    resting = pool.take(target.authority)
    try:
        if resting is not None:
            try:
                return await _exchange(pool, resting, request, target, wire, body, response_timeout)
            except Stale:
                pass  # it was closed before our request got there; a new one tells whether the backend lives
        return await _exchange(pool, await pool.connect(target.authority), request, target, wire, body, response_timeout)
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
    pool: Pool, upstream: Upstream, request: web.Request, target: Target, wire: bytes, body: bytes, silence: float
) -> web.StreamResponse:
    client = request.transport
    if client is None:
        upstream.close()
        raise ConnectionResetError("the client has left")
    speaks_11 = request.version >= HttpVersion11
    has_rested = upstream.rests_since > 0
    exchange: Exchange

    def write_head(head: AnswerHead) -> bytes:
        return answer_head(head, target, speaks_11, _stays_open(request, head, speaks_11))

    exchange = Exchange(client, write_head, has_no_body=request.method == "HEAD", may_chunk=speaks_11)
    upstream.begin(exchange, wire, body)
    try:
        while not exchange.is_complete and not exchange.failure:
            await _wait(exchange, silence)
            if exchange.is_full:
                await request.writer.drain()
                upstream.go_on()
    except BaseException:
        upstream.close()
        raise
    if exchange.failure:
        upstream.close()
        if has_rested and exchange.head is None and exchange.failure_is_closing:
            raise Stale
        raise Broken(exchange.failure, exchange.head.status if exchange.head else None, exchange.sent)
    head = exchange.head
    assert head is not None
    if head.keeps_alive and (head.is_chunked or head.length is not None):
        pool.give_back(upstream, target.resting_connections)
    else:
        upstream.close()
    return Relayed(head.status, exchange.sent, _stays_open(request, head, speaks_11))


async def _wait(exchange: Exchange, silence: float) -> None:
    """Until the exchange has something to decide; it fails when nothing comes for *silence* seconds."""
    if not silence:
        await exchange.wait()
        return
    before = exchange.sent
    try:
        async with asyncio.timeout(silence):
            await exchange.wait()
    except TimeoutError:
        if exchange.sent == before:
            exchange.fail(f"was silent for {silence:g} seconds (server.response_timeout)")


def _stays_open(request: web.Request, head: AnswerHead, speaks_11: bool) -> bool:
    """May the client's connection be used again? For an HTTP/1.0 client the end of an unframed body is its close."""
    return bool(request.keep_alive) and (speaks_11 or head.length is not None)


def request_head(method: str, path: str, headers: Iterable[tuple[bytes, bytes]], target: Target, length: int) -> bytes:
    """The head as the backend is to see it: the client's headers less what is not for it, and the backend's own key."""
    headers = list(headers)
    dropped = NOT_FOR_BACKENDS | named_by_connection(headers)
    host, port = target.authority
    lines = [f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n".encode("ascii")]
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
    own_address = "{}:{}".format(*target.authority).encode()
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
    if said := [value for _, folded, value in head.headers if folded == b"content-length"]:
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
