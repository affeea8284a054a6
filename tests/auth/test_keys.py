"""Keys: who holds one, until when, what is kept of it, and what becomes of ten thousand things that are no key.

`ring` has a database of its own and a clock that the test sets: `clock.now`.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import stat
import string
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from multidict import CIMultiDict

from llamactl_py.api.middleware import sent_key
from llamactl_py.auth import keys as module
from llamactl_py.auth.keys import LONGEST, PREFIXES, KeyRing, digest, management_key
from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import DaemonRefused, NotFound, StorageFailed
from llamactl_py.ground.grant import Grant, Scope
from llamactl_py.storage.database import Database
from llamactl_py.storage.keys import KeyRow, KeyStore

MANAGER = "llamactl-mgmt-" + "5" * 64


@dataclass
class Clock:
    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "keys.db")
    yield database
    database.close()


@pytest.fixture
async def ring(database: Database, clock: Clock) -> KeyRing:
    ring = KeyRing(KeyStore(database, clock), clock, [MANAGER, "0123456789abcdef"])
    await ring.load()
    return ring


async def make(ring: KeyRing, name: str, expires_at: int | None = None, **grant: Any) -> tuple[KeyRow, str]:
    return await ring.create(name, expires_at, Grant(**grant))


def reloaded(database: Database, clock: Clock) -> KeyRing:
    return KeyRing(KeyStore(database, clock), clock, [])


class TestKeyRing:
    async def test_a_new_key_is_known_at_once_and_by_the_next_daemon(
        self, ring: KeyRing, database: Database, clock: Clock
    ) -> None:
        row, key = await make(ring, "laptop")
        assert ring.caller(key) == Caller("laptop", Grant(), 1)
        assert (row.name, row.prefix, row.expires_at) == ("laptop", key[:13], None)
        other = reloaded(database, clock)
        assert other.caller(key) is None
        await other.load()
        assert other.caller(key) == Caller("laptop", Grant(), 1)
        assert other.all() == ring.all() == [replace(row, last_used_at=int(clock.now))]

    async def test_keys_are_long_and_never_the_same(self, ring: KeyRing) -> None:
        keys = [(await make(ring, "same name"))[1] for _ in range(20)]
        assert len(set(keys)) == 20
        assert {len(key) for key in keys} == {len("llamactl-") + 64}
        assert [row.prefix for row in ring.all()] == [key[:13] for key in reversed(keys)]

    @pytest.mark.parametrize("key", [MANAGER, "0123456789abcdef"])
    async def test_a_management_key_is_good_for_everything(self, ring: KeyRing, key: str) -> None:
        assert ring.caller(key) == Caller("management", Grant(Scope.MANAGEMENT))

    async def test_a_key_expires_at_its_moment(self, ring: KeyRing, clock: Clock) -> None:
        _, key = await make(ring, "guest", int(clock.now) + 60)
        clock.now += 59.9
        assert ring.caller(key) == Caller("guest", Grant(), 1)
        clock.now += 0.1
        assert ring.caller(key) is None
        clock.now -= 3600
        assert ring.caller(key) == Caller("guest", Grant(), 1), "a clock that was wrong does no lasting harm"

    async def test_a_revoked_key_is_refused_at_once_and_for_ever(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        row, key = await make(ring, "guest")
        kept, other = await make(ring, "other")
        await ring.remove(row.id)
        assert ring.caller(key) is None
        assert ring.caller(other) == Caller("other", Grant(), 2)
        again = reloaded(database, clock)
        await again.load()
        assert again.caller(key) is None
        assert again.all() == [kept]
        for find in (ring.remove, again.remove):
            with pytest.raises(NotFound):
                await find(row.id)

    async def test_a_key_is_refused_also_when_who_revoked_it_did_not_wait(self, ring: KeyRing, database: Database) -> None:
        row, key = await make(ring, "guest")
        revoking = asyncio.ensure_future(ring.remove(row.id))
        for _ in range(3):
            await asyncio.sleep(0)
        revoking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await revoking
        assert ring.caller(key) is None

    async def test_a_key_made_for_somebody_who_left_is_shown_so_that_it_can_be_revoked(
        self, ring: KeyRing, database: Database, clock: Clock
    ) -> None:
        making = asyncio.ensure_future(make(ring, "guest"))
        for _ in range(3):
            await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        again = reloaded(database, clock)
        await again.load()
        assert [row.name for row in ring.all()] == ["guest"]
        assert again.all() == ring.all()

    async def test_a_key_that_could_not_be_revoked_is_still_shown_and_valid(self, ring: KeyRing, database: Database) -> None:
        row, key = await make(ring, "guest")
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        with pytest.raises(StorageFailed):
            await ring.remove(row.id)
        assert ring.caller(key) == Caller("guest", Grant(), 1)
        assert ring.get(row.id).prefix == row.prefix
        await database.run(lambda c: c.execute("PRAGMA query_only = OFF").fetchall())
        await ring.remove(row.id)
        assert ring.caller(key) is None

    async def test_a_key_that_could_not_be_stored_does_not_exist(self, ring: KeyRing, database: Database) -> None:
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        with pytest.raises(StorageFailed):
            await make(ring, "guest")
        assert ring.all() == []

    async def test_a_key_is_found_by_its_number(self, ring: KeyRing) -> None:
        row, _ = await make(ring, "a")
        assert ring.get(row.id) == row
        for missing in (row.id + 1, 0, -1):
            with pytest.raises(NotFound, match=f"there is no key with id {missing}"):
                ring.get(missing)

    async def test_no_file_holds_a_key(self, ring: KeyRing, tmp_path: Path) -> None:
        key = (await make(ring, "canary"))[1]
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert any(digest(key) in content for content in files.values()), "the digest is somewhere, or nothing was searched"
        secret = key[13:].encode()
        for start in range(len(secret) - 8):
            part = secret[start : start + 8]
            assert not [name for name, content in files.items() if part in content or bytes.fromhex(part.decode()) in content]

    async def test_what_is_shown_of_a_ring_holds_no_key(self, ring: KeyRing) -> None:
        row, key = await make(ring, "canary")
        assert key[13:] not in repr(row) + repr(ring.__dict__)
        assert MANAGER not in repr(ring.__dict__)

    @pytest.mark.parametrize(("scope", "prefix"), PREFIXES.items())
    async def test_a_key_tells_by_its_beginning_what_it_opens(self, ring: KeyRing, scope: Scope, prefix: str) -> None:
        row, key = await make(ring, "k", scope=scope)
        assert re.fullmatch(rf"{prefix}[0-9a-f]{{64}}", key)
        assert row.prefix == key[: len(prefix) + 4]
        assert ring.caller(key) == Caller("k", Grant(scope), 1)

    async def test_a_grant_outlives_the_daemon(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        _, key = await make(ring, "k", groups=frozenset(("g",)), instances=frozenset(), may_start=False)
        other = reloaded(database, clock)
        await other.load()
        assert other.caller(key) == Caller("k", Grant(instances=frozenset(), groups=frozenset(("g",)), may_start=False), 1)

    async def test_a_stored_key_that_the_settings_name_opens_what_they_say(self, database: Database, clock: Clock) -> None:
        ring = reloaded(database, clock)
        row, key = await make(ring, "k")
        both = KeyRing(KeyStore(database, clock), clock, [key])
        await both.load()
        assert both.caller(key) == Caller("management", Grant(Scope.MANAGEMENT))
        assert both.all() == [row]
        await both.remove(row.id)
        assert both.caller(key) == Caller("management", Grant(Scope.MANAGEMENT))


class TestEditing:
    async def test_a_change_counts_from_the_next_look_and_for_the_next_daemon(
        self, ring: KeyRing, database: Database, clock: Clock
    ) -> None:
        row, key = await make(ring, "old", int(clock.now) + 60)
        clock.now += 10
        grant = Grant(instances=frozenset(), may_evict=False)
        edited = await ring.edit(row.id, lambda row: replace(row, name="new", expires_at=None, grant=grant))
        assert (edited.updated_at, edited.created_at) == (int(clock.now), row.created_at)
        assert ring.all() == [edited]
        clock.now += 3600
        assert ring.caller(key) == Caller("new", grant, 1)
        again = reloaded(database, clock)
        await again.load()
        assert again.caller(key) == Caller("new", grant, 1)

    async def test_what_cannot_be_stored_is_not_changed(self, ring: KeyRing, database: Database) -> None:
        row, key = await make(ring, "old")
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        with pytest.raises(StorageFailed):
            await ring.edit(row.id, lambda row: replace(row, name="new"))
        assert ring.caller(key) == Caller("old", Grant(), 1)

    async def test_changes_at_the_same_time_are_all_made(self, ring: KeyRing) -> None:
        row, _ = await make(ring, "")
        await asyncio.gather(*(ring.edit(row.id, lambda row: replace(row, name=row.name + "x")) for _ in range(10)))
        assert ring.get(row.id).name == "x" * 10

    async def test_one_that_is_revoked_meanwhile_is_not_brought_back(
        self, ring: KeyRing, database: Database, clock: Clock
    ) -> None:
        row, key = await make(ring, "k")
        rename = partial(ring.edit, row.id, lambda row: replace(row, name="new"))
        done = await asyncio.gather(ring.remove(row.id), rename(), return_exceptions=True)
        assert [type(outcome) for outcome in done] == [type(None), NotFound]
        again = reloaded(database, clock)
        await again.load()
        assert ring.caller(key) is again.caller(key) is None


class TestLastUse:
    async def test_it_is_known_at_once_and_written_behind(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        row, key = await make(ring, "k")
        assert row.last_used_at is None
        clock.now += 5.5
        ring.caller(key)
        assert ring.get(row.id).last_used_at == int(clock.now)
        stored = KeyStore(database, clock)
        assert [row.last_used_at for row in await stored.all()] == [None]
        await ring.write_use()
        assert [row.last_used_at for row in await stored.all()] == [int(clock.now)]
        assert [row.updated_at for row in await stored.all()] == [row.updated_at]

    async def test_it_outlives_the_daemon_and_an_edit(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        row, key = await make(ring, "k")
        ring.caller(key)
        await ring.write_use()
        await ring.edit(row.id, lambda row: replace(row, name="new"))
        again = reloaded(database, clock)
        await again.load()
        assert again.get(row.id).last_used_at == int(clock.now)

    async def test_a_refused_key_is_not_used(self, ring: KeyRing, clock: Clock) -> None:
        row, key = await make(ring, "k", int(clock.now) + 1)
        clock.now += 1
        assert ring.caller(key) is None
        assert ring.get(row.id).last_used_at is None

    async def test_a_disk_without_room_is_tried_again(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        _, key = await make(ring, "k")
        ring.caller(key)
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        await ring.write_use()
        await database.run(lambda c: c.execute("PRAGMA query_only = OFF").fetchall())
        await ring.write_use()
        assert [row.last_used_at for row in await KeyStore(database, clock).all()] == [int(clock.now)]

    async def test_what_did_not_change_is_not_written_again(self, ring: KeyRing, database: Database) -> None:
        _, key = await make(ring, "k")
        ring.caller(key)
        await ring.write_use()
        before = await database.run(lambda c: c.total_changes)
        await ring.write_use()
        assert await database.run(lambda c: c.total_changes) == before

    async def test_every_minute_it_is_written_and_who_expired_is_shown_out(
        self, ring: KeyRing, database: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WRITE_USE_EVERY", 0.01)
        _, key = await make(ring, "k", int(clock.now) + 1)
        caller = ring.caller(key)
        assert caller
        cut = asyncio.Event()
        with ring.visit(caller, cut.set):
            clock.now += 1
            worker = asyncio.ensure_future(ring.run())
            async with asyncio.timeout(10):
                await cut.wait()
                while [row.last_used_at for row in await KeyStore(database, clock).all()] == [None]:
                    await asyncio.sleep(0)
            worker.cancel()


class TestVisits:
    async def test_whoever_looks_on_is_cut_off_when_the_key_is_revoked(self, ring: KeyRing) -> None:
        row, key = await make(ring, "k", scope=Scope.READ)
        _, other = await make(ring, "other", scope=Scope.READ)
        cut: list[str] = []
        visitor, stranger, manager = ring.caller(key), ring.caller(other), ring.caller(MANAGER)
        assert visitor
        assert stranger
        assert manager
        with (
            ring.visit(visitor, lambda: cut.append("one")),
            ring.visit(visitor, lambda: cut.append("two")),
            ring.visit(stranger, lambda: cut.append("other")),
            ring.visit(manager, lambda: cut.append("manager")),
        ):
            with ring.visit(visitor, lambda: cut.append("gone before")):
                pass
            await ring.remove(row.id)
        assert sorted(cut) == ["one", "two"]

    async def test_who_comes_in_the_turn_of_the_revocation_is_let_be(self, ring: KeyRing) -> None:
        row, key = await make(ring, "k")
        caller = ring.caller(key)
        assert caller
        await ring.remove(row.id)
        with ring.visit(caller, lambda: None):
            pass


def hostile_values(key: str) -> Iterator[str]:
    """10,000 values that are not *key*, near and far from it."""
    yield from (
        "", " ", "null", "None", "true", "*", "%", "_", "' OR '1'='1", "'; DROP TABLE keys;--", '" OR ""="', "admin'--",
        "1 OR 1=1", "\0", "\0" * 100, key + "\0", "\0" + key, key + "\n", key + " ", " " + key, f"Bearer {key}",
        f"{key},{key}", f'"{key}"', key.upper(), key[:-1], key[1:], key + key, key[:13], key[:13] + "*",
        key.replace("-", "\u2010"), "llamactl-", digest(key).hex(), digest(key).decode("latin-1"), repr(digest(key)),
        "\ud800", "\udcff", "\U0010ffff", "\u202e" + key, "x" * (1 << 20), key * 1000, "\u0661\u0662\u0663",
        "../../management.key", "${jndi:ldap://x}", "{{7*7}}", "%00", "\r\nX: y",
        key.translate({ord(c): chr(0xFF10 + int(c)) for c in string.digits}),
        key.translate({ord(c): chr(0x661 + int(c)) for c in string.digits}),
    )  # fmt: skip
    for at, char in enumerate(key):
        for other in {*string.ascii_letters, *string.digits, "\0", "é"} - {char}:
            yield key[:at] + other + key[at + 1 :]
    chance = random.Random(1)
    for _ in range(10_000):
        yield "".join(map(chr, chance.choices((*range(1, 128), 0xE9, 0x2028, 0xDC80, 0x1F600), k=chance.randrange(1, 90))))


async def test_ten_thousand_hostile_values_are_nobody(ring: KeyRing) -> None:
    key = (await make(ring, "real"))[1]
    tried = 0
    for value in hostile_values(key):
        assert ring.caller(value) is None, value
        tried += 1
    assert tried > 10_000
    assert ring.caller(key) == Caller("real", Grant(), 1)


@pytest.mark.parametrize("length", [LONGEST, LONGEST + 1, 10_000_000])
async def test_no_length_is_too_much(ring: KeyRing, length: int) -> None:
    assert ring.caller("x" * length) is None


def header(**headers: str) -> Any:
    return SimpleNamespace(headers=CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()}))


@pytest.mark.parametrize(
    ("request_", "key"),
    [
        (header(Authorization="Bearer abc"), "abc"),
        (header(Authorization="bearer   abc "), "abc"),
        (header(X_API_Key=" abc "), "abc"),
        (header(Authorization="Basic dXNlcjpwYXNz", X_API_Key="abc"), "abc"),
        (header(Authorization="Bearer", X_API_Key="abc"), ""),
        (header(Authorization="Bearer abc", X_API_Key="xyz"), "abc"),
        (header(Authorization="abc"), ""),
        (header(Authorization=""), ""),
        (header(Authorization="Bearer\tabc"), ""),
        (header(), ""),
    ],
)
def test_a_key_is_read_from_two_headers_and_nowhere_else(request_: Any, key: str) -> None:
    assert sent_key(request_) == key


async def test_ten_thousand_hostile_headers_are_nobody(ring: KeyRing) -> None:
    key = (await make(ring, "real"))[1]
    for value in hostile_values(key):
        if value.strip() != key and value.partition(" ")[2].strip() != key:
            for scheme in ("", "Bearer ", "Basic ", "bearer\t"):
                sent = sent_key(header(Authorization=scheme + value))
                assert not sent or ring.caller(sent) is None, scheme + value


class TestManagementKeyFile:
    def test_it_is_made_once_and_read_from_then_on(self, tmp_path: Path) -> None:
        key, is_new = management_key(tmp_path / "key")
        assert is_new
        assert key.startswith("llamactl-mgmt-")
        assert len(key) == len("llamactl-mgmt-") + 64
        assert management_key(tmp_path / "key") == (key, False)
        assert management_key(tmp_path / "other")[0] != key

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o377])
    def test_it_is_for_its_owner_alone_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            management_key(tmp_path / "key")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) & 0o077 == 0

    def test_one_that_others_could_read_is_closed(self, tmp_path: Path) -> None:
        key, _ = management_key(tmp_path / "key")
        (tmp_path / "key").chmod(0o644)
        assert management_key(tmp_path / "key") == (key, False)
        assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600

    def test_a_key_of_ones_own_making_is_taken(self, tmp_path: Path) -> None:
        (tmp_path / "key").write_text("  my-own-key-with-enough-characters-0123456789  \n")
        assert management_key(tmp_path / "key") == ("my-own-key-with-enough-characters-0123456789", False)

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"\n", b"short", MANAGER.encode()[:29], b"\0" * 79, MANAGER.encode()[:40] + b"\0" * 39, b"\xff" * 79,
            MANAGER.encode() + b"\xe9", (MANAGER + "\n" + MANAGER).encode(),
            MANAGER.encode()[:40] + b" " + MANAGER.encode()[41:], MANAGER.encode() + b"\x1b[31m", b"x" * (LONGEST + 1),
            ("\ufeff" + MANAGER).encode(), MANAGER.encode("utf-16"),
        ],
    )  # fmt: skip
    def test_a_damaged_one_is_refused_as_it_is_and_not_shown(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "key"
        file.write_bytes(content)
        with pytest.raises(DaemonRefused) as caught:
            management_key(file)
        assert str(file) in str(caught.value)
        assert "5555" not in str(caught.value)
        assert file.read_bytes() == content

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "directory").mkdir()
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        for name in ("directory", "dangling", "missing/key"):
            with pytest.raises(DaemonRefused, match=f"management key {tmp_path / name} cannot be used"):
                management_key(tmp_path / name)
        assert not (tmp_path / "nowhere").exists()
