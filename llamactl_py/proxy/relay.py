"""Carries one request to a target and its answer back, as it comes: no buffering, no decoding, no waiting for the end.

When the client leaves, aiohttp cancels the handler, and with it the upstream connection is closed, also before the first
byte. When the backend leaves in the middle, the client's connection is reset: an answer that was cut must not look whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from llamactl_py.ground.errors import BackendFailed, BadRequest
from llamactl_py.instances.target import Target

HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
"""RFC 9110, section 7.6.1, and what browsers and proxies made of it: meant for one connection, never passed on."""
NOT_FOR_BACKENDS = HOP_BY_HOP | {"host", "content-length", "expect", "authorization", "x-api-key", "cookie", "forwarded"}
"""Credentials of our clients are ours alone; framing is made anew; who the client is, is no business of a backend."""


def new_session(connect_timeout: float, read_timeout: float) -> aiohttp.ClientSession:
    """A client for relaying. Each request has a connection of its own: backends close idle ones after 5 seconds or less, and
    a request sent into a closing connection cannot be told from one that was processed. On loopback connecting costs 0.1 ms."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout, sock_read=read_timeout or None),
        trust_env=False,
    )


async def relay(
    session: aiohttp.ClientSession, request: web.Request, target: Target, path: str, body: bytes
) -> web.StreamResponse:
    """Send *body* to *path* (raw, with its query) of *target* with the method and headers of *request*; stream the answer back.

    Raises BackendFailed while no byte of an answer was sent, ConnectionResetError after that.
    """
    raw, _, query = refuse_tricks(path).partition("?")
    url = URL.build(scheme="http", host=target.host, port=target.port, path=raw, query_string=query, encoded=True)
    headers = request_headers(request.headers, target)
    try:
        upstream = session.request(request.method, url, headers=headers, data=body or None, allow_redirects=False)
        async with upstream as answer:
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=response_headers(answer.headers, target)
            )
            await response.prepare(request)
            try:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            except (aiohttp.ClientError, TimeoutError) as error:
                _reset(request)
                raise ConnectionResetError(f"{target.instance} broke off its answer: {error}") from None
            await response.write_eof()
            return response
    except aiohttp.ServerTimeoutError:
        raise BackendFailed("did not answer in time") from None
    except aiohttp.ClientConnectorError as error:
        raise BackendFailed(f"could not be connected to ({error.os_error.strerror or 'connection failed'})") from None
    except aiohttp.ClientError as error:
        raise BackendFailed(_what_it_did(error)) from None


def _what_it_did(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError):
        return "closed the connection before it answered"
    return f"gave an answer that is no HTTP ({type(error).__name__})"


def refuse_tricks(path: str) -> str:
    """*path* (raw, with query) if no server could read it as leading elsewhere. Raises BadRequest."""
    plain = path.partition("?")[0].lower()
    decoded = plain.replace("%2e", ".").replace("%2f", "/").replace("%5c", "\\")
    segments = decoded.replace("\\", "/").split("/")
    if (
        not path.startswith("/")
        or "\\" in decoded
        or "%00" in plain
        or any(part.partition(";")[0] in (".", "..") for part in segments)
    ):
        raise BadRequest("the path of the request is not usable: it has dot segments, a backslash or NUL, or no leading slash")
    return path


def request_headers(headers: Mapping[str, str], target: Target) -> CIMultiDict[str]:
    """The client's headers as the backend is to see them, and the backend's own key."""
    dropped = NOT_FOR_BACKENDS | _named_by_connection(headers)
    kept = CIMultiDict(
        (k, v) for k, v in headers.items() if k.lower() not in dropped and not k.lower().startswith("x-forwarded-")
    )
    kept.update(target.headers)
    return kept


def response_headers(headers: Mapping[str, str], target: Target) -> CIMultiDict[str]:
    """The backend's headers as the client is to see them: who may read answers across sites is for us to say."""
    dropped = HOP_BY_HOP | _named_by_connection(headers)
    kept = CIMultiDict(
        (k, v) for k, v in headers.items() if k.lower() not in dropped and not k.lower().startswith("access-control-")
    )
    if target.authority in kept.get("Location", ""):
        del kept["Location"]
    return kept


def _named_by_connection(headers: Mapping[str, str]) -> set[str]:
    return {name.strip().lower() for name in headers.get("Connection", "").split(",") if name.strip()}


def _reset(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
