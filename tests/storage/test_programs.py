"""Answers of programs: found again by their key, replaced, and no more of them than the newest."""

from __future__ import annotations

from pathlib import Path

from llamactl_py.storage import programs as module
from llamactl_py.storage.database import Database
from llamactl_py.storage.programs import ProgramStore


async def test_an_answer_is_found_again_also_by_the_next_daemon(tmp_path: Path) -> None:
    for expected in (None, "old", "new\0é"):
        database = Database(tmp_path / "a.db")
        store = ProgramStore(database, lambda: 1.0)
        assert await store.get("k") == expected
        await store.put("k", "old" if expected is None else "new\0é")
        database.close()


async def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    store = ProgramStore(database, lambda: 1.0)
    for number in range(module.MOST + 10):
        await store.put(str(number), "x")
    assert [await store.get(str(number)) for number in (0, 9, 10, module.MOST + 9)] == [None, None, "x", "x"]
    database.close()
