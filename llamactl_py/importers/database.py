"""llamactl's database, read with distrust: it may be anybody's file, and SQL that stands in it must not run for ever."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import llamactl
from llamactl_py.importers.write import MAX_INSTANCES, Imported

MAX_BYTES = 64 << 20
MAX_VALUE = 1 << 20
SECONDS = 10.0
_STEPS = 1000
"""Steps of SQLite between two looks at the clock."""


def read_database(file: Path, seconds: float = SECONDS) -> Imported:
    """The instances in llamactl's own database, which is not changed. Raises BadRequest, also when it takes over *seconds*."""
    if (size := file.stat().st_size) > MAX_BYTES:
        raise BadRequest(
            f"the database has {size} bytes, more than {MAX_BYTES}; take llamactl's GET /api/v1/instances as JSON instead"
        )
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            _bound(connection, seconds)
            for table in ("instances", "api_keys"):
                _check_table(connection, table)
            instances = _instances(connection)
            keys = connection.execute("SELECT count(*) FROM api_keys").fetchone()[0]
    except sqlite3.Error as error:
        late = f"; reading it took over {seconds:g} s" if str(error) == "interrupted" else ""
        raise BadRequest(f"this is no database of llamactl: {error}{late}") from None
    made = llamactl.read(instances)
    if keys:
        made.note(
            0, "api_keys", f"{keys} were left out: only their hashes are known; make new ones with: llamactl keys create NAME"
        )
    return made


def _bound(connection: sqlite3.Connection, seconds: float) -> None:
    end = time.monotonic() + seconds
    connection.set_progress_handler(lambda: time.monotonic() >= end, _STEPS)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
    connection.execute("PRAGMA trusted_schema = OFF")


def _check_table(connection: sqlite3.Connection, name: str) -> None:
    """A view, a virtual table or a computed column would be a program, and not what llamactl wrote."""
    found = connection.execute("SELECT type, rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
    if not found:
        raise BadRequest(f"this is no database of llamactl: no such table: {name}")
    computed = connection.execute("SELECT count(*) FROM pragma_table_xinfo(?) WHERE hidden", (name,)).fetchone()[0]
    if [kind for kind, _page in found] != ["table"] or not found[0][1] or computed:
        raise BadRequest(f"this is no database of llamactl: {name} is not a plain table; export the instances as JSON instead")


def _instances(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    rows = connection.execute("SELECT name, options_json FROM instances ORDER BY id LIMIT ?", (MAX_INSTANCES + 1,))
    found: list[dict[str, Any]] = []
    left = MAX_BYTES  # a damaged file can show one page as many rows
    for name, options in rows:
        if not isinstance(name, str):
            raise BadRequest(f"instances.name of row {len(found) + 1} is not text; correct it in llamactl")
        left -= len(options) if isinstance(options, str) else 0
        if left < 0:
            raise BadRequest(f"options of instances come to over {MAX_BYTES} characters; that is no database of llamactl")
        found.append({"name": name, "options": _options(name, options)})
    return found


def _options(name: str, text: object) -> dict[str, Any]:
    try:
        options = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise BadRequest(f"instances.options_json of {name[:60]!r} is no JSON object; save that instance in llamactl again")
    return options
