"""Rows of instances: what was added is found, names differ in more than case, and marks for the next start are exact."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamactl_py.ground.errors import NameTaken, NotFound
from llamactl_py.storage.database import Database
from llamactl_py.storage.instances import InstanceRow, InstanceStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[InstanceStore]:
    database = Database(tmp_path / "a.db")
    yield InstanceStore(database, lambda: 1_700_000_000.9)
    database.close()


async def test_a_row_is_given_back_as_it_is_stored(store: InstanceStore) -> None:
    row = await store.add("a", '{"ü": "\\u0000"}')
    assert row == InstanceRow(row.id, "a", '{"ü": "\\u0000"}', False, 1_700_000_000)
    assert await store.all() == [row]


@pytest.mark.parametrize(("name", "case"), [("a", ""), ("A", ", and 'A' differs from it in case only")])
async def test_a_name_is_taken_once_in_whatever_case(store: InstanceStore, name: str, case: str) -> None:
    await store.add("a", "{}")
    for add in (store.add(name, "{}"), store.declare(["new", name])):
        with pytest.raises(NameTaken, match=f"^an instance named 'a' exists already{case}; choose another name, or change that"):
            await add
    assert [row.name for row in await store.all()] == ["a"]


async def test_rows_come_in_the_order_of_their_creation_and_numbers_are_never_used_again(store: InstanceStore) -> None:
    ids = [(await store.add(name, "{}")).id for name in "cab"]
    assert [row.name for row in await store.all()] == ["c", "a", "b"]
    await store.remove("b")
    assert (await store.add("b", "{}")).id > max(ids)


async def test_options_are_replaced_and_nothing_else(store: InstanceStore) -> None:
    row, other = await store.add("a", "old"), await store.add("b", "other")
    await store.change("a", "new")
    assert await store.all() == [InstanceRow(row.id, "a", "new", False, row.created_at), other]
    with pytest.raises(NotFound, match="there is no instance named 'c'"):
        await store.change("c", "new")


async def test_removing_is_final_and_harmless_when_repeated(store: InstanceStore) -> None:
    await store.add("a", "{}")
    await store.remove("a")
    await store.remove("a")
    assert await store.all() == []


async def test_exactly_those_named_are_resumed(store: InstanceStore) -> None:
    for name in "abc":
        await store.add(name, "{}")
    await store.mark_resume(["a", "b", "gone"])
    assert [row.name for row in await store.all() if row.resume] == ["a", "b"]
    await store.mark_resume({"c"})
    assert [row.name for row in await store.all() if row.resume] == ["c"]
    await store.mark_resume([])
    assert [row.name for row in await store.all() if row.resume] == []


@pytest.mark.parametrize("name", ["'; DROP TABLE instances;--", "a\0b", '"', "%", "模型"])
async def test_text_is_only_ever_a_value(store: InstanceStore, name: str) -> None:
    await store.add("a", "{}")
    await store.add(name, name)
    await store.mark_resume([name])
    await store.change(name, f"{name}!")
    assert [(row.name, row.options, row.resume) for row in await store.all()] == [("a", "{}", False), (name, f"{name}!", True)]
    await store.remove(name)
    assert [row.name for row in await store.all()] == ["a"]


async def test_text_that_is_no_utf_8_in_one_row_does_not_hide_the_others(tmp_path: Path) -> None:
    database = Database(tmp_path / "llamactl.db")
    store = InstanceStore(database, lambda: 0.0)
    await store.add("good", "{}")
    await database.run(lambda c: c.execute("INSERT INTO instances VALUES (9, 'bad', CAST(x'7b22ff227d' AS TEXT), 0, 0, 0, 0)"))
    assert [(row.name, row.options) for row in await store.all()] == [("good", "{}"), ("bad", '{"\udcff"}')]
    assert [(row.name, row.options) for row in await store.all()] == [("good", "{}"), ("bad", '{"\udcff"}')]
    database.close()


async def test_what_meets_such_text_after_it_has_written_writes_once(tmp_path: Path) -> None:
    database = Database(tmp_path / "llamactl.db")
    await database.run(lambda c: c.execute("INSERT INTO instances VALUES (9, 'bad', CAST(x'7b22ff227d' AS TEXT), 0, 0, 0, 0)"))

    def write_and_read(connection: sqlite3.Connection) -> list[tuple[str]]:
        connection.execute("INSERT INTO instances (name, options, created_at, updated_at) VALUES ('good', '{}', 0, 0)")
        return connection.execute("SELECT options FROM instances ORDER BY id").fetchall()

    assert await database.run(write_and_read) == [('{"\udcff"}',), ("{}",)]
    assert await database.run(lambda c: c.execute("SELECT count(*) FROM instances").fetchone()) == (2,)
    database.close()
