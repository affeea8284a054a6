"""Keys: 256 random bits each, kept as SHA-256. A random key needs no slow hash, so one hash and one lookup decide."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from llamactl_py.auth.policy import Caller
from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import DaemonRefused, NotFound
from llamactl_py.ground.waiting import to_its_end
from llamactl_py.storage.keys import KeyRow, KeyStore

MANAGEMENT_PREFIX = "llamactl-mgmt-"
INFERENCE_PREFIX = "llamactl-"
MANAGEMENT = "management"
"""The name of whoever holds a management key."""
SHOWN = len(INFERENCE_PREFIX) + 4
"""Characters of a key that are kept and shown, so that people can tell keys apart."""
LONGEST = 512
_USABLE = re.compile(rf"[\x21-\x7e]{{{len(MANAGEMENT_PREFIX) + 16},{LONGEST}}}")


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class KeyRing:
    """All valid keys in memory, by digest; the store holds the inference keys."""

    def __init__(self, store: KeyStore, now: Now, management_keys: Iterable[str]) -> None:
        self._store = store
        self._now = now
        self._managers = {digest(key): Caller(MANAGEMENT, is_manager=True) for key in management_keys}
        self._more_managers: dict[bytes, Caller] = {}
        self._rows: dict[bytes, KeyRow] = {}

    def use_management_keys(self, more: Iterable[str]) -> None:
        """From now on these are management keys, beside those that were given at the start, and no others are."""
        self._more_managers = {digest(key): Caller(MANAGEMENT, is_manager=True) for key in more}

    async def load(self) -> None:
        self._rows = {row.digest: row for row in await self._store.all()}

    def caller(self, key: str) -> Caller | None:
        """Who holds *key*; None if nobody does, or it has expired. Costs the same for every wrong key."""
        return self.holder(digest(key)) if len(key) <= LONGEST else None

    def holder(self, hashed: bytes) -> Caller | None:
        """`caller` for the digest of a key. How long it takes tells of the digest alone, which tells nothing of the key."""
        if manager := self._managers.get(hashed) or self._more_managers.get(hashed):
            return manager
        row = self._rows.get(hashed)
        if row is None or (row.expires_at is not None and row.expires_at <= self._now()):
            return None
        return Caller(row.name, is_manager=False)

    async def create(self, name: str, expires_at: int | None) -> tuple[KeyRow, str]:
        """A new inference key: its row, and the key itself, which is not kept anywhere. Raises StorageFailed."""
        return await to_its_end(self._create(name, expires_at))

    async def _create(self, name: str, expires_at: int | None) -> tuple[KeyRow, str]:
        key = INFERENCE_PREFIX + secrets.token_hex(32)
        row = await self._store.add(name, digest(key), key[:SHOWN], expires_at)
        self._rows[row.digest] = row
        return row, key

    async def remove(self, id_: int) -> None:
        """Raises NotFound, StorageFailed. The key is refused from the moment this returns, or is cancelled."""
        await to_its_end(self._remove(id_))

    async def _remove(self, id_: int) -> None:
        await self._store.remove(id_)
        self._rows = {hashed: row for hashed, row in self._rows.items() if row.id != id_}

    def all(self) -> list[KeyRow]:
        """Newest first."""
        return sorted(self._rows.values(), key=lambda row: -row.id)

    def get(self, id_: int) -> KeyRow:
        """Raises NotFound."""
        for row in self._rows.values():
            if row.id == id_:
                return row
        raise NotFound(f"there is no key with id {id_}")


def management_key(file: Path) -> tuple[str, bool]:
    """The management key of this data directory, and whether it was made just now. Raises DaemonRefused."""
    try:
        if not os.path.lexists(file):
            key = MANAGEMENT_PREFIX + secrets.token_hex(32)
            _write_private(file, key + "\n")
            return key, True
        key = file.read_text("ascii").strip()
        if not _USABLE.fullmatch(key):
            raise DaemonRefused(f"{file} holds no usable management key; delete it to have a new one made")
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except (OSError, UnicodeDecodeError) as error:
        raise DaemonRefused(f"management key {file} cannot be used: {error}") from None
    return key, False


def _write_private(file: Path, text: str) -> None:
    """Write *file* whole or not at all, readable by its owner alone. Raises OSError."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="ascii") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.replace(file)
