"""`${PORT}` and its like in a custom command: what may stand there, and putting the values in.

A word stays one word whatever its values hold, as no shell ever sees it. `$${X}` is the text `${X}` itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from llamactl_py.ground.errors import nearest

MEANING: Mapping[str, str] = {
    "HOST": "the address to listen on",
    "PORT": "the port to listen on",
    "MODEL": "the option `model`",
    "NAME": "the instance's name",
}
"""Every placeholder of a command, and what it stands for."""

STOP_MEANING: Mapping[str, str] = {**MEANING, "PID": "the process that the command started (in `stop_command` only)"}
"""Every placeholder of a stop command."""

_PLACEHOLDER = re.compile(r"\$(\$?)\{([^}]*)\}")


class UnknownPlaceholder(ValueError):
    """A word names a placeholder that does not exist; the text says which do."""


def fill(word: str, values: Mapping[str, str]) -> str:
    """*word* with the values put in. Raises UnknownPlaceholder."""

    def value(match: re.Match[str]) -> str:
        escape, name = match.groups()
        if escape:
            return match[0][1:]
        if name not in values:
            raise UnknownPlaceholder(complaint(name, values))
        return values[name]

    return _PLACEHOLDER.sub(value, word)


def complaint(name: str, known: Iterable[str]) -> str:
    """What to say about a placeholder that is none of *known*."""
    names = list(known)
    said = ", ".join(f"${{{n}}}" for n in names)
    return (
        f"${{{name[:40]}}} is no placeholder{nearest(name[:40], names)}; known are {said} (write $${{...}} for the text itself)"
    )


def has_placeholder(word: str) -> bool:
    """True when *word* holds a placeholder or an escaped one."""
    return _PLACEHOLDER.search(word) is not None
