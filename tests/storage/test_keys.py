"""Rows of keys: newest first, found by number, gone when removed; there is no column that could hold a key itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamactl_py.ground.errors import NotFound
from llamactl_py.ground.grant import Grant, Scope
from llamactl_py.storage.database import MIGRATIONS, Database
from llamactl_py.storage.instances import InstanceStore
from llamactl_py.storage.keys import KeyRow, KeyStore

NOW = 1_700_000_000


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "a.db")
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> KeyStore:
    return KeyStore(database, lambda: NOW + 0.9)


async def add(store: KeyStore, grant: Grant | None = None, number: int = 1) -> KeyRow:
    return await store.add("k", bytes([number]) * 32, "p", None, grant or Grant())


async def test_rows_come_back_newest_first(store: KeyStore) -> None:
    first = await store.add("laptop", b"1" * 32, "llamactl-1234", None, Grant())
    second = await store.add("laptop", b"2" * 32, "llamactl-5678", 2_000_000_000, Grant(Scope.READ))
    assert first == KeyRow(first.id, "laptop", b"1" * 32, "llamactl-1234", NOW, None, NOW, None, Grant())
    assert await store.all() == [second, first]


async def test_a_removed_one_is_not_found_again_and_its_number_is_not_reused(store: KeyStore) -> None:
    row = await add(store)
    await store.remove(row.id)
    assert await store.all() == []
    with pytest.raises(NotFound, match=f"there is no key with id {row.id}"):
        await store.remove(row.id)
    assert (await add(store, number=2)).id > row.id


@pytest.mark.parametrize(
    "grant",
    [
        Grant(),
        Grant(Scope.MANAGEMENT),
        Grant(Scope.READ),
        Grant(instances=frozenset((1, 2))),
        Grant(instances=frozenset()),
        Grant(instances=frozenset(), groups=frozenset(("small", "größe"))),
        Grant(instances=frozenset((2,)), groups=frozenset(("g",)), may_start=False, may_evict=False),
    ],
)
async def test_a_grant_comes_back_as_it_was_stored_and_as_it_was_changed(
    store: KeyStore, database: Database, grant: Grant
) -> None:
    for name in ("a", "b"):
        await InstanceStore(database, lambda: 1.0).add(name, "{}")
    row = await add(store, grant)
    assert await store.all() == [row]
    assert row.grant == grant
    other = Grant(grant.scope, frozenset((1,)), frozenset(("other",)), may_start=False)
    assert await store.change(row.id, "new", 5, other) == NOW
    (changed,) = await store.all()
    assert (changed.name, changed.expires_at, changed.grant) == ("new", 5, other)
    await store.change(row.id, "new", None, grant)
    assert (await store.all())[0].grant == grant


async def test_what_is_not_there_cannot_be_changed(store: KeyStore) -> None:
    with pytest.raises(NotFound, match="there is no key with id 7"):
        await store.change(7, "k", None, Grant(instances=frozenset((1,))))


async def test_a_deleted_instance_is_in_no_grant_and_its_number_is_never_anothers(store: KeyStore, database: Database) -> None:
    instances = InstanceStore(database, lambda: 1.0)
    kept, gone = await instances.add("kept", "{}"), await instances.add("gone", "{}")
    await add(store, Grant(instances=frozenset((kept.id, gone.id))))
    only = await add(store, Grant(instances=frozenset((gone.id,))), number=2)
    await instances.remove("gone")
    assert [row.grant.instances for row in await store.all()] == [frozenset(), {kept.id}]
    again = await instances.add("gone", "{}")
    assert again.id not in (kept.id, gone.id)
    await store.change(only.id, "k", None, only.grant)  # as somebody who looked before would
    assert [row.grant.instances for row in await store.all()] == [frozenset(), {kept.id}]


async def test_nothing_of_a_removed_key_stays(store: KeyStore, database: Database) -> None:
    await InstanceStore(database, lambda: 1.0).add("a", "{}")
    row = await add(store, Grant(instances=frozenset((1,)), groups=frozenset(("g",))))
    await store.remove(row.id)
    for table in ("key_instances", "key_groups"):
        assert await database.run(lambda c, t=table: c.execute(f"SELECT * FROM {t}").fetchall()) == []  # type: ignore[misc]


async def test_use_is_noted_and_is_no_change(store: KeyStore) -> None:
    first, second = await add(store), await add(store, number=2)
    await store.mark_used({first.id: NOW + 5, 99: NOW})
    rows = {row.id: row for row in await store.all()}
    assert (rows[first.id].last_used_at, rows[first.id].updated_at) == (NOW + 5, NOW)
    assert rows[second.id].last_used_at is None


@pytest.mark.parametrize(
    ("damage", "left"),
    [("scope = 'root'", []), ("scope = X'ff'", []), ("permission_mode = 'all'", [frozenset()]), ("may_start = 0", [None])],
)
async def test_a_damaged_row_opens_less_and_never_more(
    store: KeyStore, database: Database, damage: str, left: list[frozenset[int] | None]
) -> None:
    await add(store)
    await database.run(lambda c: c.execute(f"UPDATE keys SET {damage}"))
    assert [row.grant.instances for row in await store.all()] == left


async def test_keys_of_the_first_schema_are_inference_keys_for_everything(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.executescript(MIGRATIONS[0] + "PRAGMA user_version = 1;")
    connection.execute("INSERT INTO keys (name, digest, prefix, created_at) VALUES ('old', X'00', 'p', 17)")
    connection.commit()
    connection.close()
    database = Database(tmp_path / "old.db")
    assert await KeyStore(database, lambda: 1.0).all() == [KeyRow(1, "old", b"\0", "p", 17, None, 17, None, Grant())]
    database.close()
