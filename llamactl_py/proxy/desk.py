"""What the front needs to have somebody else answer: who does it, what is being done, and how long it may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from llamactl_py.auth.policy import Caller
from llamactl_py.ground.errors import LlamactlError
from llamactl_py.proxy.narrow import Head

if TYPE_CHECKING:
    from llamactl_py.proxy.front import Front


class Work(Protocol):
    """What is being done for a client. It ends with `Front.finish`."""

    def leave(self) -> None:
        """The client has gone: give up, and do not call `finish`."""

    def go_on(self) -> None:
        """The client has read what was written."""


class Desk(Protocol):
    """Who answers."""

    def greet(self, head: Head) -> bytes | None:
        """The digest of the key that came with *head*, empty for none; None if its Host does not name this server. Asked once for
        each head that is new on a connection."""

    def caller(self, digest: bytes) -> Caller | None:
        """Who asks, now; None if that may not be. Then it is for aiohttp to refuse."""

    def begin(self, front: Front, head: Head, caller: Caller, body: bytes | bytearray) -> Work | None:
        """Begin to answer; None if that is done already."""

    def refuse(self, front: Front, head: Head, error: LlamactlError) -> None:
        """Tell the client why not."""

    def too_slow(self, front: Front, head: Head) -> None:
        """The body did not come in time: tell the client."""

    def too_long(self, front: Front) -> None:
        """The head has no end: tell the client."""


class Patience(Struct, frozen=True):
    """Limits of what a client may do. Times in seconds, sizes in bytes."""

    head: float
    body: float
    idle: float
    max_body: int


class _Unfurnished:
    """The work for a client that waits until aiohttp is there."""

    def leave(self) -> None:
        """There is nothing to give up."""

    def go_on(self) -> None:
        """Nothing was written."""


UNFURNISHED = _Unfurnished()
