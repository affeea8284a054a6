"""Instances of llamactl, as JSON and as a database, that were made to do harm, or are broken: refused, or named in a note."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from llamactl_py.ground.errors import BadRequest
from llamactl_py.importers import read, read_database
from llamactl_py.importers.database import MAX_BYTES, MAX_VALUE
from llamactl_py.importers.write import MAX_INSTANCES

# ---- JSON


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (json.dumps([{"name": "a", "options": {}}] * (MAX_INSTANCES + 1)), "over 2000 models"),
        ('{"name": "a", "options": {"presets": ' + "[" * 99 + "]" * 99 + "}}", r"a.options is nested over 20 deep"),
    ],
)  # fmt: skip
def test_instances_that_come_to_too_much_are_refused(text: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(text)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ('{"name": "a b", "options": {"aliases": 5}}', "a b.aliases: was left out: expected a list of names, got 5"),
        ('{"name": "a", "options": {"aliases": "abc"}}', "a.aliases: was left out: expected a list of names, got 'abc'"),
        ('{"name": "a", "options": {"environment": [1]}}', "a.environment: was left out: expected names with values below them"),
        ('{"name": "a", "options": {"backend_options": "x"}}', "a.backend_options: was left out: expected names with values"),
        ('{"name": "a", "options": {"backend_options": [1]}}', "a.backend_options: was left out: expected names with values"),
    ],
)  # fmt: skip
def test_a_value_that_its_option_cannot_take_is_named(text: str, note: str) -> None:
    assert any(note in str(one) for one in read(text).notes)


def test_options_that_are_not_there_are_none() -> None:
    found = read('{"name": "a b", "options": {"aliases": null, "environment": null, "backend_options": null}}')
    assert found.instances["a-b"]["aliases"] == ["a b"]
    assert [note.what for note in found.notes] == ["is called a-b here; its old name is an alias"]


# ---- databases

KEYS = "CREATE TABLE api_keys (id INTEGER);"
TABLE = f"{KEYS} CREATE TABLE instances (id INTEGER PRIMARY KEY, name, options_json);"
ENDLESS = "WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM r) SELECT id, 'a' AS name, '{}' AS options_json FROM r"
MANY = f"WITH RECURSIVE r(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM r LIMIT {MAX_INSTANCES + 1})"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (f"{KEYS} CREATE VIEW instances AS {ENDLESS};", "instances is not a plain table"),
        (f"{TABLE} DROP TABLE api_keys; CREATE VIEW api_keys AS {ENDLESS};", "api_keys is not a plain table"),
        (f"{KEYS} CREATE TABLE instances (id, name AS (hex(zeroblob(id))), options_json);", "instances is not a plain table"),
        ("CREATE TABLE instances (id, name, options_json);", "no such table: api_keys"),
        (f"{KEYS} CREATE TABLE instances (name);", "no such column"),
        (f"{TABLE} INSERT INTO instances VALUES (1, NULL, '{{}}');", "instances.name of row 1 is not text"),
        (f"{TABLE} INSERT INTO instances VALUES (1, 'a', NULL);", "instances.options_json of 'a' is no JSON object"),
        (f"{TABLE} INSERT INTO instances VALUES (1, 'a', 5);", "instances.options_json of 'a' is no JSON object"),
        (f"{TABLE} INSERT INTO instances VALUES (1, 'a', '5');", "instances.options_json of 'a' is no JSON object"),
        (f"{TABLE} INSERT INTO instances VALUES (1, 'a', '{'[' * 100_000}');", "instances.options_json of 'a' is no JSON object"),
        (f"{TABLE} INSERT INTO instances VALUES (1, 'a', zeroblob({MAX_VALUE + 1}));", "too big"),
        (f"{TABLE} INSERT INTO instances {MANY} SELECT id, 'a', '{{}}' FROM r;", "over 2000 models"),
    ],
)  # fmt: skip
def test_a_database_that_llamactl_did_not_write_is_refused(tmp_path: Path, script: str, said: str) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as theirs:
        theirs.executescript(script)
    with pytest.raises(BadRequest, match=said):
        read_database(tmp_path / "x.db")


def test_a_database_that_takes_too_long_is_left(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as theirs:
        theirs.executescript(f"{TABLE} INSERT INTO instances {MANY} SELECT id, 'a', '{{}}' FROM r;")
    with pytest.raises(BadRequest, match="interrupted; reading it took over 0 s"):
        read_database(tmp_path / "x.db", seconds=0)


def test_a_huge_database_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "x.db").open("wb") as sparse:
        sparse.truncate(MAX_BYTES + 1)
    with pytest.raises(BadRequest, match="GET /api/v1/instances as JSON instead"):
        read_database(tmp_path / "x.db")
