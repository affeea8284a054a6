"""What happens to every request before its handler: is it meant for us, may it, and how are its errors told."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion10, HttpVersion11, web

from llamactl_py.api import problems
from llamactl_py.api.body import give_back
from llamactl_py.api.route import CALLER, SERVICES, Route
from llamactl_py.auth.hosts import names_us
from llamactl_py.auth.policy import Access, admit
from llamactl_py.ground.errors import BadRequest, Forbidden, Invalid, LlamactlError, Problem, nearest
from llamactl_py.ground.readers import MOST_PROBLEMS
from llamactl_py.proxy.asked import AlreadySent
from llamactl_py.proxy.relay import Relayed

log = logging.getLogger(__name__)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
ROUTE_OF: web.AppKey[dict[Next, Route]] = web.AppKey("route_of", dict)

_NAMES_OF_KEYS = frozenset(("api_key", "apikey", "x_api_key", "access_token", "authorization"))
_OUR_KEY = re.compile(r"llamactl-(?:[a-z]+-)?[0-9a-f]{64}")


@web.middleware
async def tell_problems(request: web.Request, handler: Next) -> web.StreamResponse:
    """Turn whatever is raised into an answer of the right shape. Nothing internal is told."""
    try:
        return await handler(request)
    except LlamactlError as error:
        return problems.response(error, request.path)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        answer = problems.plain(error.status, error.reason.lower().replace(" ", "_"), _explain(request, error), request.path)
        if allow := error.headers.get("Allow"):
            answer.headers["Allow"] = allow
        return answer
    except ConnectionError:  # it is gone, or is to be: aiohttp would answer 500 in the middle of what was answered
        if request.transport is not None:
            request.transport.abort()
        return AlreadySent(Relayed(0, 0, stays_open=False, is_cut=True))
    except Exception:  # a defect of ours: the one who asked gets an answer, and our log the traceback
        log.exception("%s %r failed", request.method, request.path)
        return problems.plain(500, "internal_error", problems.INTERNAL, request.path)
    finally:
        give_back(request.app[SERVICES], request)


def _explain(request: web.Request, error: web.HTTPException) -> str:
    if error.status == 404:
        hint = (
            f"; did you mean /v1{request.path}? The base URL of clients ends in /v1" if problems.misses_v1(request.path) else ""
        )
        return f"there is no route {request.method} {request.path}{hint}"
    if isinstance(error, web.HTTPMethodNotAllowed):
        return f"{request.path} does not take {request.method}; it takes {', '.join(sorted(error.allowed_methods))}"
    return error.reason


@web.middleware
async def refuse_strangers(request: web.Request, handler: Next) -> web.StreamResponse:
    """Loopback is no border: any web page can make a browser send requests here. So the Host header must name us (against
    DNS rebinding), and what a page of another site sends is refused, unless it only reads (`only_reads`)."""
    if request.method == "CONNECT" or not request.raw_path.startswith("/"):
        raise BadRequest("this form of request is not supported; send METHOD /path")
    if not is_framed_plainly(request):
        answer = problems.response(BadRequest("the framing of the request is not supported; send plain HTTP/1.1"), request.path)
        answer.force_close()  # where the next request begins is anybody's guess
        return answer
    if not names_us(request.headers.get("Host", ""), request.app[SERVICES].settings.server):
        raise Forbidden("the Host header does not name this server; if it should, add the name to server.allowed_hosts")
    if not same_site(request) and not only_reads(request):
        raise Forbidden("requests from pages of other sites are refused")
    return await handler(request)


def only_reads(request: web.Request) -> bool:
    """Can an answer that its page may not see be all that comes of it? Not of a WebSocket, which any page may read, nor of a GET
    that starts an instance or a program."""
    route = request.app[ROUTE_OF].get(request.match_info.handler)
    acts = route is not None and route.access in (Access.INFERENCE, Access.MANAGEMENT)
    return request.method in ("GET", "HEAD", "OPTIONS") and "Upgrade" not in request.headers and not acts


def is_framed_plainly(request: web.Request) -> bool:
    """Is it in a version, and its body in a framing, that every server reads alike (RFC 9112, section 6.1)?"""
    encoding = request.headers.get("Transfer-Encoding")
    if encoding is not None and (encoding.lower() != "chunked" or request.version != HttpVersion11):
        return False
    return request.version in (HttpVersion10, HttpVersion11)


def same_site(request: web.Request) -> bool:
    """Did a program, or a page of ours, send this? Browsers say where a request comes from, other programs do not."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return False
    origin = request.headers.get("Origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("Host", "")


@web.middleware
async def check_key(request: web.Request, handler: Next) -> web.StreamResponse:
    """Let pass who has the key that the route asks for."""
    route = request.app[ROUTE_OF].get(request.match_info.handler)
    if request.query_string and has_key_in_query(request):
        raise BadRequest("keys in the query string end up in logs; send the key as: Authorization: Bearer KEY")
    services = request.app[SERVICES]
    access = route.access if route else Access.READ if request.path.startswith("/api/") else Access.PUBLIC
    caller = services.keys.caller(key) if (key := sent_key(request)) else None
    admit(access, caller, services.requirements, lambda: services.keys.why_unknown(key))
    if request.query_string and route is not None and route.knows_its_query:
        refuse_unknown(request, route)
    if caller is None:
        return await handler(request)
    request[CALLER] = caller
    if access is Access.INFERENCE or request.method != "GET" or request.transport is None:
        return await handler(request)  # what was asked of a model, and a change that was begun, come to their end
    with services.keys.visit(caller, request.transport.abort):
        return await handler(request)


def has_key_in_query(request: web.Request) -> bool:
    """Is there a parameter that others take for a key, or a value that looks like one of ours?"""
    return any(
        name.lower().replace("-", "_") in _NAMES_OF_KEYS or _OUR_KEY.search(value) for name, value in request.query.items()
    )


def refuse_unknown(request: web.Request, route: Route) -> None:
    """A parameter that is not known would be left out in silence, as would the second of two. Raises Invalid."""
    known = {query.name: query for query in route.query}
    problems = []
    for name in dict.fromkeys(request.query):
        if name not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            problems.append(Problem(name[:60], f"is no query parameter of this route{nearest(name[:60], known)}; {takes}"))
        elif not known[name].repeats and len(request.query.getall(name)) > 1:
            problems.append(Problem(name, "is given more than once; give it once"))
    if problems:
        raise Invalid(problems[:MOST_PROBLEMS])


def sent_key(request: web.Request) -> str:
    """The key in `Authorization: Bearer KEY` or `X-API-Key: KEY`; empty when there is none."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else request.headers.get("X-API-Key", "").strip()
