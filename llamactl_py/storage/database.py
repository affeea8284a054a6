"""One SQLite connection on one thread.

One connection, because SQLite before 3.51.3 can corrupt its write-ahead log when two connections write and checkpoint at
the same time; one thread, so that no query ever blocks the event loop. A call returns after its transaction is on disk.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from llamactl_py.ground.errors import DaemonRefused, StorageFailed

T = TypeVar("T")

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE instances (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        options TEXT NOT NULL,
        resume INTEGER NOT NULL DEFAULT 0,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    );
    CREATE TABLE keys (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL,
        digest BLOB NOT NULL UNIQUE,
        prefix TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        expires_at INTEGER
    );
    CREATE TABLE tickets (
        token TEXT PRIMARY KEY,
        instance TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        pid INTEGER NOT NULL,
        start_time INTEGER NOT NULL,
        created_at INTEGER NOT NULL
    );
    """,
    """
    ALTER TABLE tickets ADD COLUMN cleanup TEXT NOT NULL DEFAULT '[]';
    CREATE TABLE programs (
        key TEXT PRIMARY KEY,
        facts TEXT NOT NULL,
        asked_at INTEGER NOT NULL
    );
    """,
    "ALTER TABLE instances ADD COLUMN declared INTEGER NOT NULL DEFAULT 0;",
    """
    ALTER TABLE keys ADD COLUMN scope TEXT NOT NULL DEFAULT 'inference';
    ALTER TABLE keys ADD COLUMN permission_mode TEXT NOT NULL DEFAULT 'allow_all';
    ALTER TABLE keys ADD COLUMN may_start INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE keys ADD COLUMN may_evict INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE keys ADD COLUMN updated_at INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE keys ADD COLUMN last_used_at INTEGER;
    UPDATE keys SET updated_at = created_at;
    CREATE TABLE key_instances (
        key_id INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE,
        instance_id INTEGER NOT NULL REFERENCES instances ON DELETE CASCADE,
        PRIMARY KEY (key_id, instance_id)
    );
    CREATE INDEX keys_of_instance ON key_instances (instance_id);
    CREATE TABLE key_groups (
        key_id INTEGER NOT NULL REFERENCES keys ON DELETE CASCADE,
        name TEXT NOT NULL,
        PRIMARY KEY (key_id, name)
    );
    """,
)
"""Script n brings a database from version n to n + 1. Landed scripts are never edited; a change is a new script."""


class Database:
    """`await database.run(work)` runs *work(connection)* in a transaction on the database's thread."""

    def __init__(self, file: Path) -> None:
        """Open *file*, migrating it where it is older. Raises DaemonRefused (unreadable, damaged, newer than we are)."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="database")
        try:
            self._connection = self._thread.submit(_open, file).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of *work*, after its commit. Raises StorageFailed, with everything that *work* did rolled back.

        A caller that is cancelled leaves a transaction that was begun to finish: it is whole on disk, or not at all. *work* is
        done anew, after a rollback, when it is the first to meet text that is no UTF-8.
        """

        def transaction() -> T:
            try:
                with self._connection:
                    return work(self._connection)
            except sqlite3.OperationalError as error:
                if self._connection.text_factory is _text or not str(error).startswith("Could not decode"):
                    raise
            self._connection.text_factory = _text  # which takes longer: only where there is such text
            with self._connection:
                return work(self._connection)

        try:
            return await asyncio.wrap_future(self._thread.submit(transaction))
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise StorageFailed(f"the database could not be used ({error}); check the disk of the data directory") from error

    def close(self) -> None:
        """Finish what was begun and close; safe to call once, from any thread but the database's."""
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()


def _open(file: Path) -> sqlite3.Connection:
    try:
        file.touch(mode=0o600)
        connection = sqlite3.connect(file, check_same_thread=True)
        connection.text_factory = _text  # of the names in another program's database, for one
        try:
            _refuse_foreign(connection, file)
            _prepare(connection, file)
            connection.text_factory = str
        except BaseException:
            connection.close()
            raise
    except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last: sqlite3 quotes what it found damaged
        raise DaemonRefused(
            f"{file} cannot be used: {error}. Nothing was changed. If it is damaged, move it away or restore a backup "
            f"(try: sqlite3 {file} .recover)"
        ) from None
    return connection


def _text(raw: bytes) -> str:
    """Text that is no UTF-8 is for whoever reads the row to refuse: it must not keep all other rows from being read."""
    return raw.decode("utf-8", "surrogateescape")


def _refuse_foreign(connection: sqlite3.Connection, file: Path) -> None:
    """Tables without a version of ours are another program's: mostly llamactl's, whose usual place is ours too. They stay as
    they are: even a changed journal mode would be written into the file."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if version or not tables:
        return
    whose = "llamactl, the Go program" if {"schema_migrations", "api_keys"} & tables else "another program"
    raise DaemonRefused(
        f"{file} cannot be used: it is a database of {whose}. Nothing was changed. Give this daemon a data directory of its own "
        f"(--data-dir, or data_dir in its configuration); llamactl import {file} brings llamactl's instances over"
    )


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "busy_timeout = 2000",
        "trusted_schema = OFF",
    ):
        connection.execute(f"PRAGMA {pragma}")
    if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(f"it is damaged ({found})")
    _migrate(connection, file)


def _migrate(connection: sqlite3.Connection, file: Path) -> None:
    """Bring the schema to our version, one transaction a step; the old file is kept beside it first."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < 0:
        raise sqlite3.DatabaseError(f"it is damaged (schema {version})")
    if version > len(MIGRATIONS):
        raise DaemonRefused(
            f"{file} was written by a newer llamactl (schema {version}, this one knows {len(MIGRATIONS)}); upgrade llamactl"
        )
    if 0 < version < len(MIGRATIONS):
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        import shutil  # for this alone

        shutil.copy2(file, file.with_suffix(f".v{version}.bak"))
    for number in range(version, len(MIGRATIONS)):
        try:
            # executescript commits on its own: the BEGIN and COMMIT inside make the step and its number one transaction.
            connection.executescript(f"BEGIN IMMEDIATE;\n{MIGRATIONS[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.rollback()
            raise
