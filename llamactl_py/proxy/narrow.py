"""The narrow form of request that the front takes by itself: `POST /v1/...` with a JSON body of known length, or `GET /v1/models`
without a body, in a head that no two servers could read differently. Whatever is not exactly that is aiohttp's to judge. Pure.
"""

from __future__ import annotations

import re

from llamactl_py.ground.private import Private
from llamactl_py.instances.target import Target
from llamactl_py.proxy.heads import NOT_FOR_BACKENDS

MAX_HEAD = 1 << 14
"""Bytes. Longer ones are aiohttp's."""
MAX_HEADERS = 64

_FIRST_LINE = re.compile(rb"(?:(POST) (/v1(?:/[A-Za-z0-9_-]{1,64}){1,7})|(GET) (/v1/models)) HTTP/1\.1")
_HEADER = re.compile(rb"([A-Za-z0-9_-]{1,64}):[ \t]*([\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?[ \t]*")
_JSON = re.compile(rb'application/json(?:[ \t]*;[ \t]*charset="?utf-8"?)?', re.IGNORECASE)
_HOST = re.compile(rb"[A-Za-z0-9.:_\[\]-]+")

_ONCE = frozenset((b"host", b"authorization", b"x-api-key", b"content-type", b"connection"))
_NEVER = frozenset(
    (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"te", b"trailer", b"proxy-connection",
     b"proxy-authorization", b"origin", b"http2-settings")
)  # fmt: skip
"""Headers that change how a request is framed, answered or trusted."""


class Head(Private, frozen=True):
    """A request's head, less its Content-Length. *lines*: the headers that the backend is to see."""

    method: str
    path: str
    first_line: bytes
    """As the backend is to see it."""
    host: str
    key: str
    """The key that came with it; empty if none did."""
    keeps_alive: bool
    lines: bytes

    def opening(self, target: Target, length: int) -> bytes:
        """The head as the backend of *target* is to see it, before a body of *length* bytes."""
        return b"%b%b%bContent-Length: %d\r\n\r\n" % (self.first_line, target.lines, self.lines, length)


def read(head: bytes) -> Head | None:
    """The meaning of *head*, as `http1.cut_length` leaves it; None if it is not of the narrow form."""
    first, *lines = head.split(b"\r\n")
    request = _FIRST_LINE.fullmatch(first)
    if request is None or len(lines) > MAX_HEADERS or lines.pop() != b"":
        return None
    once: dict[bytes, bytes] = {}
    kept, lengths = [], 0
    for line in lines:
        if line.lower() == b"content-length: ":
            lengths += 1
            continue
        header = _HEADER.fullmatch(line)
        if header is None:
            return None
        name, value = header[1].lower(), header[2] or b""
        if name in _NEVER or name.startswith(b"sec-") or name == b"content-length" or (name in _ONCE and name in once):
            return None
        if name in _ONCE:
            once[name] = value
        if name not in NOT_FOR_BACKENDS and not name.startswith(b"x-forwarded-"):
            kept.append(b"%b: %b\r\n" % (header[1], value))
    key = _key(once)
    connection = once.get(b"connection", b"keep-alive").lower()
    host = once.get(b"host", b"")
    has_body = request[1] is not None
    has_plain_body = lengths == 1 and _JSON.fullmatch(once.get(b"content-type", b""))
    is_plain = has_plain_body if has_body else lengths == 0 and b"content-type" not in once
    if not is_plain or key is None or connection not in (b"keep-alive", b"close") or not _HOST.fullmatch(host):
        return None
    method, path = (request[1], request[2]) if has_body else (request[3], request[4])
    return Head(method.decode(), path.decode(), first + b"\r\n", host.decode(), key, connection == b"keep-alive", b"".join(kept))


def _key(once: dict[bytes, bytes]) -> str | None:
    """The key that was sent, empty for none; None when it takes a second look."""
    if b"authorization" not in once:
        return once.get(b"x-api-key", b"").decode()
    scheme, _, key = once[b"authorization"].partition(b" ")
    if b"x-api-key" in once or scheme.lower() != b"bearer" or b" " in key or b"\t" in key:
        return None
    return key.decode()
