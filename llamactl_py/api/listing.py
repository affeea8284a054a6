"""Which instances a list is asked for, in which order, and which part of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from llamactl_py.api.route import Query, whole_number
from llamactl_py.backends import BACKEND_NAMES, backend
from llamactl_py.ground.errors import Invalid, Problem, nearest
from llamactl_py.instances.instance import Instance
from llamactl_py.instances.state import State, status_word

LARGEST = 10_000

KEYS: dict[str, Callable[[Instance], Any]] = {
    "created": lambda i: i.id,
    "name": lambda i: (i.name.casefold(), i.name),
    "status": lambda i: status_word(i.state),
    "state": lambda i: i.state.value,
    "since": lambda i: i.since,
    "backend_type": lambda i: i.options.backend_type,
    "group": lambda i: i.options.group,
    "last_used": lambda i: i.last_used,
    "in_flight": lambda i: i.leases.value,
    "restarts": lambda i: i.restarts,
}
"""What a list can be sorted by. Where the key is the same the order of creation decides."""

_WORDS = sorted({word for state in State for word in (state.value, status_word(state))})

PARAMETERS = (
    Query(
        "status", f"Only those with one of these words, commas between: {', '.join(_WORDS)} (llamactl's words and exact states).",
        {"type": "array", "items": {"type": "string", "enum": _WORDS}, "minItems": 1}, repeats=True,
    ),
    Query("group", "Only those of this group; empty: only those of none."),
    Query("backend_type", "Only those of this kind of server.", {"type": "string", "enum": [*BACKEND_NAMES]}),
    Query("search", "Only those with this text, in any case, in their name, an alias, the group or the model."),
    Query("sort", f"By what: {', '.join(KEYS)}.", {"type": "string", "enum": list(KEYS), "default": "created"}),
    Query("order", "In which direction.", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}),
    Query("limit", "At most so many; without it, all.", {"type": "integer", "minimum": 1, "maximum": LARGEST}),
    Query("offset", "Leave out so many at the beginning.", {"type": "integer", "minimum": 0, "maximum": LARGEST, "default": 0}),
)  # fmt: skip


def chosen(request: web.Request, instances: Iterable[Instance]) -> tuple[list[Instance], int]:
    """Those of *instances* that *request* asks for, and how many there are without `limit` and `offset`. Raises Invalid."""
    key = KEYS[_one_of(request, "sort", list(KEYS), "created")]
    backwards = _one_of(request, "order", ["asc", "desc"], "asc") == "desc"
    offset = whole_number(request, "offset", 0, 0, LARGEST)
    limit = whole_number(request, "limit", LARGEST, 1, LARGEST)
    filters = _filters(request)
    found = [instance for instance in instances if all(fits(instance) for fits in filters)]
    found.sort(key=key, reverse=backwards)
    return found[offset : offset + limit], len(found)


def _filters(request: web.Request) -> list[Callable[[Instance], bool]]:
    query = request.query
    filters: list[Callable[[Instance], bool]] = []
    if "status" in query:
        words = _words(",".join(query.getall("status")))
        filters.append(lambda i: not words.isdisjoint((i.state.value, status_word(i.state))))
    if (group := query.get("group")) is not None:
        filters.append(lambda i: i.options.group == group)
    if "backend_type" in query:
        kind = backend(query["backend_type"]).type
        filters.append(lambda i: i.options.backend_type == kind)
    if text := query.get("search", "").casefold():
        filters.append(lambda i: any(text in part.casefold() for part in _searched(i)))
    return filters


def _searched(instance: Instance) -> Iterable[str]:
    options = instance.options
    model = options.backend_options.get("model", "")
    return (instance.name, *options.aliases, options.group, model if isinstance(model, str) else "")


def _words(text: str) -> set[str]:
    words = {word.strip() for word in text.split(",")}
    if unknown := sorted(words.difference(_WORDS)):
        raise Invalid(
            [Problem("status", f"{unknown[0][:40]!r} is none of {', '.join(_WORDS)}{nearest(unknown[0][:40], _WORDS)}")]
        )
    return words


def _one_of(request: web.Request, name: str, known: list[str], default: str) -> str:
    word = request.query.get(name, default)
    if word not in known:
        raise Invalid([Problem(name, f"{word[:40]!r} is none of {', '.join(known)}{nearest(word[:40], known)}")])
    return word
