"""One model of llama-swap as a declared instance: its command through our own parser, or as a command of any kind."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from llamactl_py.backends import backend, parse_command
from llamactl_py.backends.parse import Parsed
from llamactl_py.backends.placeholders import STOP_MEANING
from llamactl_py.ground.errors import Invalid
from llamactl_py.importers.values import entries, line_of, shown, whole
from llamactl_py.importers.write import Imported, command_text
from llamactl_py.instances.options import InstanceOptions

CUSTOM = "custom"
"""The backend of commands that no other backend knows."""

_PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
_PORT = re.compile(r"https?://[^/:]+:(\d+)")
_ADDRESS = re.compile(r"--(server-)?(host|port|name) was left out")
_OURS = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\]|\$\{[^}]*\}):(\d+|\$\{PORT\})/?")
_HANDLED = {"cmd", "cmdStop", "proxy", "checkEndpoint", "ttl", "unloadTimeout", "env", "aliases", "useModelName"}
DROPPED = {
    "concurrencyLimit": "any number of requests may be in flight; a server queues what is too much for it",
    "unlisted": "every model is listed in /v1/models",
    "filters": "requests are passed on as they are, but for their model",
    "sendLoadingState": "clients wait in silence while a model loads",
    "name": "models are listed by their names alone",
    "description": "models are listed by their names alone",
    "metadata": "models are listed by their names alone",
    "capabilities": "models are listed by their names alone",
    "timeouts": "server.connect_timeout and server.response_timeout hold for all instances",
    "compat": "there is nothing like it here",
}
"""Keys of a model that are left out, and what there is instead."""


class Model(Struct, frozen=True):
    """One entry of `models`, its macros filled in, and where notes about it go."""

    id: str
    raw: Any
    lines: Mapping[str, int]
    made: Imported

    def get(self, key: str) -> Any:
        return self.raw.get(key)

    def note(self, key: str, what: str) -> None:
        path = f"models.{self.id}" + (f".{key}" if key else "")
        self.made.note(line_of(self.lines, path), path, what)

    def whole(self, key: str) -> int | None:
        return whole(self.get(key), lambda what: self.note(key, what))

    def entries(self, key: str, of: str) -> list[Any]:
        return entries(self.get(key), of, lambda what: self.note(key, what))


def convert(model: Model) -> dict[str, Any] | None:
    """The entry that declares it; None when it has no command. What is other than it was is noted."""
    cmd = model.get("cmd") if isinstance(model.raw, dict) else None
    words = _words(model, "cmd", cmd)
    if not words:
        model.note("", "was left out: it has no command")
        return None
    words = _with_port(model, words)
    environment = _environment(model)
    entry = _known(model, words, environment) or _custom(model, words)
    if environment:
        entry["environment"] = environment
    if aliases := model.entries("aliases", "names"):
        entry["aliases"] = [str(alias) for alias in aliases]
    _timeouts(model, entry)
    for key in model.raw:
        if key not in _HANDLED:
            model.note(key, f"was left out: {DROPPED.get(key, 'there is nothing like it here')}")
    return entry


def _words(model: Model, key: str, text: object) -> list[str]:
    """As llama-swap splits a command: a line end is a blank, with a backslash before it or without."""
    if text is not None and not isinstance(text, str):
        model.note(key, f"was left out: expected a command as text, got {shown(text)}; write it as one would type it")
        return []
    lines = (text or "").split("\n")
    joined = "\n".join(line.rstrip()[:-1] + " " if line.rstrip().endswith("\\") else line for line in lines)
    try:
        words = shlex.split(joined)
    except ValueError as error:
        model.note(key, f"was left out: {str(error).lower()}")
        return []
    if any(word.startswith("#") for word in words):
        model.note(key, "a word begins with #, which is no comment in the middle of a line; remove it if it was meant as one")
    for name in sorted({name for word in words for name in _PLACEHOLDER.findall(word)}):
        if name not in ("PORT", "PID") and not name.startswith("env."):
            model.note(key, f"${{{name}}} is no macro that is defined; it stays as it is")
    return words


def _with_port(model: Model, words: list[str]) -> list[str]:
    """A fixed port becomes one that the daemon chooses: two daemons, or an old process, would get in each other's way."""
    proxy = model.get("proxy")
    if not isinstance(proxy, str) or any("${PORT}" in word for word in words):
        return words
    if not _OURS.fullmatch(proxy):
        model.note("proxy", f"was left out: the server has to answer on the address that the daemon gives it, not on {proxy}")
        return words
    if (port := _PORT.match(proxy)) is None:
        return words
    number = re.compile(rf"(?<![\d.]){port[1]}(?![\d.])")
    if changed := [number.sub("${PORT}", word) for word in words]:
        told = "is chosen by the daemon" if changed != words else "is not in the command, which has to listen on ${PORT}"
        model.note("proxy", f"port {port[1]} {told}")
    return changed


def _environment(model: Model) -> dict[str, str]:
    found: dict[str, str] = {}
    for at, pair in enumerate(model.entries("env", "NAME=value")):
        name, equals, value = pair.partition("=") if isinstance(pair, str) else ("", "", "")
        if equals and name:
            found[name] = value
        else:
            model.note(f"env.{at}", "was left out: it is not NAME=value")
    return found


def _known(model: Model, words: Sequence[str], environment: dict[str, str]) -> dict[str, Any] | None:
    """As an instance of a backend that we know; None when the command starts none of them."""
    try:
        parsed = parse_command([_value(word) for word in words])
    except Invalid:
        return None
    if parsed.docker and "docker" not in InstanceOptions.__struct_fields__:
        return None  # a version that has no containers can still run the command that makes one
    kept = _without_owned(parsed, words)
    if not parsed.docker and any(f"${{{name}}}" in word for word in kept for name in STOP_MEANING):
        model.note("cmd", f"holds a placeholder where {words[0]} takes no port, so it is run as a command of any kind (custom)")
        return None
    for warning in parsed.warnings:
        if not _ADDRESS.match(warning):  # everybody had to give one there; here nobody misses it
            model.note("cmd", warning)
    for name in set(parsed.environment) & set(environment):
        kept = [word for word in kept if not word.startswith(f"{name}=")]  # llama-swap's env wins
    if model.get("cmdStop"):
        model.note("cmdStop", "was left out: a server is sent SIGTERM, and after its stop_timeout its whole tree is ended")
    endpoint = model.get("checkEndpoint")
    if endpoint not in (None, "", backend(parsed.backend_type).health_path):
        model.note("checkEndpoint", f"was left out: this server is asked at {backend(parsed.backend_type).health_path}")
    if name := model.get("useModelName"):
        served = backend(parsed.backend_type).served(parsed.backend_options, model.id)
        if name not in served.names and not served.open:
            model.note("useModelName", "was left out: requests get the name that the server knows by itself")
    return {"command": command_text(kept)}


def _value(word: str) -> str:
    """*word* as it may come out, for the parser to judge."""
    return _PLACEHOLDER.sub(lambda m: "5800" if m[1] == "PORT" else os.environ.get(m[1].removeprefix("env."), "1"), word)


def _without_owned(parsed: Parsed, words: Sequence[str]) -> list[str]:
    """The words without those flags that the daemon sets itself (host, port), so that nobody is warned of them for ever."""
    catalogue = backend(parsed.backend_type).catalogue
    kept: list[str] = []
    skip = False
    for word in words:
        hit = catalogue.by_word(word.partition("=")[0]) if word.startswith("-") else None
        if skip and hit is None:
            skip = False
            continue
        skip = bool(hit and hit.flag.owned and hit.flag.arity == "one" and "=" not in word)
        if hit is None or not hit.flag.owned:
            kept.append(word)
    return kept


def _custom(model: Model, words: Sequence[str]) -> dict[str, Any]:
    """As a command of any kind."""
    options: dict[str, Any] = {}
    if not any("${PORT}" in word for word in words):
        model.note("cmd", "has to listen on the port that the daemon gives it: put ${PORT} where the port belongs")
    if endpoint := model.get("checkEndpoint"):
        options["health_path"] = "" if endpoint == "none" else str(endpoint)
    if stop := _words(model, "cmdStop", model.get("cmdStop")):
        options["stop_command"] = stop
    if name := model.get("useModelName"):
        options["served_model_name"] = str(name)
    entry: dict[str, Any] = {"backend_type": CUSTOM, "command": command_text(words)}
    return {**entry, "backend_options": options} if options else entry


def _timeouts(model: Model, entry: dict[str, Any]) -> None:
    ttl, stop = model.whole("ttl"), model.whole("unloadTimeout")
    if ttl is not None and ttl >= 0:
        entry["idle_timeout"] = f"{ttl}s" if ttl else "365d"
    if stop is not None and stop > 0:
        entry["stop_timeout"] = f"{stop}s"
