"""The database: whole transactions or none, on a disk that fills up, in files that are damaged, after callers that left.

`opened` is a database for the length of a block; `names` reads the instances in it. Nothing here is ever wiped: what cannot
be understood is refused, byte for byte as it was.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from llamactl_py.ground.errors import DaemonRefused, StorageFailed
from llamactl_py.ground.grant import Grant
from llamactl_py.storage import database as module
from llamactl_py.storage.database import MIGRATIONS, Database
from llamactl_py.storage.instances import InstanceStore
from llamactl_py.storage.keys import KeyStore
from llamactl_py.storage.tickets import TicketStore


@contextmanager
def opened(file: Path) -> Iterator[Database]:
    database = Database(file)
    try:
        yield database
    finally:
        database.close()


def add(connection: sqlite3.Connection, name: str, options: str = "{}") -> None:
    connection.execute("INSERT INTO instances (name, options, created_at, updated_at) VALUES (?, ?, 1, 1)", (name, options))


async def names(database: Database) -> list[str]:
    rows = await database.run(lambda c: c.execute("SELECT name FROM instances ORDER BY name").fetchall())
    return [name for (name,) in rows]


async def everything(database: Database) -> tuple[int, int, int]:
    stores = InstanceStore(database, lambda: 1.0), KeyStore(database, lambda: 1.0), TicketStore(database, lambda: 1.0)
    return len(await stores[0].all()), len(await stores[1].all()), len(await stores[2].all())


@pytest.fixture
async def full(tmp_path: Path) -> Path:
    """A database of several pages with 40 instances and 10 keys, closed."""
    file = tmp_path / "full.db"
    with opened(file) as database:
        for number in range(40):
            await database.run(lambda c, n=number: add(c, f"i{n}", "x" * 400))  # type: ignore[misc]
            if number < 10:
                await KeyStore(database, lambda: 1.0).add(f"k{number}", bytes([number]) * 32, "p", None, Grant())
    assert not file.with_name("full.db-wal").exists()
    return file


class TestTransactions:
    async def test_what_was_stored_is_there_after_closing_and_opening(self, tmp_path: Path) -> None:
        with opened(tmp_path / "a.db") as database:
            await database.run(lambda c: add(c, "a"))
        with opened(tmp_path / "a.db") as database:
            assert await names(database) == ["a"]

    async def test_an_exception_undoes_all_that_the_work_did(self, tmp_path: Path) -> None:
        def half(connection: sqlite3.Connection) -> None:
            add(connection, "a")
            raise KeyError("in the middle")

        with opened(tmp_path / "a.db") as database:
            with pytest.raises(KeyError):
                await database.run(half)
            assert await names(database) == []

    async def test_a_broken_statement_is_a_storage_failure_and_undone(self, tmp_path: Path) -> None:
        def half(connection: sqlite3.Connection) -> None:
            add(connection, "a")
            connection.execute("SELECT * FROM nowhere")

        with opened(tmp_path / "a.db") as database:
            with pytest.raises(StorageFailed, match=r"could not be used \(no such table: nowhere\); check the disk"):
                await database.run(half)
            assert await names(database) == []

    async def test_a_broken_rule_of_the_schema_is_undone_and_told_as_it_is(self, tmp_path: Path) -> None:
        def twice(connection: sqlite3.Connection) -> None:
            add(connection, "a")
            add(connection, "A")

        with opened(tmp_path / "a.db") as database:
            with pytest.raises(sqlite3.IntegrityError):
                await database.run(twice)
            assert await names(database) == []

    async def test_a_trigger_that_fails_halfway_leaves_nothing(self, tmp_path: Path) -> None:
        """As a full disk does, at a chosen moment: after some statements of a transaction, before others."""
        with opened(tmp_path / "a.db") as database:
            await database.run(
                lambda c: c.execute(
                    "CREATE TEMP TRIGGER full BEFORE INSERT ON main.instances WHEN NEW.name = 'c' "
                    "BEGIN SELECT RAISE(ABORT, 'no space left'); END"
                )
            )
            with pytest.raises(sqlite3.IntegrityError, match="no space left"):
                await database.run(lambda c: [add(c, name) for name in "abc"])
            assert await names(database) == []

    async def test_a_caller_that_leaves_in_the_middle_leaves_a_whole_transaction(self, tmp_path: Path) -> None:
        begun, go_on = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            add(connection, "a")
            begun.set()
            go_on.wait(10)
            add(connection, "b")

        with opened(tmp_path / "a.db") as database:
            caller = asyncio.ensure_future(database.run(slow))
            await asyncio.to_thread(begun.wait, 10)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            go_on.set()
            assert await names(database) == ["a", "b"]

    async def test_a_caller_that_leaves_before_its_turn_leaves_nothing(self, tmp_path: Path) -> None:
        go_on = threading.Event()
        with opened(tmp_path / "a.db") as database:
            before = asyncio.ensure_future(database.run(lambda _: go_on.wait(10)))
            caller = asyncio.ensure_future(database.run(lambda c: add(c, "a")))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            go_on.set()
            assert await before
            assert await names(database) == []

    async def test_many_callers_at_once_are_served_one_after_the_other(self, tmp_path: Path) -> None:
        with opened(tmp_path / "a.db") as database:
            await asyncio.gather(*(database.run(lambda c, n=n: add(c, f"i{n}")) for n in range(50)))  # type: ignore[misc]
            assert len(await names(database)) == 50

    async def test_closing_waits_for_what_was_begun(self, tmp_path: Path) -> None:
        database = Database(tmp_path / "a.db")
        writing = [asyncio.ensure_future(database.run(lambda c, n=n: add(c, f"i{n}"))) for n in range(20)]  # type: ignore[misc]
        await asyncio.sleep(0)
        database.close()
        await asyncio.gather(*writing)
        with opened(tmp_path / "a.db") as database:
            assert len(await names(database)) == 20

    async def test_a_crash_leaves_what_was_acknowledged_and_no_half(self, tmp_path: Path) -> None:
        """The files as they are at that moment, copied, are what a killed process leaves."""
        crashed = tmp_path / "crashed"
        crashed.mkdir()

        def half(connection: sqlite3.Connection) -> None:
            add(connection, "b")
            for part in tmp_path.glob("a.db*"):
                shutil.copy(part, crashed)
            raise KeyError

        with opened(tmp_path / "a.db") as database:
            await database.run(lambda c: add(c, "a"))
            with pytest.raises(KeyError):
                await database.run(half)
        with opened(crashed / "a.db") as database:
            assert await names(database) == ["a"]

    async def test_another_process_that_holds_the_database_is_a_storage_failure(self, tmp_path: Path) -> None:
        with opened(tmp_path / "a.db") as database:
            await database.run(lambda c: c.execute("PRAGMA busy_timeout = 1").fetchall())
            other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StorageFailed, match="database is locked"):
                await database.run(lambda c: add(c, "a"))
            other.execute("ROLLBACK")
            other.close()
            await database.run(lambda c: add(c, "a"))
            assert await names(database) == ["a"]


class TestFullDisk:
    async def test_nothing_is_changed_and_room_is_all_it_needs_to_go_on(self, full: Path) -> None:
        with opened(full) as database:
            before = await everything(database)
            pages = await database.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
            await database.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchall())
            store = InstanceStore(database, lambda: 1.0)
            with pytest.raises(StorageFailed, match="database or disk is full"):
                await store.add("big", "x" * 100_000)
            with pytest.raises(StorageFailed, match="database or disk is full"):
                await store.change("i1", "x" * 100_000)
            assert await everything(database) == before
            assert {row.options for row in await store.all()} == {"x" * 400}
            await database.run(lambda c: c.execute("PRAGMA max_page_count = 100000").fetchall())
            await store.add("big", "x" * 100_000)
            assert await everything(database) == (before[0] + 1, *before[1:])


class TestDamage:
    @pytest.mark.parametrize("size", [2, 15, 99, 100, 101, 511, 4095, 4096, 4097, 8192, -4097, -4096])
    async def test_a_truncated_file_is_refused_as_it_is(self, full: Path, size: int) -> None:
        content = full.read_bytes()[:size]
        full.write_bytes(content)
        with pytest.raises(DaemonRefused, match=r"full\.db cannot be used: .*Nothing was changed.*restore a backup"):
            Database(full)
        assert full.read_bytes() == content

    @pytest.mark.parametrize(
        "content",
        [b"not a database at all\n" * 10, b"\0" * 4096, b"SQLite format 3\0" + b"\xff" * 4080, os.urandom(20_000), b"{}\n"],
        ids=["text", "zeros", "only the magic", "noise", "json"],
    )
    async def test_another_kind_of_file_is_refused_as_it_is(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "a.db").write_bytes(content)
        with pytest.raises(DaemonRefused, match=r"a\.db cannot be used"):
            Database(tmp_path / "a.db")
        assert (tmp_path / "a.db").read_bytes() == content

    async def test_an_empty_file_is_a_new_database(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").touch()
        with opened(tmp_path / "a.db") as database:
            assert await everything(database) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("tables", "whose"), [(("instances", "api_keys"), "llamactl, the Go program"), (("notes",), "another program")]
    )
    async def test_a_database_of_another_program_is_refused_as_it_is_and_told_what_to_do(
        self, tmp_path: Path, tables: tuple[str, ...], whose: str
    ) -> None:
        with closing(sqlite3.connect(tmp_path / "a.db")) as theirs:
            theirs.executescript("".join(f"CREATE TABLE {name} (id INTEGER);" for name in tables))
        content = (tmp_path / "a.db").read_bytes()
        with pytest.raises(
            DaemonRefused, match=rf"a\.db cannot be used: it is a database of {whose}\. .*--data-dir.*llamactl import"
        ):
            Database(tmp_path / "a.db")
        assert (tmp_path / "a.db").read_bytes() == content
        assert list(tmp_path.iterdir()) == [tmp_path / "a.db"]

    async def test_flipped_bytes_are_refused_or_harmless_and_never_wiped(self, full: Path, tmp_path: Path) -> None:
        content, seen = full.read_bytes(), set()
        chance = random.Random(1)
        for number in range(150):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 1, 8, 64))):
                at = chance.randrange(len(damaged)) if chance.random() < 0.7 else chance.randrange(100)
                damaged[at] = chance.randrange(256)
            file = tmp_path / f"{number}.db"
            file.write_bytes(damaged)
            try:
                with opened(file) as database:
                    assert await everything(database) == (40, 10, 0)
                    seen.add("harmless")
            except (DaemonRefused, StorageFailed) as error:
                seen.add(type(error).__name__)
            assert file.stat().st_size >= len(content)
        assert seen >= {"harmless", "DaemonRefused"}

    async def test_a_directory_in_its_place_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").mkdir()
        with pytest.raises(DaemonRefused, match=r"a\.db cannot be used: unable to open database file"):
            Database(tmp_path / "a.db")

    async def test_a_directory_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(DaemonRefused, match=r"a\.db cannot be used: .*No such file or directory"):
            Database(tmp_path / "missing" / "a.db")

    async def test_a_refusal_leaves_no_thread_behind(self, tmp_path: Path) -> None:
        (tmp_path / "a.db").write_bytes(b"junk" * 1000)
        with pytest.raises(DaemonRefused):
            Database(tmp_path / "a.db")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("database")]


class TestMigrations:
    """`MIGRATIONS` is data: a longer tuple is a newer version of the program."""

    async def test_an_older_database_is_brought_up_to_date_and_kept_beside(
        self, full: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = full.read_bytes()
        monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "ALTER TABLE instances ADD COLUMN colour TEXT DEFAULT 'red';"))
        with opened(full) as database:
            assert await everything(database) == (40, 10, 0)
            assert set(await database.run(lambda c: c.execute("SELECT colour FROM instances").fetchall())) == {("red",)}
        backup = full.with_name(f"full.v{len(MIGRATIONS)}.bak")
        assert backup.read_bytes() == old
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600

    async def test_several_steps_are_taken_in_order_also_from_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = ("CREATE TABLE t (a); INSERT INTO t VALUES (1);", "ALTER TABLE t RENAME TO u;", "INSERT INTO u VALUES (2);")
        monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *steps))
        with opened(tmp_path / "a.db") as database:
            assert await database.run(lambda c: c.execute("SELECT a FROM u").fetchall()) == [(1,), (2,)]
        assert list(tmp_path.glob("*.bak")) == []

    @pytest.mark.parametrize("kept", range(1, 4))
    async def test_a_step_that_fails_leaves_the_version_before_it_and_the_next_start_goes_on(
        self, full: Path, monkeypatch: pytest.MonkeyPatch, kept: int
    ) -> None:
        """The failing statement stands for a crash at that point of the step."""
        statements = [
            "CREATE TABLE t (a);",
            "INSERT INTO t VALUES (1);",
            "DELETE FROM keys;",
            "UPDATE instances SET options = '';",
        ]
        broken = (*statements[:kept], "INSERT INTO nowhere VALUES (1);")
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "\n".join(broken)))
            with pytest.raises(DaemonRefused, match="no such table"):
                Database(full)
        with opened(full) as database:
            assert await everything(database) == (40, 10, 0)
            assert await database.run(lambda c: c.execute("SELECT name FROM sqlite_master WHERE name = 't'").fetchall()) == []
        monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "\n".join(statements)))
        with opened(full) as database:
            assert await everything(database) == (40, 0, 0)

    async def test_a_database_of_a_newer_program_is_refused_as_it_is(self, full: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE t (a);"))
            Database(full).close()
        newer = full.read_bytes()
        known = len(MIGRATIONS)
        said = rf"was written by a newer llamactl \(schema {known + 1}, this one knows {known}\); upgrade llamactl"
        with pytest.raises(DaemonRefused, match=said):
            Database(full)
        assert full.read_bytes() == newer


class TestFiles:
    @pytest.mark.parametrize("umask", [0o000, 0o022])
    async def test_every_file_is_for_its_owner_alone_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            with opened(tmp_path / "a.db") as database:
                await database.run(lambda c: add(c, "a"))
                modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
        finally:
            os.umask(before)
        assert modes == {"a.db": 0o600, "a.db-wal": 0o600, "a.db-shm": 0o600}

    async def test_a_commit_is_on_disk_before_it_is_acknowledged(self, tmp_path: Path) -> None:
        with opened(tmp_path / "a.db") as database:
            settings = await database.run(
                lambda c: [c.execute(f"PRAGMA {p}").fetchone()[0] for p in ("journal_mode", "synchronous", "foreign_keys")]
            )
        assert settings == ["wal", 2, 1]
