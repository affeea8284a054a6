"""llamactl's instances: its database, or JSON: what its GET /api/v1/instances answers, or one of its old files of instances."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from llamactl_py.ground.errors import BadRequest
from llamactl_py.ground.masking import MASK
from llamactl_py.importers.write import Imported
from llamactl_py.instances.foreign import INSTEAD
from llamactl_py.instances.options import InstanceOptions


def read(tree: Any) -> Imported:
    """*tree* is one instance or a list of them, each with `name` and `options`. Raises BadRequest."""
    found = tree if isinstance(tree, list) else [tree]
    if not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) and isinstance(one.get("options"), dict) for one in found
    ):
        raise BadRequest("this JSON holds no instances: each needs a name and options")
    made = Imported("llamactl")
    for one in found:
        name = made.name_for(one["name"])
        options = {key: value for key, value in one["options"].items() if key in InstanceOptions.model_fields}
        if name != one["name"]:
            made.note(0, one["name"], f"is called {name} here; its old name is an alias")
            options["aliases"] = [*options.get("aliases", ()), one["name"]]
        for key in one["options"].keys() - options.keys():
            made.note(0, f"{one['name']}.{key}", f"was left out: {INSTEAD.get(key, 'no option of that name is known')}")
        for field in ("environment", "backend_options"):
            hidden = [key for key, value in (options.get(field) or {}).items() if value == MASK]
            for key in hidden:
                made.note(0, f"{one['name']}.{field}.{key}", "was masked; write the value in, or ${NAME} of a variable")
        if options.get("idle_timeout") == 0:
            made.note(0, f"{one['name']}.idle_timeout", "0 means never stopped for being idle, and never evicted, as in llamactl")
        made.instances[name] = options
    return made


def read_database(file: Path) -> Imported:
    """The instances in llamactl's own database, which is not changed. Raises BadRequest."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT name, options_json FROM instances ORDER BY id").fetchall()
            keys = connection.execute("SELECT count(*) FROM api_keys").fetchone()[0]
        made = read([{"name": name, "options": json.loads(options)} for name, options in rows])
    except (sqlite3.Error, ValueError) as error:
        raise BadRequest(f"this is no database of llamactl: {error}") from None
    if keys:
        made.note(
            0, "api_keys", f"{keys} were left out: only their hashes are known; make new ones with: llamactl keys create NAME"
        )
    return made
