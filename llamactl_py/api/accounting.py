"""What was asked, how long it took, and what it came to: for Prometheus, and for people. Never what was said."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import islice
from typing import Annotated, Any

from aiohttp import web

from llamactl_py import __version__
from llamactl_py.accounting.ledger import DELETED, Entry, Outcome
from llamactl_py.accounting.sums import Sums
from llamactl_py.accounting.usage import Usage
from llamactl_py.api.route import Query, Route, View, whole_number
from llamactl_py.auth.policy import Access
from llamactl_py.ground import errors
from llamactl_py.ground.errors import Invalid, NotFound, Problem
from llamactl_py.ground.fields import about
from llamactl_py.instances.state import State
from llamactl_py.services import Services

MOST_REQUESTS = 1000
REQUEST_ID_SCHEMA = {"type": "string", "pattern": "^[0-9a-z]{1,16}-[0-9a-f]{1,16}$"}
"""What the ids of requests look like."""


class RequestView(View, kw_only=True):
    """One request. What did not happen, or is not known, is left out."""

    id: str
    arrived_at: Annotated[float, about("Unix seconds.")]
    instance: Annotated[str, about("The one that it was for; empty if that was never known.")]
    model: Annotated[str, about("What it asked for.")]
    key: Annotated[str, about("Name of its key; empty if it had none.")]
    method: str
    path: Annotated[str, about("Without the query.")]
    streamed: Annotated[bool, about("Its answer is a stream of events.")]
    outcome: Annotated[Outcome | None, about("What became of it; left out while it is in flight.")] = None
    status: Annotated[int | None, about("Status of the answer.")] = None
    bytes_in: Annotated[int, about("Of its body.")]
    bytes_out: Annotated[int | None, about("Of the answer's body.")] = None
    queue_seconds: Annotated[float | None, about("Until it was its turn.")] = None
    load_seconds: Annotated[float | None, about("Then, until its instance had loaded for it.")] = None
    first_byte_seconds: Annotated[float | None, about("From its arrival to the first byte of the answer.")] = None
    duration_seconds: Annotated[float | None, about("From its arrival to its end.")] = None
    prompt_tokens: Annotated[int | None, about("Cached ones included.")] = None
    cached_tokens: Annotated[int | None, about("Those of the prompt that the backend had in a cache.")] = None
    completion_tokens: int | None = None
    prompt_tokens_per_second: Annotated[float | None, about("As the backend measured it.")] = None
    completion_tokens_per_second: Annotated[
        float | None, about("As the backend measured it; else, of a stream, from its first byte to its end.")
    ] = None


class Totals(View):
    """What many requests came to."""

    requests: Annotated[int, about("Requests that have ended.")]
    in_flight: Annotated[int, about("Requests that have not.")]
    outcomes: Annotated[dict[str, int], about("What became of those that ended.")]
    bytes_in: Annotated[int, about("Of the bodies of requests.")]
    bytes_out: Annotated[int, about("Of the bodies of answers.")]
    prompt_tokens: Annotated[int, about("As far as backends tell; cached ones included.")]
    cached_tokens: int
    completion_tokens: int


class NamedTotals(Totals):
    """What the requests for one instance, or with one key, came to."""

    name: Annotated[str, about("Empty for requests without; (deleted) and (other) stand for many.")]


class UsageView(View):
    """Everything since the daemon started."""

    since: Annotated[float, about("Unix seconds.")]
    total: Totals
    instances: list[NamedTotals]
    keys: list[NamedTotals]


async def get_metrics(services: Services, request: web.Request) -> web.StreamResponse:
    """Tell Prometheus how everything is.

    In Prometheus' text format, or in OpenMetrics where `Accept` asks for it. What was deleted is told for ten minutes more.
    """
    services.settle_ledger()
    pairs = [(instance, key, sums.copy()) for instance, key, sums in services.ledger.sums() if DELETED not in (instance, key)]
    instances = [(instance.name, instance.state.value, instance.restarts) for instance in services.fleet]
    body, content_type = await asyncio.to_thread(_exposition, pairs, instances, request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


def _exposition(pairs: list[tuple[str, str, Sums]], instances: list[tuple[str, str, int]], accept: str) -> tuple[bytes, str]:
    from llamactl_py.accounting.metrics import Figures, exposition  # only here, and only in a thread: see there

    return exposition(Figures(__version__, pairs, instances, [state.value for state in State]), accept)


async def list_requests(services: Services, request: web.Request) -> list[RequestView]:
    """List the newest requests.

    Newest first, those in flight among them, as many as `server.request_history` says; without prompts and answers.
    """
    limit = whole_number(request, "limit", 100, 1, MOST_REQUESTS)
    instance, key = request.query.get("instance"), request.query.get("key")
    found = (
        entry
        for entry in services.ledger.entries(_before(services, request))
        if instance in (None, entry.instance) and key in (None, entry.key)
    )
    return [show_request(entry) for entry in islice(found, limit)]


async def get_request(services: Services, request: web.Request) -> RequestView:
    """Show one of the newest requests."""
    id_ = request.match_info["id"]
    number = services.ledger.number(id_)
    entry = services.ledger.entry(number) if number is not None else None
    if entry is None:
        raise NotFound(f"there is no request {id_[:40]!r}, or it is none of the newest any more (server.request_history)")
    return show_request(entry)


async def get_usage(services: Services, request: web.Request) -> UsageView:
    """Show what all requests came to.

    For each instance and for each key, since the daemon started.
    """
    services.settle_ledger()
    total, instances, keys = Sums(), defaultdict[str, Sums](Sums), defaultdict[str, Sums](Sums)
    for instance, key, sums in services.ledger.sums():
        instances[instance].merge(sums)
        keys[key].merge(sums)
    for sums in keys.values():
        total.merge(sums)
    return UsageView(since=services.ledger.since, total=Totals(**_totals(total)), instances=_named(instances), keys=_named(keys))


def _named(many: dict[str, Sums]) -> list[NamedTotals]:
    return [NamedTotals(name=name, **_totals(sums)) for name, sums in sorted(many.items())]


def _totals(sums: Sums) -> dict[str, Any]:
    outcomes: Counter[str] = Counter()
    for (_, outcome), count in sums.answers.items():
        outcomes[outcome] += count
    return {
        "requests": sums.answers.total(),
        "in_flight": sums.in_flight,
        "outcomes": dict(outcomes),
        "bytes_in": sums.bytes_in,
        "bytes_out": sums.bytes_out,
        "prompt_tokens": sums.prompt_tokens,
        "cached_tokens": sums.cached_tokens,
        "completion_tokens": sums.completion_tokens,
    }


def show_request(entry: Entry) -> RequestView:
    usage = entry.usage or Usage()
    granted = entry.granted if entry.loading is None else entry.loading
    return RequestView(
        id=entry.id,
        arrived_at=round(entry.date, 3),
        instance=entry.instance,
        model=entry.model,
        key=entry.key,
        method=entry.method,
        path=entry.path,
        streamed=entry.is_streamed,
        outcome=entry.outcome,
        status=entry.status or None,
        bytes_in=entry.bytes_in,
        bytes_out=entry.bytes_out if entry.outcome else None,
        queue_seconds=_between(entry.arrived, granted),
        load_seconds=_between(entry.loading, entry.granted),
        first_byte_seconds=_between(entry.arrived, entry.first_byte),
        duration_seconds=_between(entry.arrived, entry.ended),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        prompt_tokens_per_second=usage.prompt_speed,
        completion_tokens_per_second=usage.generation_speed or _speed(entry, usage.completion_tokens),
    )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round(end - start, 6)


def _speed(entry: Entry, tokens: int | None) -> float | None:
    seconds = _between(entry.first_byte, entry.ended)
    return round(tokens / seconds, 2) if tokens and seconds and entry.is_streamed else None


def _before(services: Services, request: web.Request) -> int | None:
    id_ = request.query.get("before")
    if id_ is None:
        return None
    if (number := services.ledger.number(id_)) is None:
        raise Invalid([Problem("before", f"{id_[:40]!r} is the id of no request of this daemon; take one from this list")])
    return number


_BASE = "/api/v1/requests"

ROUTES = (
    Route(
        "GET", "/metrics", get_metrics, Access.READ, "accounting", returns=str,
        text_types=("text/plain", "application/openmetrics-text"),
    ),
    Route(
        "GET", _BASE, list_requests, Access.READ, "accounting", returns=list[RequestView], raises=(errors.Invalid,),
        query=(
            Query("instance", "Only those for the instance of that name."),
            Query("key", "Only those with a key of that name."),
            Query("limit", "How many at most.", {"type": "integer", "minimum": 1, "maximum": MOST_REQUESTS, "default": 100}),
            Query(
                "before", "Only those that came before the request with this id: the last one of the page before.",
                REQUEST_ID_SCHEMA,
            ),
        ),
    ),
    Route("GET", f"{_BASE}/{{id}}", get_request, Access.READ, "accounting", returns=RequestView, raises=(errors.NotFound,)),
    Route("GET", "/api/v1/usage", get_usage, Access.READ, "accounting", returns=UsageView),
)  # fmt: skip
