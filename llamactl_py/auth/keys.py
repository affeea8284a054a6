"""Keys: 256 random bits each, kept as SHA-256. A random key needs no slow hash, so one hash and one lookup decide."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from llamactl_py.auth.policy import Caller
from llamactl_py.ground import chance
from llamactl_py.ground.clock import Now
from llamactl_py.ground.errors import DaemonRefused, NotFound, StorageFailed
from llamactl_py.ground.grant import Grant, Scope
from llamactl_py.ground.waiting import to_its_end
from llamactl_py.storage.keys import KeyRow, KeyStore

log = logging.getLogger(__name__)

PREFIXES = {Scope.INFERENCE: "llamactl-", Scope.READ: "llamactl-read-", Scope.MANAGEMENT: "llamactl-mgmt-"}
"""How a key begins tells people, and those who search for leaks, what it opens."""
MANAGEMENT = "management"
"""The name of whoever holds a management key that is not stored: the file's, or one of the settings."""
SHOWN = 4
"""Characters of a key, behind its prefix, that are kept and shown, so that people can tell keys apart."""
LONGEST = 512
WRITE_USE_EVERY = 60.0
"""Seconds between writes of when keys were last used; as much is forgotten when the daemon is killed."""
_USABLE = re.compile(rf"[\x21-\x7e]{{{len(PREFIXES[Scope.MANAGEMENT]) + 16},{LONGEST}}}")


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


class _Holder(Struct, eq=False):
    """A valid key: whom it makes of its caller, and until when."""

    caller: Caller
    expires_at: float | None = None
    used_at: float = 0.0
    """Unix seconds; 0 before the first use that we saw."""
    row: KeyRow | None = None
    """None for keys that are not stored."""
    visits: set[Callable[[], None]] = field(default_factory=set)

    @classmethod
    def of(cls, row: KeyRow) -> _Holder:
        holder = cls(Caller(row.name, row.grant, row.id))
        holder.take(row)
        return holder

    def take(self, row: KeyRow) -> None:
        """From now on it is what *row* says."""
        self.row, self.expires_at = row, row.expires_at
        self.caller = Caller(row.name, row.grant, row.id)

    def cut(self) -> None:
        """End what its holder is looking at."""
        for end in list(self.visits):
            end()


MANAGER = Caller(MANAGEMENT, Grant(Scope.MANAGEMENT))
"""Who holds a key that is in no store."""


class KeyRing:
    """All valid keys in memory, by digest. Those that were made through the API are in the store too."""

    def __init__(self, store: KeyStore, now: Now, management_keys: Iterable[str]) -> None:
        self._store = store
        self._now = now
        self._holders = {digest(key): _Holder(MANAGER) for key in management_keys}
        self._configured: set[bytes] = set()
        self._stored: dict[int, _Holder] = {}
        self._writing = asyncio.Lock()
        """Held from the look at a row until its change is stored."""

    def use_management_keys(self, more: Iterable[str]) -> None:
        """From now on these are management keys, beside those that were given at the start, and no others are."""
        for hashed in self._configured:
            self._holders.pop(hashed).cut()
        self._configured = {digest(key) for key in more} - {h for h, holder in self._holders.items() if holder.row is None}
        self._holders.update((hashed, _Holder(MANAGER)) for hashed in self._configured)
        for row in [holder.row for holder in self._stored.values() if holder.row]:
            self._holders.setdefault(row.digest, self._stored[row.id])

    async def load(self) -> None:
        for row in await self._store.all():
            self._add(row)

    def _add(self, row: KeyRow) -> None:
        holder = self._stored[row.id] = _Holder.of(row)
        self._holders.setdefault(row.digest, holder)  # a key of the settings stays what it is there

    # -- for every request ------------------------------------------------------------------------------------------------

    def caller(self, key: str) -> Caller | None:
        """Who holds *key*; None if nobody does, or it has expired. Costs the same for every wrong key."""
        return self.holder(digest(key)) if len(key) <= LONGEST else None

    def holder(self, hashed: bytes) -> Caller | None:
        """`caller` for the digest of a key. How long it takes tells of the digest alone, which tells nothing of the key."""
        holder = self._holders.get(hashed)
        if holder is None:
            return None
        now = self._now()
        if holder.expires_at is not None and holder.expires_at <= now:
            return None
        holder.used_at = now
        return holder.caller

    def why_unknown(self, key: str) -> str:
        """Why `caller` knows nobody for *key*. That it has expired is told to those alone who have the whole of it."""
        if not key:
            return "no key was sent"
        holder = self._holders.get(digest(key)) if len(key) <= LONGEST else None
        if holder is None or holder.row is None or holder.expires_at is None:
            return "the key that was sent is not known: it was mistyped or revoked, or is another server's"
        ended = datetime.fromtimestamp(holder.expires_at, UTC).isoformat(timespec="seconds").removesuffix("+00:00")
        return f"key {holder.row.name!r} has expired at {ended}Z"

    @contextmanager
    def visit(self, caller: Caller, end: Callable[[], None]) -> Iterator[None]:
        """For the length of the block *caller* looks at something that may go on without end: *end* is called when its key is
        revoked, and within a minute of its expiry."""
        holder = self._stored.get(caller.key)
        if holder is None:
            yield
            return
        holder.visits.add(end)
        try:
            yield
        finally:
            holder.visits.discard(end)

    # -- for people -------------------------------------------------------------------------------------------------------

    async def create(self, name: str, expires_at: int | None, grant: Grant) -> tuple[KeyRow, str]:
        """A new key: its row, and the key itself, which is not kept anywhere. Raises StorageFailed."""
        return await to_its_end(self._create(name, expires_at, grant))

    async def _create(self, name: str, expires_at: int | None, grant: Grant) -> tuple[KeyRow, str]:
        prefix = PREFIXES[grant.scope]
        key = prefix + chance.token(32)
        row = await self._store.add(name, digest(key), key[: len(prefix) + SHOWN], expires_at, grant)
        self._add(row)
        return row, key

    async def edit(self, id_: int, changed: Callable[[KeyRow], KeyRow]) -> KeyRow:
        """Make of a row what *changed* makes of it; name, end and grant can change. It counts from the moment this returns.

        Raises NotFound, StorageFailed, and what *changed* does; then nothing is changed.
        """
        return await to_its_end(self._edit(id_, changed))

    async def _edit(self, id_: int, changed: Callable[[KeyRow], KeyRow]) -> KeyRow:
        async with self._writing:
            new = changed(self.get(id_))
            updated_at = await self._store.change(id_, new.name, new.expires_at, new.grant)
            self._stored[id_].take(replace(new, updated_at=updated_at))
            return self.get(id_)

    async def remove(self, id_: int) -> None:
        """Raises NotFound, StorageFailed. The key is refused from the moment this returns, or is cancelled."""
        await to_its_end(self._remove(id_))

    async def _remove(self, id_: int) -> None:
        async with self._writing:
            await self._store.remove(id_)
            holder = self._stored.pop(id_)
            self._holders = {hashed: other for hashed, other in self._holders.items() if other is not holder}
            holder.cut()

    def all(self) -> list[KeyRow]:
        """Newest first."""
        return [self.get(id_) for id_ in sorted(self._stored, reverse=True)]

    def get(self, id_: int) -> KeyRow:
        """Raises NotFound."""
        holder = self._stored.get(id_)
        if holder is None or holder.row is None:
            raise NotFound(f"there is no key with id {id_}")
        used_at = int(holder.used_at)
        return replace(holder.row, last_used_at=used_at) if used_at else holder.row

    # -- what is written behind -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Write down when keys were used, and end the visits of those that expired; until cancelled."""
        while True:
            await asyncio.sleep(WRITE_USE_EVERY)
            for holder in self._stored.values():
                if holder.expires_at is not None and holder.expires_at <= self._now():
                    holder.cut()
            await self.write_use()

    async def write_use(self) -> None:
        """Write down when keys were used. Where that fails, the next time does it."""
        used = {
            id_: int(holder.used_at)
            for id_, holder in self._stored.items()
            if holder.row and int(holder.used_at) not in (0, holder.row.last_used_at)
        }
        if not used:
            return
        try:
            await self._store.mark_used(used)
        except StorageFailed as error:
            log.warning("when keys were last used is not written down: %s", error)
            return
        for id_, moment in used.items():
            if (holder := self._stored.get(id_)) and holder.row:
                holder.row = replace(holder.row, last_used_at=moment)


def management_key(file: Path) -> tuple[str, bool]:
    """The management key of this data directory, and whether it was made just now. Raises DaemonRefused."""
    try:
        if not os.path.lexists(file):
            key = PREFIXES[Scope.MANAGEMENT] + chance.token(32)
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
