"""llamactl's instances as JSON: what its GET /api/v1/instances answers, or one of its old files of instances."""

from __future__ import annotations

from typing import Any

from llamactl_py.ground.errors import BadRequest
from llamactl_py.ground.masking import MASK
from llamactl_py.importers.values import entries, section
from llamactl_py.importers.write import Imported
from llamactl_py.instances.foreign import INSTEAD
from llamactl_py.instances.options import InstanceOptions

MAX_DEPTH = 20
"""How deep options may be nested; theirs are some four deep."""


def read(tree: Any) -> Imported:
    """*tree* is one instance or a list of them, each with `name` and `options`. Raises BadRequest."""
    found = tree if isinstance(tree, list) else [tree]
    if not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("options"), dict) for one in found
    ):
        raise BadRequest("this JSON holds no instances: each needs a name and options")
    made = Imported("llamactl")
    for one in found:
        _carry_over(made, one["name"], one["options"])
    return made


def _carry_over(made: Imported, old: str, theirs: dict[str, Any]) -> None:
    if _deeper(theirs, MAX_DEPTH):
        raise BadRequest(f"{old[:60]}.options is nested over {MAX_DEPTH} deep; llamactl writes no such options, so take them out")
    name = made.name_for(old)
    options = {key: value for key, value in theirs.items() if key in InstanceOptions.__struct_fields__}
    for field in ("environment", "backend_options"):
        values = section(options.get(field), made.noting(0, f"{old}.{field}"))
        if field in options:
            options[field] = values
        for key in [key for key, value in values.items() if value == MASK]:
            made.note(0, f"{old}.{field}.{key}", "was masked; write the value in, or ${NAME} of a variable")
    if "aliases" in options:
        options["aliases"] = entries(options["aliases"], "names", made.noting(0, f"{old}.aliases"))
    if name != old:
        made.note(0, old, f"is called {name} here; its old name is an alias")
        options["aliases"] = [*options.get("aliases", ()), old]
    for key in theirs.keys() - options.keys():
        made.note(0, f"{old}.{key}", f"was left out: {INSTEAD.get(key, 'no option of that name is known')}")
    if options.get("idle_timeout") == 0:
        made.note(0, f"{old}.idle_timeout", "0 means never stopped for being idle, and never evicted, as in llamactl")
    made.instances[name] = options


def _deeper(value: object, than: int) -> bool:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return than < 0 or any(_deeper(one, than - 1) for one in below)
