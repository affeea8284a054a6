"""Values of a foreign file that may be anything: as what their key takes, or as nothing and with a note that says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llamactl_py.ground.readers import kind

Tell = Callable[[str], None]
"""Makes a note about the value at hand."""


def line_of(lines: Mapping[str, int], path: str) -> int:
    """The line of *path*, or of what it stands in: what a macro or a merge key (<<) brought has no line of its own."""
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return lines.get(path, 0)


def whole(value: object, tell: Tell) -> int | None:
    """*value* when it is a whole number."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    tell(f"was left out: expected a whole number, got {shown(value)}; write one without quotes")
    return None


def entries(value: object, of: str, tell: Tell) -> list[Any]:
    """*value* when it is a list."""
    if isinstance(value, list):
        return value
    if value is not None:
        tell(f"was left out: expected a list of {of}, got {shown(value)}; write [{of}, ...]")
    return []


def section(value: object, tell: Tell) -> dict[str, Any]:
    """*value* when it is an object."""
    if isinstance(value, dict):
        return value
    if value is not None:
        tell(f"was left out: expected names with values below them, got {shown(value)}; write NAME: VALUE")
    return {}


def shown(value: object) -> str:
    """*value* for a message, which a long one does not fill."""
    text = repr(value) if isinstance(value, str) else str(value)
    return kind(value) if isinstance(value, list | dict) or len(text) > 60 else text
