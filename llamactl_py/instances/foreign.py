"""llamactl's options of instances that are none of ours: left out where they say what holds here anyway, else refused with what
to do instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamactl_py.ground.errors import Invalid, Problem

INSTEAD: Mapping[str, str] = {
    "nodes": "there are no remote nodes; run a daemon on each machine",
    "preset_ini": "a server with presets is given its file by its own option (models_preset)",
}
"""Option and what to do instead."""

LOCAL_NODE = "main"
"""What llamactl calls the machine that it runs on, unless its configuration says otherwise."""


def without_foreign(raw: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """*raw* without llamactl's own options, and a warning for each that was left out. Raises Invalid for those that ask for what
    is not here."""
    found = {name: raw[name] for name in INSTEAD if raw.get(name) not in (None, "", [])}
    if refused := [name for name, value in found.items() if (name, value) != ("nodes", [LOCAL_NODE])]:
        raise Invalid(Problem(name, f"is llamactl's, and has no effect here: {INSTEAD[name]}") for name in refused)
    kept = {name: value for name, value in raw.items() if name not in INSTEAD}
    return kept, tuple(f"nodes was left out: {INSTEAD[name]}" for name in found)
