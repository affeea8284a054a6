"""Tickets: what is written down about a process before it runs, so that it can be found again after we died."""

from __future__ import annotations

import json
import sqlite3

from llamactl_py.ground.clock import Now
from llamactl_py.ground.ticket import Ticket
from llamactl_py.storage.database import Database


class TicketStore:
    """A ticket is here from before its process runs until no process of its tree is left."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def all(self) -> list[Ticket]:
        rows = await self._database.run(
            lambda c: c.execute("SELECT token, instance, boot_id, pid, start_time, cleanup FROM tickets").fetchall()
        )
        return [
            Ticket(token, instance, boot_id, pid, start_time, tuple(json.loads(cleanup)))
            for token, instance, boot_id, pid, start_time, cleanup in rows
        ]

    async def add(self, ticket: Ticket) -> None:
        row = (ticket.token, ticket.instance, ticket.boot_id, ticket.pid, ticket.start_time, json.dumps(ticket.cleanup))

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO tickets (token, instance, boot_id, pid, start_time, cleanup, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*row, int(self._now())),
            )

        await self._database.run(insert)

    async def remove(self, token: str) -> None:
        await self._database.run(lambda c: c.execute("DELETE FROM tickets WHERE token = ?", (token,)))
