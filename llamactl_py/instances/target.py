"""All that a relay may know of a running instance."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from functools import cached_property

from msgspec import field

from llamactl_py.ground.private import Private


class Target(Private, frozen=True, dict=True):
    """Where a request goes. *headers* carry the backend's own key: they are added to the request, and never shown."""

    instance: str
    host: str
    """An address of this machine; for a Unix socket its absolute path, and *port* is 0."""
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    resting_connections: int = 0
    """How many idle connections the backend can bear."""

    @cached_property
    def authority(self) -> tuple[str, int]:
        """What a connection to it is made to, and is kept under while it rests."""
        return self.host, self.port

    @property
    def host_header(self) -> str:
        """What a request to it says in its Host header; a path would be no host."""
        return "localhost" if is_socket_path(self.host) else f"{self.host}:{self.port}"

    @cached_property
    def lines(self) -> bytes:
        """What the head of every request to it says, and of none to another: its Host, and its own key."""
        own = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        return f"Host: {self.host_header}\r\n{own}".encode("latin-1")


def is_deserted(target: Target) -> bool:
    """Does nobody listen there any more? An address of this machine says so at once; where it says nothing, the answer is no."""
    is_path = is_socket_path(target.host)
    family = socket.AF_UNIX if is_path else socket.AF_INET6 if ":" in target.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            code = probe.connect_ex(target.host if is_path else target.authority)
            if code == errno.EINPROGRESS:
                code = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except OSError:
        return False  # we may open no more files
    return code in (errno.ECONNREFUSED, errno.ENOENT)


def is_socket_path(host: str) -> bool:
    """Is *host* the path of a Unix socket?"""
    return host.startswith("/")
