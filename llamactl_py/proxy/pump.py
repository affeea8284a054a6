"""Streams that flow, passed on in compiled code: what a chunk costs is what the kernel takes for it, and little more.

`_pump.c` does what `Exchange.pass_chunk` does, and hands everything else back to the connection that it came for. It is compiled
when the package is installed, on Linux and with a C compiler; without it the streams flow as well, and cost more.
"""

from __future__ import annotations

import asyncio
import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from llamactl_py.proxy.http1 import LONGEST_KNOWN

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from llamactl_py.proxy import _pump
else:
    try:
        from llamactl_py.proxy import _pump
    except ImportError:
        _pump = None


def is_stale(digest: str) -> bool:
    """Is *digest*, that of the source which a library was made of, not that of the source beside it? So it is in a checkout that
    was pulled and not installed again."""
    try:
        return sha256(Path(__file__).with_name("_pump.c").read_bytes()).hexdigest() != digest
    except OSError:
        return False  # there is none beside it


IS_STALE = _pump is not None and is_stale(_pump.SOURCE)
IS_COMPILED = _pump is not None and not IS_STALE
MOST = 128
"""Chunks of a stream that are passed on before somebody counts them. Streams that begin together come to it together, so it is
more than a model gives in a second, after which the pool looks at each of them anyway."""


class Source(Protocol):
    """A connection that a stream comes from."""

    transport: asyncio.Transport

    def hear(self, data: bytes) -> None:
        """What came, and is not just one chunk."""

    def write_rest(self, data: bytes) -> None:
        """The client has not taken this much of a chunk that was passed on."""

    def break_off(self, error: OSError) -> None:
        """The connection failed."""


class Pump:
    """Reads its sources in place of their transports. Nobody can join where it is not compiled, or not wanted."""

    def __init__(self, is_wanted: bool = True) -> None:
        if IS_STALE and is_wanted:
            log.warning("streams are passed on by Python alone: what is compiled is older than its source; pip install it again")
        self._sources: dict[Source, int] = {}
        self._native = _pump.Pump(LONGEST_KNOWN, MOST) if IS_COMPILED and is_wanted else None
        if self._native:
            asyncio.get_running_loop().add_reader(self._native.fileno(), self._turn)

    def __len__(self) -> int:
        """How many streams flow through it."""
        return len(self._sources)

    def join(self, source: Source, client: asyncio.Transport, passed: list[bytes]) -> None:
        """Pass on the chunks of *source* to *client*, to whom nobody else writes meanwhile, and append them to *passed*."""
        if self._native is None or source in self._sources or client.is_closing() or client.get_write_buffer_size():
            return
        number = _number(source.transport)
        try:
            self._native.join(number, _number(client), source, passed)
        except OSError:
            return  # we may open no more files: its transport goes on reading
        self._sources[source] = number
        source.transport.pause_reading()

    def dismiss(self, source: Source) -> bool:
        """Read for it no more, and nor does its transport: before that is closed. False if it had not joined."""
        number = self._sources.pop(source, None)
        if number is None or self._native is None:
            return False
        self._native.leave(number)
        return True

    def leave(self, source: Source) -> None:
        """Its transport is to read again, if it had joined."""
        if self.dismiss(source) and not source.transport.is_closing():
            source.transport.resume_reading()

    def close(self) -> None:
        for source in list(self._sources):
            self.leave(source)
        if self._native:
            asyncio.get_running_loop().remove_reader(self._native.fileno())
            self._native = None

    def _turn(self) -> None:
        assert self._native
        for owner, data, sent in self._native.turn():
            source = cast(Source, owner)
            if source not in self._sources:
                continue  # it was closed for the sake of another one
            if data is None:
                self.dismiss(source)
                source.break_off(OSError(sent, os.strerror(sent)))
            elif not data:
                self.leave(source)  # the transport sees for itself that this was the end
            elif sent < 0:
                source.hear(data)
            else:
                self.leave(source)
                source.write_rest(data[sent:])


def _number(transport: asyncio.Transport) -> int:
    """The file descriptor of its socket."""
    number: int = transport.get_extra_info("socket").fileno()
    return number
