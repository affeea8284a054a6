"""The environment variables of settings: which there are, and how their text is read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache

from msgspec import Struct

from llamactl_py.config.settings import Backends, Settings
from llamactl_py.ground.fields import fields_of

OTHER_VARIABLES = (
    "LLAMACTL_CONFIG_PATH",
    "LLAMACTL_URL",
    "LLAMACTL_API_KEY",
    "LLAMACTL_TEST_LLAMA_SERVER",
    "LLAMACTL_TEST_ROUND_TRIPS",
    "LLAMACTL_SPAWN",
)
"""Ours, but not settings: where the file is, and what the command line client and the test suite use."""


@cache
def variables() -> tuple[tuple[str, str], ...]:
    """(dotted setting, environment variable) of every setting."""
    return tuple(_variables(Settings, "", ""))


def _variables(model: type[Struct], prefix: str, kind: str) -> Iterator[tuple[str, str]]:
    """*kind* stands for {KIND} in those of a backend."""
    for field in fields_of(model):
        if field.section:
            own = field.variable or field.name.upper()  # llamactl's word for it
            yield from _variables(field.section, f"{prefix}{field.key}.", own if model is Backends else kind)
        else:
            yield prefix + field.key, (field.variable or f"LLAMACTL_{field.name.upper()}").replace("{KIND}", kind)


def _sections(model: type[Struct], prefix: str = "") -> Iterator[str]:
    for field in fields_of(model):
        if field.section:
            yield f"{prefix}{field.key}"
            yield from _sections(field.section, f"{prefix}{field.key}.")


SECTIONS = frozenset(_sections(Settings))
"""Dotted names that hold settings, and are none themselves."""

KNOWN_VARIABLES = frozenset((*(v for _, v in variables()), *OTHER_VARIABLES))

_LISTS = {"server.allowed_hosts", "auth.management_keys"}


def from_text(name: str, text: str) -> object:
    """A variable's text as its setting's type; what is not read here `parse` reads. Raises ValueError.

    Lists are split at commas, a port range also at '-', a backend's arguments as a shell does; its environment, and the limits
    of groups, are K=V,K=V.
    """
    if name == "instances.port_range":
        return text.replace("-", ",").split(",")
    if name in _LISTS:
        return _parts(text)
    if name.startswith("backends.") and name.endswith(".args"):
        return shlex.split(text)
    if name == "instances.group_limits" or (name.startswith("backends.") and name.endswith(".environment")):
        pairs = [part.partition("=") for part in _parts(text)]
        if any(not key.strip() or not equals for key, equals, _ in pairs):
            raise ValueError("expected NAME=value,NAME=value")
        return {key.strip(): value.strip() for key, _, value in pairs}
    return text


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
