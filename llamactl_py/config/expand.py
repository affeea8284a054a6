"""`${VAR}` and `${VAR:-text}` inside the values of a configuration file. Knows text and variables, neither YAML nor settings."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_EXPANDED = 1 << 20
"""Characters that all variables of one file may come to together."""

INSTANCE_WORDS = frozenset({"HOST", "MODEL", "NAME", "PID", "PORT"})
"""`${PORT}` and the like in a declared instance are filled in at each of its starts, not when the file is read."""

_REFERENCE = re.compile(
    r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^${}]|\$(?!\{))*))?\}|(?P<broken>\$\{)", re.ASCII
)


class Expander:
    """Fills in the variables of one file."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._left = MAX_EXPANDED

    def expand(self, text: str, keep: frozenset[str] = frozenset()) -> str | None:
        """*text* with its variables filled in, and `$${` as `${`; None when it refers to none.

        References to *keep* stay as they are. A default counts where the variable is unset or empty, as in a shell. What a
        variable holds is not looked at again. Raises ValueError.
        """
        if "${" not in text:
            return None
        found: list[str] = []

        def fill(reference: re.Match[str]) -> str:
            name = reference["name"]
            if reference[0] == "$${":
                found.append("")
                return "${"
            if name in keep and reference["default"] is None:
                return reference[0]
            found.append(name)
            return self._value(reference)

        filled = _REFERENCE.sub(fill, text)
        return filled if found else None

    def _value(self, reference: re.Match[str]) -> str:
        name, default = reference["name"], reference["default"]
        if reference["broken"]:
            raise ValueError("'${' begins a variable: write ${NAME} or ${NAME:-text}, or $${ for the characters themselves")
        value = self._environ.get(name) or default
        if value is None:
            value = self._environ.get(name)
        if value is None:
            raise ValueError(
                f"the variable {name} is not set; set it in the environment or in .env, or give a default: ${{{name}:-text}}"
            )
        self._left -= len(value)
        if self._left < 0:
            raise ValueError(f"the variables of the file come to over {MAX_EXPANDED} characters")
        return value
