"""llama-swap's configuration (its version 250) as ours. Facts about its keys are from its documentation and its source."""

from __future__ import annotations

from typing import Any

from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import macros
from llamactl_py.importers.llama_swap_model import Model, convert
from llamactl_py.importers.values import Tell, entries, line_of, section, shown, whole
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

_STARTUP = "hooks.on_startup"
_NO_SUCH = "there is nothing like it here"


def read(text: str) -> Imported:
    """Raises BadRequest when *text* is no such file."""
    tree, lines = macros.load(text)
    models = tree.get("models")
    if not isinstance(models, dict):
        raise BadRequest("this is no file of llama-swap: it has no section 'models'")
    made = Imported("llama-swap")
    everywhere = macros.macros_of(tree)
    left = [macros.MAX_TEXT]
    rest = macros.fill({key: value for key, value in tree.items() if key not in ("models", "macros")}, everywhere, left)
    names: dict[str, str] = {}
    for model_id, raw in models.items():
        own = macros.of_model(model_id, everywhere, macros.macros_of(raw) if isinstance(raw, dict) else [])
        filled = macros.fill(_without_comments(raw), own, left)
        name = made.name_for(model_id)
        if (options := convert(Model(model_id, filled, lines, made))) is not None:
            names[model_id] = name
            made.instances[name] = _named(made, lines, name, model_id, options)
    _settings(made, rest, lines)
    _preload(made, rest, lines, names)
    _groups(made, rest, lines, names)
    for key in rest:
        if key not in _HANDLED:
            made.note(line_of(lines, key), key, f"was left out: {DROPPED.get(key, _NO_SUCH)}")
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
    made.note(line_of(lines, f"models.{model_id}"), f"models.{model_id}", f"is called {name} here; its old name is an alias")
    return {**options, "aliases": [*options.get("aliases", ()), model_id]}


def _tell(made: Imported, lines: dict[str, int], key: str) -> Tell:
    return made.noting(line_of(lines, key), key)


def _settings(made: Imported, tree: dict[str, Any], lines: dict[str, int]) -> None:
    ttl, stop, start, port = (
        whole(tree.get(key), _tell(made, lines, key)) for key in ("globalTTL", "unloadTimeout", "healthCheckTimeout", "startPort")
    )
    made.set("instances", "default_idle_timeout", f"{ttl}s" if ttl is not None and ttl > 0 else NEVER)
    if stop is not None and stop > 0:
        made.set("instances", "default_stop_timeout", f"{stop}s")
    if start is not None:
        made.set("instances", "default_start_timeout", f"{max(start, 15)}s")
    if port is not None and 0 < port < 65535:
        made.set("instances", "port_range", [port, min(port + PORTS, 65535)])
        made.note(line_of(lines, "startPort"), "startPort", "is the first port of a range; a port is tried before it is given")


def _preload(made: Imported, tree: dict[str, Any], lines: dict[str, int], names: dict[str, str]) -> None:
    startup = section(section(tree.get("hooks"), _tell(made, lines, "hooks")).get("on_startup"), _tell(made, lines, _STARTUP))
    wanted = entries(startup.get("preload"), "models", _tell(made, lines, f"{_STARTUP}.preload"))
    by_alias = {alias: name for name, options in made.instances.items() for alias in options.get("aliases", ())}
    for at, model_id in enumerate(wanted):
        if name := names.get(str(model_id)) or by_alias.get(str(model_id)):
            made.instances[name]["autostart"] = True
        else:
            key = f"{_STARTUP}.preload.{at}"
            made.note(line_of(lines, key), key, f"was left out: there is no model {shown(model_id)}")


def _groups(made: Imported, tree: dict[str, Any], lines: dict[str, int], names: dict[str, str]) -> None:
    """Who may run beside whom, as a number: as many as could ever be up at once."""
    where, groups = _find_groups(made, tree, lines)
    at_once = others = 0
    grouped: set[str] = set()
    limits: dict[str, int] = {}
    for group, raw in groups.items():
        key = f"{where}.{group}"
        rules = section(raw, _tell(made, lines, key))
        listed = entries(rules.get("members"), "models", _tell(made, lines, f"{key}.members"))
        members = _members(made, lines, f"{key}.members", listed, names)
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
        _tell_group(made, line_of(lines, key), key, rules)
    at_once = max(at_once, 1 if len(grouped) < len(made.instances) else 0)
    made.set("instances", "max_running_instances", max(at_once + others, 1))
    if limits:
        made.set("instances", "group_limits", limits)


def _find_groups(made: Imported, tree: dict[str, Any], lines: dict[str, int]) -> tuple[str, dict[str, Any]]:
    """They stand in one of two places."""
    routing = section(tree.get("routing"), _tell(made, lines, "routing"))
    router = section(routing.get("router"), _tell(made, lines, "routing.router"))
    where = "routing.router.settings"
    settings = section(router.get("settings"), _tell(made, lines, where))
    if "scheduler" in routing:
        _tell(made, lines, "routing.scheduler")("was left out: requests have no priorities")
    if "matrix" in settings:
        _tell(made, lines, f"{where}.matrix")(f"was left out: {DROPPED['matrix']}")
    if found := section(settings.get("groups"), _tell(made, lines, f"{where}.groups")):
        return f"{where}.groups", found
    return "groups", section(tree.get("groups"), _tell(made, lines, "groups"))


def _members(made: Imported, lines: dict[str, int], where: str, listed: list[Any], names: dict[str, str]) -> list[str]:
    for at, member in enumerate(listed):
        if str(member) not in names:
            _tell(made, lines, f"{where}.{at}")(f"was left out: there is no model {shown(member)}")
    return [names[str(member)] for member in listed if str(member) in names]


def _tell_group(made: Imported, line: int, key: str, rules: dict[str, Any]) -> None:
    if rules.get("exclusive", True):
        made.note(
            line, f"{key}.exclusive", "members of other groups stay up while there is room; the one used longest ago leaves"
        )
    if rules.get("persistent"):
        made.note(line, f"{key}.persistent", "its members have idle_timeout 0: never stopped for being idle, and never evicted")
