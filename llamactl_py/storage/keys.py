"""Rows of inference keys. A key itself is never stored: only its SHA-256, and a prefix that tells people which one it is."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import NotFound
from llamactl_py.storage.database import Database


@dataclass(frozen=True)
class KeyRow:
    """One stored key; times are Unix seconds."""

    id: int
    name: str
    digest: bytes
    prefix: str
    created_at: int
    expires_at: int | None


class KeyStore:
    """Each method returns after its change is on disk."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def all(self) -> list[KeyRow]:
        statement = "SELECT id, name, digest, prefix, created_at, expires_at FROM keys ORDER BY id DESC"
        return [KeyRow(*row) for row in await self._database.run(lambda c: c.execute(statement).fetchall())]

    async def add(self, name: str, digest: bytes, prefix: str, expires_at: int | None) -> KeyRow:
        created = int(self._now())

        def insert(connection: sqlite3.Connection) -> int:
            statement = "INSERT INTO keys (name, digest, prefix, created_at, expires_at) VALUES (?, ?, ?, ?, ?)"
            return connection.execute(statement, (name, digest, prefix, created, expires_at)).lastrowid or 0

        return KeyRow(await self._database.run(insert), name, digest, prefix, created, expires_at)

    async def remove(self, id_: int) -> None:
        """Raises NotFound."""
        if not await self._database.run(lambda c: c.execute("DELETE FROM keys WHERE id = ?", (id_,)).rowcount):
            raise NotFound(f"there is no key with id {id_}")
