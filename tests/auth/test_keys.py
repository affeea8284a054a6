"""Keys: who holds one, until when, what is kept of it, and what becomes of ten thousand things that are no key.

`ring` has a database of its own and a clock that the test sets: `clock.now`.
"""

from __future__ import annotations

import asyncio
import os
import random
import stat
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from llamactl_py.api.middleware import sent_key
from llamactl_py.auth.keys import LONGEST, SHOWN, KeyRing, digest, management_key
from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import DaemonRefused, NotFound, StorageFailed
from llamactl_py.storage.database import Database
from llamactl_py.storage.keys import KeyStore

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


def reloaded(database: Database, clock: Clock) -> KeyRing:
    return KeyRing(KeyStore(database, clock), clock, [])


class TestKeyRing:
    async def test_a_new_key_is_known_at_once_and_by_the_next_daemon(
        self, ring: KeyRing, database: Database, clock: Clock
    ) -> None:
        row, key = await ring.create("laptop", None)
        assert ring.caller(key) == Caller("laptop", is_manager=False)
        assert (row.name, row.prefix, row.expires_at) == ("laptop", key[:SHOWN], None)
        other = reloaded(database, clock)
        assert other.caller(key) is None
        await other.load()
        assert other.caller(key) == Caller("laptop", is_manager=False)
        assert other.all() == ring.all() == [row]

    async def test_keys_are_long_and_never_the_same(self, ring: KeyRing) -> None:
        keys = [(await ring.create("same name", None))[1] for _ in range(20)]
        assert len(set(keys)) == 20
        assert {len(key) for key in keys} == {len("llamactl-") + 64}
        assert [row.prefix for row in ring.all()] == [key[:SHOWN] for key in reversed(keys)]

    @pytest.mark.parametrize("key", [MANAGER, "0123456789abcdef"])
    async def test_a_management_key_is_good_for_everything(self, ring: KeyRing, key: str) -> None:
        assert ring.caller(key) == Caller("management", is_manager=True)

    async def test_a_key_expires_at_its_moment(self, ring: KeyRing, clock: Clock) -> None:
        _, key = await ring.create("guest", int(clock.now) + 60)
        clock.now += 59.9
        assert ring.caller(key) == Caller("guest", is_manager=False)
        clock.now += 0.1
        assert ring.caller(key) is None
        clock.now -= 3600
        assert ring.caller(key) == Caller("guest", is_manager=False), "a clock that was wrong does no lasting harm"

    async def test_a_revoked_key_is_refused_at_once_and_for_ever(self, ring: KeyRing, database: Database, clock: Clock) -> None:
        row, key = await ring.create("guest", None)
        kept, other = await ring.create("other", None)
        await ring.remove(row.id)
        assert ring.caller(key) is None
        assert ring.caller(other) == Caller("other", is_manager=False)
        again = reloaded(database, clock)
        await again.load()
        assert again.caller(key) is None
        assert again.all() == [kept]
        for find in (ring.remove, again.remove):
            with pytest.raises(NotFound):
                await find(row.id)

    async def test_a_key_is_refused_also_when_who_revoked_it_did_not_wait(self, ring: KeyRing, database: Database) -> None:
        row, key = await ring.create("guest", None)
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
        making = asyncio.ensure_future(ring.create("guest", None))
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
        row, key = await ring.create("guest", None)
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        with pytest.raises(StorageFailed):
            await ring.remove(row.id)
        assert ring.caller(key) == Caller("guest", is_manager=False)
        assert ring.get(row.id) == row
        await database.run(lambda c: c.execute("PRAGMA query_only = OFF").fetchall())
        await ring.remove(row.id)
        assert ring.caller(key) is None

    async def test_a_key_that_could_not_be_stored_does_not_exist(self, ring: KeyRing, database: Database) -> None:
        await database.run(lambda c: c.execute("PRAGMA query_only = ON").fetchall())
        with pytest.raises(StorageFailed):
            await ring.create("guest", None)
        assert ring.all() == []

    async def test_a_key_is_found_by_its_number(self, ring: KeyRing) -> None:
        row, _ = await ring.create("a", None)
        assert ring.get(row.id) == row
        for missing in (row.id + 1, 0, -1):
            with pytest.raises(NotFound, match=f"there is no key with id {missing}"):
                ring.get(missing)

    async def test_no_file_holds_a_key(self, ring: KeyRing, tmp_path: Path) -> None:
        key = (await ring.create("canary", None))[1]
        files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        assert any(digest(key) in content for content in files.values()), "the digest is somewhere, or nothing was searched"
        secret = key[SHOWN:].encode()
        for start in range(len(secret) - 8):
            part = secret[start : start + 8]
            assert not [name for name, content in files.items() if part in content or bytes.fromhex(part.decode()) in content]

    async def test_what_is_shown_of_a_ring_holds_no_key(self, ring: KeyRing) -> None:
        row, key = await ring.create("canary", None)
        assert key[SHOWN:] not in repr(row) + repr(ring.__dict__)
        assert MANAGER not in repr(ring.__dict__)


def hostile_values(key: str) -> Iterator[str]:
    """10,000 values that are not *key*, near and far from it."""
    yield from (
        "", " ", "null", "None", "true", "*", "%", "_", "' OR '1'='1", "'; DROP TABLE keys;--", '" OR ""="', "admin'--",
        "1 OR 1=1", "\0", "\0" * 100, key + "\0", "\0" + key, key + "\n", key + " ", " " + key, f"Bearer {key}",
        f"{key},{key}", f'"{key}"', key.upper(), key[:-1], key[1:], key + key, key[:SHOWN], key[:SHOWN] + "*",
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
    key = (await ring.create("real", None))[1]
    tried = 0
    for value in hostile_values(key):
        assert ring.caller(value) is None, value
        tried += 1
    assert tried > 10_000
    assert ring.caller(key) == Caller("real", is_manager=False)


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
    key = (await ring.create("real", None))[1]
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
