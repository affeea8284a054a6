"""What of a request's head a backend gets to see, and what of an answer's head a client: everything but what is meant for one
connection, and what is nobody else's business. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from llamactl_py.ground.errors import BadRequest
from llamactl_py.instances.target import Target
from llamactl_py.proxy.http1 import AnswerHead

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
UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
"""The one upgrade that is passed on (RFC 6455)."""


def forwarded(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The header lines of a request that its backend is to see."""
    headers = list(headers)
    dropped = NOT_FOR_BACKENDS | named_by_connection(headers)
    lines = []
    for name, value in headers:
        folded = name.lower()
        if folded not in dropped and not folded.startswith(b"x-forwarded-"):
            lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def request_head(method: str, path: str, lines: bytes, target: Target, length: int) -> bytes:
    """The head as the backend of *target* is to see it. *path* is raw, *lines* come from `forwarded`, *length* is the body's."""
    framing = b"Content-Length: %d\r\n" % length if length or method not in ("GET", "HEAD", "OPTIONS", "DELETE") else b""
    return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (method.encode("ascii"), path.encode("ascii"), target.lines, lines, framing)


def answer_lines(head: AnswerHead, target: Target) -> bytes:
    """The first lines of the head as the client is to see it, up to the framing. Who may read answers across sites is for us to
    say, and a redirect to the backend's own address would lead past us."""
    dropped = NOT_FOR_CLIENTS
    if head.connection:
        dropped = NOT_FOR_CLIENTS | named_by_connection((folded, value) for _, folded, value in head.headers)
    lines = [b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)]
    for name, folded, value in head.headers:
        if folded in dropped or folded.startswith(b"access-control-") or (folded == b"location" and _is_own(value, target)):
            continue
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


def answer_framing(head: AnswerHead, said_length: bytes | None, speaks_11: bool, stays_open: bool) -> bytes:
    """The last lines of the head as the client is to see it. *said_length*: Content-Length as the backend sent it."""
    if said_length is not None and head.status != 204:
        framing = b"Content-Length: %b\r\n" % said_length  # as the backend says, also where a HEAD has no body
    elif head.length is not None or not speaks_11:
        framing = b""
    else:
        framing = b"Transfer-Encoding: chunked\r\n"
    if not stays_open:
        return framing + b"Connection: close\r\n\r\n"
    return framing + (b"\r\n" if speaks_11 else b"Connection: keep-alive\r\n\r\n")


def upgrade_head(head: AnswerHead) -> bytes:
    """The head of `101 Switching Protocols` as the client is to see it."""
    lines = [b"%b: %b\r\n" % (name, value) for name, folded, value in head.headers if folded not in NOT_FOR_CLIENTS]
    return b"HTTP/1.1 101 %b\r\n%b%b\r\n" % (head.reason, UPGRADE, b"".join(lines))


def _is_own(location: bytes, target: Target) -> bool:
    return target.host_header.encode() in location


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
