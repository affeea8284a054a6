"""The one place that reads the wall clock. Durations never come from here: they come from the event loop's clock."""

from __future__ import annotations

import time
from collections.abc import Callable

Now = Callable[[], float]
"""Gives Unix seconds; injected wherever a date is stored or shown."""


now: Now = time.time
"""Unix seconds."""


def stamp(moment: float) -> str:
    """A moment (Unix seconds) as local time with its offset, to the second: for logs and people."""
    return time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(moment))
