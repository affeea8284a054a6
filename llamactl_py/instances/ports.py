"""Ports for backends: chosen from the configured range, tried before use, never given twice."""

from __future__ import annotations

import socket
from collections.abc import Collection

from llamactl_py.ground.errors import StartFailed

LOOPBACK = "127.0.0.1"


class Ports:
    """Which ports of the range our own instances hold. The rest of the machine is asked by trying."""

    def __init__(self, first: int, last: int, exclude: Collection[int] = ()) -> None:
        self._first, self._last = first, last
        self._exclude = frozenset(exclude)
        self._held: set[int] = set()
        self._next = first

    def __repr__(self) -> str:
        return f"<Ports {self._first}-{self._last} held={sorted(self._held)}>"

    def take(self) -> int:
        """A port that nobody listens on. Goes round the range, so that a port just freed rests. Raises StartFailed."""
        port = self.next_free()
        self._held.add(port)
        self._next = port + 1
        return port

    def next_free(self) -> int:
        """What `take` would give now. Raises StartFailed."""
        count = self._last - self._first + 1
        for step in range(count):
            port = self._first + (self._next - self._first + step) % count
            if port not in self._held and port not in self._exclude and _is_free(port):
                return port
        raise StartFailed(
            f"no free port between {self._first} and {self._last}, {len(self._held)} are held by instances; "
            "widen instances.port_range"
        )

    def use_range(self, first: int, last: int) -> None:
        """From now on choose from that range; ports that are held stay held."""
        self._first, self._last = first, last
        self._next = min(max(self._next, first), last)

    def give_back(self, port: int) -> None:
        self._held.discard(port)


def _is_free(port: int) -> bool:
    try:
        return is_free(port)
    except OSError as error:  # no socket to try with
        raise StartFailed(f"no port could be tried: {error.strerror}") from None


def is_free(port: int) -> bool:
    """Could a server listen there now? SO_REUSEADDR passes over closed connections that linger; a listener still refuses us,
    also one that shares its port (SO_REUSEPORT), as we do not. Raises OSError when there is no socket to try with."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
