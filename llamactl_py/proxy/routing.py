"""Which instance answers to a model name, and what the backend is to find in `model`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from llamactl_py.backends import Served
from llamactl_py.ground.errors import UnknownModel, nearest


class Entry(Struct, frozen=True):
    """One instance, as routing sees it."""

    instance: str
    created_at: int
    served: Served
    aliases: Sequence[str] = ()


class Route(Struct, frozen=True):
    """*forward*: the value that `model` must have for this backend; None leaves the body as it is."""

    instance: str
    forward: str | None = None


class Routes:
    """The table of all model names; made anew when the fleet changes, looked up once for each request."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries = {entry.instance: entry for entry in entries}
        self._routes: dict[str, Route] = {}
        for entry in self._entries.values():
            if entry.aliases:
                own = entry.served.default or (None if entry.served.open else entry.instance)  # no server knows our aliases
                self._routes |= dict.fromkeys(entry.aliases, Route(entry.instance, own))
            for name in entry.served.names:
                self._routes[name] = Route(entry.instance)
        for name, entry in self._entries.items():  # last: an instance's own name is never hidden by an alias
            self._routes[name] = Route(name, entry.served.default)

    def find(self, model: str) -> Route:
        """The route of *model*: an instance's name, an alias, or `instance/model`. Raises UnknownModel with the nearest name."""
        if route := self._routes.get(model):
            return route
        instance, slash, inner = model.partition("/")
        entry = self._entries.get(instance) if slash else None
        if entry is None:
            raise UnknownModel(
                f"no instance serves the model {model!r}{nearest(model, self._routes)}; GET /v1/models lists what there is"
            )
        if (entry.served.open and inner) or inner in entry.served.names:
            return Route(instance, inner)
        known = ", ".join(map(repr, entry.served.names)) or "only its own model; leave out what follows the slash"
        raise UnknownModel(f"instance {instance!r} does not serve {inner!r}; it serves {known}")

    def owner(self, model: str) -> str | None:
        """The instance that answers for *model*, or would if it knew what follows the slash; None if there is none."""
        if route := self._routes.get(model):
            return route.instance
        instance, slash, _ = model.partition("/")
        return instance if slash and instance in self._entries else None

    def listing(self) -> list[tuple[str, str, int]]:
        """(model name, instance, Unix seconds of creation) of every name that `find` knows, sorted by name."""
        return sorted((name, route.instance, self._entries[route.instance].created_at) for name, route in self._routes.items())
