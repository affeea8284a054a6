"""The environment variables of settings: which there are, and how their text is read."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pydantic import BaseModel

from llamactl_py.config.settings import Backends, Settings

OTHER_VARIABLES = (
    "LLAMACTL_CONFIG_PATH",
    "LLAMACTL_URL",
    "LLAMACTL_API_KEY",
    "LLAMACTL_TEST_LLAMA_SERVER",
    "LLAMACTL_TEST_ROUND_TRIPS",
    "LLAMACTL_SPAWN",
)
"""Ours, but not settings: where the file is, and what the command line client and the test suite use."""


def variables(model: type[BaseModel] = Settings, prefix: str = "", kind: str = "") -> Iterator[tuple[str, str]]:
    """(dotted setting, environment variable) of every setting that has one. *kind* stands for {KIND} in those of a backend."""
    for name, field in model.model_fields.items():
        inner, extra = field.annotation, field.json_schema_extra
        said = extra.get("env") if isinstance(extra, dict) else None
        dotted = prefix + (field.alias or name)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            own = str(said or (field.alias or name).upper().replace("-", "_"))
            yield from variables(inner, f"{dotted}.", own if model is Backends else kind)
        elif isinstance(said, str):
            yield dotted, said.replace("{KIND}", kind)


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield f"{prefix}{field.alias or name}"
            yield from _sections(field.annotation, f"{prefix}{field.alias or name}.")


SECTIONS = frozenset(_sections(Settings))
"""Dotted names that hold settings, and are none themselves."""

KNOWN_VARIABLES = frozenset((*(v for _, v in variables()), *OTHER_VARIABLES))

_LISTS = {"server.allowed_hosts", "auth.management_keys"}


def from_text(name: str, text: str) -> object:
    """A variable's text as its setting's type; what is not read here pydantic reads. Raises ValueError.

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
