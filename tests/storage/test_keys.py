"""Rows of keys: newest first, found by number, gone when removed; there is no column that could hold a key itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamactl_py.ground.errors import NotFound
from llamactl_py.storage.database import Database
from llamactl_py.storage.keys import KeyRow, KeyStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    database = Database(tmp_path / "a.db")
    yield KeyStore(database, lambda: 1_700_000_000.9)
    database.close()


async def test_rows_come_back_newest_first(store: KeyStore) -> None:
    first = await store.add("laptop", b"1" * 32, "llamactl-1234", None)
    second = await store.add("laptop", b"2" * 32, "llamactl-5678", 2_000_000_000)
    assert first == KeyRow(first.id, "laptop", b"1" * 32, "llamactl-1234", 1_700_000_000, None)
    assert await store.all() == [second, first]


async def test_a_removed_one_is_not_found_again_and_its_number_is_not_reused(store: KeyStore) -> None:
    row = await store.add("a", b"1" * 32, "p", None)
    await store.remove(row.id)
    assert await store.all() == []
    with pytest.raises(NotFound, match=f"there is no key with id {row.id}"):
        await store.remove(row.id)
    assert (await store.add("b", b"2" * 32, "p", None)).id > row.id
