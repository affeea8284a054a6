"""Durations as people and llamactl write them.

A plain number keeps the unit that llamactl gave its field (minutes for `idle_timeout`, seconds elsewhere); a string such as
"90s", "15m", "2h", "500ms" says its own. Inside they are all seconds (float); outside a value shows as its plain number
where it is whole in the field's unit, else as a string.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated

from llamactl_py.ground.fields import Form

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST = 365 * 86400.0
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd])", re.ASCII)
_WHOLE = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:ms|[smhd])\s*)+", re.ASCII)


def parse(value: object, unit: float) -> float:
    """Seconds of *value*, a number in *unit* (seconds each) or a string with units. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not a duration; write a number or a string such as '90s', '15m', '2h'")  # noqa: TRY004 one of several things that are wrong with a value
    if isinstance(value, str):
        text = value.strip().lower()
        if _WHOLE.fullmatch(text):
            seconds = sum(float(number) * UNITS[u] if u != "ms" else float(number) / 1000 for number, u in _PART.findall(text))
        elif re.fullmatch(r"\d+(\.\d+)?", text, re.ASCII):
            seconds = float(text) * unit
        else:
            raise ValueError(f"{value!r} is not a duration; write a number or a string such as '90s', '15m', '2h'")
    else:
        seconds = float(value) * unit if abs(value) <= LONGEST else float("inf")  # a huge int has no float
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{value!r} is out of range: a duration is 0 to 365 days")
    return seconds


def show(seconds: float) -> str:
    """*seconds* in its largest whole unit: 5400 -> '90m', 0.5 -> '500ms', 0 -> '0s'. `parse` gives exactly *seconds* back."""
    for name in ("d", "h", "m", "s"):
        if seconds and seconds % UNITS[name] == 0:
            return f"{seconds / UNITS[name]:.0f}{name}"
    milliseconds = round(seconds * 1000)
    return f"{milliseconds}ms" if seconds and milliseconds / 1000 == seconds else f"{Decimal(repr(seconds)).normalize():f}s"


def _form(unit: float, unit_name: str) -> Form:
    def plain(seconds: float) -> int | str:
        return int(seconds / unit) if seconds % unit == 0 else show(seconds)

    schema = {
        "anyOf": [
            {"type": "number", "minimum": 0, "maximum": LONGEST / unit},
            {"type": "string", "pattern": r"^\s*\d+(\.\d+)?\s*(ms|[smhd])?(\s*\d+(\.\d+)?\s*(ms|[smhd]))*\s*$"},
        ],
        "description": f"a number of {unit_name}, or a string with its own unit such as '90s', '15m', '2h'",
    }
    return Form(lambda value: parse(value, unit), plain, schema)


Seconds = Annotated[float, _form(1.0, "seconds")]
"""Seconds inside; a plain number outside means seconds."""

Minutes = Annotated[float, _form(60.0, "minutes")]
"""Seconds inside; a plain number outside means minutes (llamactl's `idle_timeout`)."""
