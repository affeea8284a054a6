"""Rows of keys. A key itself is never stored: only its SHA-256, and a prefix that tells people which one it is."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping

from msgspec import Struct

from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import NotFound
from llamactl_py.ground.grant import Grant, Scope
from llamactl_py.storage.database import Database

log = logging.getLogger(__name__)


class KeyRow(Struct, frozen=True):
    """One stored key; times are Unix seconds."""

    id: int
    name: str
    digest: bytes
    prefix: str
    created_at: int
    expires_at: int | None
    updated_at: int
    """Of the last change by a person; use is no change."""
    last_used_at: int | None
    grant: Grant


_ALL = (
    "SELECT id, name, digest, prefix, created_at, expires_at, updated_at, last_used_at,"
    " scope, permission_mode, may_start, may_evict FROM keys ORDER BY id DESC"
)


class KeyStore:
    """Each method returns after its change is on disk. Whoever deletes an instance deletes it from all keys (a foreign key)."""

    def __init__(self, database: Database, now: Now) -> None:
        self._database = database
        self._now = now

    async def all(self) -> list[KeyRow]:
        """Newest first. One that cannot be understood (edited by hand, damaged) is left out, so it opens nothing."""
        return await self._database.run(_read)

    async def add(self, name: str, digest: bytes, prefix: str, expires_at: int | None, grant: Grant) -> KeyRow:
        now = int(self._now())

        def insert(connection: sqlite3.Connection) -> int:
            statement = (
                "INSERT INTO keys (name, digest, prefix, created_at, expires_at, updated_at, scope, permission_mode, may_start,"
                " may_evict) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            )
            values = (
                name,
                digest,
                prefix,
                now,
                expires_at,
                now,
                grant.scope.value,
                _mode(grant),
                grant.may_start,
                grant.may_evict,
            )
            id_ = connection.execute(statement, values).lastrowid or 0
            _write_scopes(connection, id_, grant)
            return id_

        return KeyRow(await self._database.run(insert), name, digest, prefix, now, expires_at, now, None, grant)

    async def change(self, id_: int, name: str, expires_at: int | None, grant: Grant) -> int:
        """Replace what can be changed; the moment of that. Raises NotFound."""
        now = int(self._now())

        def update(connection: sqlite3.Connection) -> int:
            statement = (
                "UPDATE keys SET name = ?, expires_at = ?, updated_at = ?, permission_mode = ?, may_start = ?, may_evict = ?"
                " WHERE id = ?"
            )
            values = (name, expires_at, now, _mode(grant), grant.may_start, grant.may_evict, id_)
            found = connection.execute(statement, values).rowcount
            if found:
                _write_scopes(connection, id_, grant)
            return found

        if not await self._database.run(update):
            raise NotFound(f"there is no key with id {id_}")
        return now

    async def mark_used(self, moments: Mapping[int, int]) -> None:
        """Note when keys, by id, were used last; those that are gone are passed over."""
        rows = [(moment, id_) for id_, moment in moments.items()]
        await self._database.run(lambda c: c.executemany("UPDATE keys SET last_used_at = ? WHERE id = ?", rows))

    async def remove(self, id_: int) -> None:
        """Raises NotFound."""
        if not await self._database.run(lambda c: c.execute("DELETE FROM keys WHERE id = ?", (id_,)).rowcount):
            raise NotFound(f"there is no key with id {id_}")


def _mode(grant: Grant) -> str:
    return "allow_all" if grant.is_for_all else "per_instance"


def _write_scopes(connection: sqlite3.Connection, id_: int, grant: Grant) -> None:
    connection.execute("DELETE FROM key_instances WHERE key_id = ?", (id_,))
    connection.execute("DELETE FROM key_groups WHERE key_id = ?", (id_,))
    # Of the instances those that are still there: one may have been deleted since somebody looked.
    add = "INSERT INTO key_instances SELECT ?, id FROM instances WHERE id = ?"
    connection.executemany(add, [(id_, instance) for instance in grant.instances or ()])
    connection.executemany("INSERT INTO key_groups VALUES (?, ?)", [(id_, group) for group in grant.groups])


def _read(connection: sqlite3.Connection) -> list[KeyRow]:
    instances: dict[int, set[int]] = {}
    groups: dict[int, set[str]] = {}
    for id_, instance in connection.execute("SELECT key_id, instance_id FROM key_instances"):
        instances.setdefault(id_, set()).add(instance)
    for id_, group in connection.execute("SELECT key_id, name FROM key_groups"):
        groups.setdefault(id_, set()).add(group)
    rows = []
    for id_, *columns, scope, mode, may_start, may_evict in connection.execute(_ALL):
        try:
            kind = Scope(scope)
        except ValueError:
            log.error("key %d is stored with a scope that there is none of, %r, and is left out", id_, scope)
            continue
        own = None if mode == "allow_all" else frozenset(instances.get(id_, ()))
        grant = Grant(kind, own, frozenset(groups.get(id_, ())), bool(may_start), bool(may_evict))
        rows.append(KeyRow(*(id_, *columns, grant)))
    return rows
