"""Rows of instances: a name and its options as JSON text. What the text means is `instances.options`' business."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from msgspec import Struct

from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import NameTaken, NotFound
from llamactl_py.storage.database import Database


class InstanceRow(Struct, frozen=True):
    """One stored instance. *resume*: it was up when the last daemon ended, and is to be brought up again. *declared*: a
    configuration file has its options, and it is here for its number, its date and its *resume* only."""

    id: int
    name: str
    options: str
    resume: bool
    created_at: int
    """Unix seconds."""
    declared: bool = False


class InstanceStore:
    """Each method returns after its change is on disk."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def all(self) -> list[InstanceRow]:
        rows = await self._database.run(
            lambda c: c.execute("SELECT id, name, options, resume, created_at, declared FROM instances ORDER BY id").fetchall()
        )
        return [
            InstanceRow(id_, name, options, bool(resume), created, bool(d)) for id_, name, options, resume, created, d in rows
        ]

    async def add(self, name: str, options: str) -> InstanceRow:
        """Raises NameTaken (also for a name that differs in case only: file systems and people mix them up)."""
        created = int(self._now())

        def insert(connection: sqlite3.Connection) -> int:
            statement = "INSERT INTO instances (name, options, created_at, updated_at) VALUES (?, ?, ?, ?)"
            return connection.execute(statement, (name, options, created, created)).lastrowid or 0

        try:
            return InstanceRow(await self._database.run(insert), name, options, False, created)
        except sqlite3.IntegrityError:
            raise await self._taken([name]) from None

    async def declare(self, new: Collection[str], gone: Collection[str] = ()) -> list[InstanceRow]:
        """Forget the instances *gone* and add *new* ones that a file declares, all of it or nothing. Raises NameTaken."""
        created = int(self._now())
        statement = "INSERT INTO instances (name, options, created_at, updated_at, declared) VALUES (?, '{}', ?, ?, 1)"

        def write(connection: sqlite3.Connection) -> list[int]:
            connection.executemany("DELETE FROM instances WHERE name = ?", [(name,) for name in gone])
            return [connection.execute(statement, (name, created, created)).lastrowid or 0 for name in new]

        try:
            ids = await self._database.run(write)
        except sqlite3.IntegrityError:
            raise await self._taken(list(new)) from None
        return [InstanceRow(id_, name, "{}", False, created, True) for id_, name in zip(ids, new, strict=True)]

    async def _taken(self, names: Sequence[str]) -> NameTaken:
        """Why *names* cannot all be added."""
        known = {row.name.casefold(): row.name for row in await self.all()}
        name = next((name for name in names if name.casefold() in known), names[0])
        other = known.get(name.casefold(), name)
        case = "" if other == name else f", and {name!r} differs from it in case only"
        remedy = "choose another name, or change that one with `llamactl edit` (PATCH)"
        return NameTaken(f"an instance named {other!r} exists already{case}; {remedy}")

    async def change(self, name: str, options: str) -> None:
        """Replace the options. Raises NotFound."""
        statement = "UPDATE instances SET options = ?, updated_at = ? WHERE name = ?"
        changed = await self._database.run(lambda c: c.execute(statement, (options, int(self._now()), name)).rowcount)
        if not changed:
            raise NotFound(f"there is no instance named {name!r}")

    async def remove(self, name: str) -> None:
        """Forget it; nothing happens when it is not there."""
        await self._database.run(lambda c: c.execute("DELETE FROM instances WHERE name = ?", (name,)))

    async def mark_resume(self, names: Collection[str]) -> None:
        """Make *names*, and no others, those that the next daemon brings up again."""

        def mark(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE instances SET resume = 0 WHERE resume")  # the others are not written anew
            connection.executemany("UPDATE instances SET resume = 1 WHERE name = ?", [(name,) for name in names])

        await self._database.run(mark)
