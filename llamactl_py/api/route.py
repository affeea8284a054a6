"""The route table is the API: what handles a path, what it takes and gives, what it needs. Everything else derives from it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, dataclass_transform

import msgspec
from aiohttp import web
from msgspec import Struct, field
from msgspec.structs import asdict

from llamactl_py.api.body import read_small
from llamactl_py.auth.policy import ANYBODY, Access, Caller
from llamactl_py.ground.errors import BadRequest, Invalid, LlamactlError, Problem, TooLarge
from llamactl_py.ground.fields import Frozen, about
from llamactl_py.ground.validation import parse
from llamactl_py.services import Services

SERVICES: web.AppKey[Services] = web.AppKey("services", Services)

CALLER: web.RequestKey[Caller] = web.RequestKey("caller", Caller)
MAX_BODY = "server.max_body_size"
MAX_JSON = 1 << 20
"""Bytes of a body that is parsed whole, on the loop."""

Handler = Callable[[Services, web.Request], Awaitable[Any]]
Model = TypeVar("Model", bound=Frozen)


class Query(Struct, frozen=True):
    """A parameter in the query string."""

    name: str
    description: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    repeats: bool = False
    """May it be given several times? All of them count, as if there were commas between."""


class Route(Struct, frozen=True):
    """One operation. Its summary and description are the docstring of *call*.

    *returns*: the View that answers are, or that describes them; a list of one (`list[View]`), `str` for plain text, or None for
    no content or an answer that *call* makes itself. *raises*: the errors that callers have to expect, beside those of every
    route.
    """

    method: str
    path: str
    call: Handler
    access: Access
    tag: str
    body: type[Frozen] | None = None
    returns: Any = None
    status: int = 200
    query: tuple[Query, ...] = ()
    raises: tuple[type[LlamactlError], ...] = ()
    example: dict[str, Any] | None = None
    text_types: tuple[str, ...] = ("text/plain",)
    """Media types of the answer where *returns* is `str`."""
    also: tuple[int, ...] = ()
    """Statuses without a body that it may answer, beside *status* and those of errors."""
    headers: tuple[Query, ...] = ()
    """Request headers that the operation knows, beside those of HTTP itself."""
    body_types: tuple[str, ...] = ("application/json",)
    patches: bool = False
    """Its body is a merge patch of the options of an instance."""
    location: str = ""
    """Path of what it makes, with fields of *returns* in braces: told as `Location`."""
    tells: tuple[str, ...] = ()
    """Headers of its answer that mean something here; those of `Tagged` are told anyway."""
    may_tell: tuple[str, ...] = ()
    """Such headers that only some of its answers have."""

    @property
    def aiohttp_path(self) -> str:
        """The path in aiohttp's form: `{path}` takes the whole rest."""
        return self.path.replace("{path}", "{path:.*}")

    @property
    def spellings(self) -> tuple[str, ...]:
        """The paths that are taken for this one: llamactl takes a slash behind its management paths, and so do we."""
        path = self.aiohttp_path
        return (path, f"{path}/") if path.startswith("/api/") and "{path:" not in path else (path,)

    @property
    def openapi_path(self) -> str:
        """The path in OpenAPI's form: parameters by name only."""
        return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", self.path)

    @property
    def knows_its_query(self) -> bool:
        """Is *query* everything that may stand in the query string? Not where a backend reads it, nor where clients of others
        put into it what they are used to: OpenAI's, Prometheus, what asks for our health."""
        return self.path.startswith("/api/") and "{path}" not in self.path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        result = await self.call(request.app[SERVICES], request)
        if isinstance(result, web.StreamResponse):
            return result
        if result is None:
            return web.Response(status=204)
        if isinstance(result, str):
            return web.Response(status=self.status, text=result, content_type="text/plain")
        answer = web.Response(status=self.status, body=msgspec.json.encode(result), content_type="application/json")
        if isinstance(result, Tagged):
            answer.headers["ETag"] = f'"{result.revision}"'
            answer.headers["Cache-Control"] = "no-store"  # the tag says nothing about state, pid and the like
        if self.location:
            answer.headers["Location"] = self.location.format_map(asdict(result))
        return answer


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
class View(Struct, frozen=True, omit_defaults=True):
    """What answers are made of. Fields without a value are left out; some views tell them all: llamactl's clients, and OpenAI's,
    ask for them."""

    SCHEMA: ClassVar[Mapping[str, Any]] = {}
    """What the fields do not say of it, in JSON Schema."""


class Tagged(View):
    """What can be changed on condition that nobody else did; its answers carry the revision as `ETag`."""

    revision: Annotated[str, about("Changes whenever the options do; it is the ETag too, for If-Match.")]


def caller_of(request: web.Request) -> Caller:
    """Who sent *request*."""
    caller: Caller = request.get(CALLER, ANYBODY)
    return caller


async def read_json(request: web.Request) -> Any:
    """The body as JSON values. Raises BadRequest, TooLarge."""
    services = request.app[SERVICES]
    limit, whose = min((MAX_JSON, "the most that the management API takes"), (services.settings.server.max_body_size, MAX_BODY))
    too_large = TooLarge(f"the request body is over {limit} bytes ({whose})")
    body = await read_small(services, request, limit, too_large)
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from None


async def read_model(request: web.Request, model: type[Model]) -> Model:
    """The body as *model*. Raises BadRequest, Invalid."""
    return parse(model, await read_json(request))


def flag(request: web.Request, name: str) -> bool:
    """A yes-or-no query parameter. Raises Invalid."""
    text = request.query.get(name, "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise Invalid([Problem(name, f"{text!r} is neither true nor false")])
    return text in ("true", "1")


def whole_number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A numeric query parameter. Raises Invalid."""
    text = request.query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,12}", text) or not least <= int(text) <= most:
        raise Invalid([Problem(name, f"{text[:40]!r} is not a whole number from {least} to {most}")])
    return int(text)
