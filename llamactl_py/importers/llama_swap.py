"""llama-swap's configuration (its version 250) as ours. Facts about its keys are from its documentation and its source."""

from __future__ import annotations

from typing import Any

from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import macros
from llamactl_py.importers.llama_swap_model import Model, convert
from llamactl_py.importers.write import Imported, harmless

NEVER = "365d"
"""Idle for so long is never. Our 0 would mean never evicted either, and the models of a full machine would all wait."""

PORTS = 1000
"""How many ports a range gets that begins where theirs did."""

_HANDLED = {"models", "macros", "globalTTL", "unloadTimeout", "healthCheckTimeout", "startPort", "hooks", "groups", "routing"}
DROPPED = {
    "apiKeys": "keys are not kept in the file; make one for each client with: llamactl keys create NAME",
    "captureBuffer": "what was said is never kept; server.request_history says how many requests are remembered without it",
    "includeAliasesInList": "aliases are always listed",
    "logLevel": "llamactl serve --log-level says what is logged",
    "logRequests": "server.access_log logs requests",
    "logTimeFormat": "log lines have one form",
    "logToStdout": "each instance has a log file of its own: llamactl logs NAME",
    "matrix": "there is no such plan of who may run beside whom; instances.max_running_instances limits how many are up at once",
    "metricsMaxInMemory": "server.request_history says how many requests are remembered",
    "performance": "the machine is not watched; memory and CPU of each instance are told by GET /api/v1/instances/NAME/stats",
    "sendLoadingState": "clients wait in silence while a model loads",
    "peers": "models of other servers are not passed on",
    "profiles": "names are not rewritten by profiles; aliases of instances are the nearest",
    "selectors": "a name leads to one instance; aliases are the nearest",
    "ui": "the web page has no settings",
    "upstream": "GET /api/v1/instances/NAME/proxy/... never keeps an instance awake, and no path counts apart",
}
"""Keys that are left out, and what there is instead."""

_NO_SUCH = "there is nothing like it here"


def read(text: str) -> Imported:
    """Raises BadRequest when *text* is no such file."""
    tree, lines = macros.load(text)
    models = tree.get("models")
    if not isinstance(models, dict):
        raise BadRequest("this is no file of llama-swap: it has no section 'models'")
    made = Imported("llama-swap")
    everywhere = macros.macros_of(tree)
    whole = macros.fill({key: value for key, value in tree.items() if key not in ("models", "macros")}, everywhere)
    names: dict[str, str] = {}
    for model_id, raw in models.items():
        own = macros.of_model(model_id, everywhere, macros.macros_of(raw) if isinstance(raw, dict) else [])
        filled = macros.fill(_without_comments(raw), own)
        name = made.name_for(model_id)
        if (options := convert(Model(model_id, filled, lines, made))) is not None:
            names[model_id] = name
            made.instances[name] = _named(made, lines, name, model_id, options)
    _settings(made, whole, lines)
    _preload(made, whole, lines, names)
    _groups(made, whole, lines, names)
    for key in whole:
        if key not in _HANDLED:
            made.note(lines[key], key, f"was left out: {DROPPED.get(key, _NO_SUCH)}")
    return made


def _without_comments(raw: Any) -> Any:
    """A model without its macros, and its commands without lines of comment: before a macro in one of these is filled in."""
    if not isinstance(raw, dict):
        return raw
    model = {key: value for key, value in raw.items() if key != "macros"}
    for key in ("cmd", "cmdStop"):
        if isinstance(text := model.get(key), str):
            model[key] = "\n".join(line for line in text.split("\n") if not line.strip().startswith("#"))
    return model


def _named(made: Imported, lines: dict[str, int], name: str, model_id: str, options: dict[str, Any]) -> dict[str, Any]:
    if name == model_id:
        return options
    made.note(lines[f"models.{model_id}"], f"models.{model_id}", f"is called {name} here; its old name is an alias")
    return {**options, "aliases": [*options.get("aliases", ()), model_id]}


def _settings(made: Imported, tree: dict[str, Any], lines: dict[str, int]) -> None:
    ttl = tree.get("globalTTL") or 0
    made.set("instances", "default_idle_timeout", f"{ttl}s" if isinstance(ttl, int) and ttl > 0 else NEVER)
    if isinstance(seconds := tree.get("unloadTimeout"), int) and seconds > 0:
        made.set("instances", "default_stop_timeout", f"{seconds}s")
    if isinstance(seconds := tree.get("healthCheckTimeout"), int):
        made.set("instances", "default_start_timeout", f"{max(seconds, 15)}s")
    if isinstance(port := tree.get("startPort"), int) and 0 < port < 65535:
        made.set("instances", "port_range", [port, min(port + PORTS, 65535)])
        made.note(lines["startPort"], "startPort", "is the first port of a range; a port is tried before it is given")


def _preload(made: Imported, tree: dict[str, Any], lines: dict[str, int], names: dict[str, str]) -> None:
    startup = (tree.get("hooks") or {}).get("on_startup") if isinstance(tree.get("hooks"), dict) else None
    wanted = startup.get("preload") if isinstance(startup, dict) else None
    by_alias = {alias: name for name, options in made.instances.items() for alias in options.get("aliases", ())}
    for at, model_id in enumerate(wanted if isinstance(wanted, list) else ()):
        if name := names.get(model_id) or by_alias.get(model_id):
            made.instances[name]["autostart"] = True
        else:
            key = f"hooks.on_startup.preload.{at}"
            made.note(lines[key], key, f"was left out: there is no model {model_id!r}")


def _groups(made: Imported, tree: dict[str, Any], lines: dict[str, int], names: dict[str, str]) -> None:
    """Who may run beside whom, as a number: as many as could ever be up at once."""
    where, groups = _find_groups(made, tree, lines)
    at_once = others = 0
    grouped: set[str] = set()
    limits: dict[str, int] = {}
    for group, raw in groups.items():
        key = f"{where}.{group}"
        rules = raw if isinstance(raw, dict) else {}
        members = [names[member] for member in rules.get("members") or () if member in names]
        grouped |= set(members)
        label = harmless(group)
        for name in members:
            made.instances[name]["group"] = label
            if rules.get("persistent"):
                made.instances[name]["idle_timeout"] = 0
        swap, exclusive = rules.get("swap", True), rules.get("exclusive", True) and not rules.get("persistent")
        size = 1 if swap else len(members)
        at_once, others = (max(at_once, size), others) if exclusive else (at_once, others + size)
        if swap:
            limits[label] = 1
        _tell_group(made, lines.get(key, 0), key, rules)
    at_once = max(at_once, 1 if len(grouped) < len(made.instances) else 0)
    made.set("instances", "max_running_instances", max(at_once + others, 1))
    if limits:
        made.set("instances", "group_limits", limits)


def _find_groups(made: Imported, tree: dict[str, Any], lines: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """They stand in one of two places."""
    routing = tree.get("routing") if isinstance(tree.get("routing"), dict) else {}
    assert isinstance(routing, dict)
    router = routing.get("router") or {}
    settings = router.get("settings") or {} if isinstance(router, dict) else {}
    if "scheduler" in routing:
        made.note(lines["routing.scheduler"], "routing.scheduler", "was left out: requests have no priorities")
    if "matrix" in settings:
        made.note(lines["routing.router.settings.matrix"], "routing.router.settings.matrix", f"was left out: {DROPPED['matrix']}")
    if isinstance(found := settings.get("groups"), dict):
        return "routing.router.settings.groups", found
    return "groups", tree["groups"] if isinstance(tree.get("groups"), dict) else {}


def _tell_group(made: Imported, line: int, key: str, rules: dict[str, Any]) -> None:
    if rules.get("exclusive", True):
        made.note(
            line, f"{key}.exclusive", "members of other groups stay up while there is room; the one used longest ago leaves"
        )
    if rules.get("persistent"):
        made.note(line, f"{key}.persistent", "its members have idle_timeout 0: never stopped for being idle, and never evicted")
