"""Where an answer leads: from a thing that was made, seen or changed to everything that can be asked about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from llamactl_py.api.key_forms import KeyView
from llamactl_py.api.openapi.components import Schema, item, operation_id
from llamactl_py.api.route import Route
from llamactl_py.api.views import InstanceView


class Kind(Struct, frozen=True):
    """A kind of thing that has a path of its own. *parameter* of the path is *expression* of an answer."""

    path: str
    parameter: str
    expression: str


KINDS = {
    InstanceView: Kind("/api/v1/instances/{name}", "name", "$response.body#/name"),
    KeyView: Kind("/api/v1/auth/keys/{id}", "id", "$response.body#/id"),
}
"""By the model that shows it."""


def components(routes: Sequence[Route]) -> Schema:
    """A link to each operation that has to do with one thing."""
    return {
        operation_id(route): {
            "operationId": operation_id(route),
            "parameters": {kind.parameter: kind.expression},
        }
        for kind in KINDS.values()
        for route in _about(kind, routes)
    }


def of(route: Route, routes: Sequence[Route]) -> Schema:
    """The links of what *route* answers."""
    model = item(route.returns)
    if model is None or model is not route.returns:
        return {}
    kind = next((kind for shown, kind in KINDS.items() if issubclass(model, shown)), None)
    if kind is None:
        return {}
    targets = (operation_id(other) for other in _about(kind, routes) if other is not route)
    return {target: {"$ref": f"#/components/links/{target}"} for target in targets}


def _about(kind: Kind, routes: Iterable[Route]) -> Iterable[Route]:
    """The operations on one thing of that kind, less those that make it, and what its backend is asked."""
    for route in routes:
        is_about = route.path == kind.path or route.path.startswith(f"{kind.path}/")
        if is_about and "{path}" not in route.path and route.status != 201:
            yield route
