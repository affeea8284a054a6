"""The configuration as anybody may see it: every setting with its value, who says it, and no secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from llamactl_py.config.load import Configuration, Origin
from llamactl_py.config.settings import Settings
from llamactl_py.config.variables import SECTIONS
from llamactl_py.ground.masking import masked
from llamactl_py.ground.validation import plain


class Shown(Struct, frozen=True):
    """One setting: its dotted name, its value as JSON, and who says it."""

    name: str
    value: Any
    origin: Origin


def tree(settings: Settings) -> dict[str, Any]:
    """The settings as one would write them into the file; secrets are masked."""
    found: dict[str, Any] = masked(plain(settings))
    return found


def entries(configuration: Configuration) -> list[Shown]:
    """Every setting, in the order of the documentation."""
    default = Origin("default")
    found = _leaves(tree(configuration.settings), "")
    return [Shown(name, value, configuration.origins.get(name, default)) for name, value in found]


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if f"{prefix}{name}" in SECTIONS:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
