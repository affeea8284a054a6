"""Values that nobody is to read in a log."""

from __future__ import annotations

from msgspec import Struct


class Private(Struct, frozen=True):
    """Base of what holds a secret: its `repr`, and so a traceback or a log, tells none of what it holds."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"
