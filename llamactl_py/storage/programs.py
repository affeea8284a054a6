"""What programs said about themselves, kept so that the next daemon need not ask again."""

from __future__ import annotations

import sqlite3

from llamactl_py.ground.clock import Now
from llamactl_py.storage.database import Database

MOST = 100
"""Rows that are kept, the newest: each is one answer of one version of one program."""


class ProgramStore:
    """Answers by key; what a key is made of is for the caller to say."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def get(self, key: str) -> str | None:
        """Raises StorageFailed."""
        row = await self._database.run(lambda c: c.execute("SELECT facts FROM programs WHERE key = ?", (key,)).fetchone())
        return row[0] if row else None

    async def put(self, key: str, answer: str) -> None:
        """Raises StorageFailed."""

        def replace(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO programs VALUES (?, ?, ?)", (key, answer, int(self._now())))
            connection.execute(
                "DELETE FROM programs WHERE rowid NOT IN (SELECT rowid FROM programs ORDER BY asked_at DESC, rowid DESC LIMIT ?)",
                (MOST,),
            )

        await self._database.run(replace)
