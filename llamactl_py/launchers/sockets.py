"""Which sockets listen on a port, as Linux numbers them.

Asked of the kernel over netlink (sock_diag(7)), which walks listening sockets only: 0.3 ms. The text form in /proc/net/tcp
walks every slot of a table sized by the machine's memory, 10 ms or more, all the while holding up the event loop; it is
for where netlink is not allowed.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
DUMP_REQUEST = 0x301
MESSAGE_ERROR, MESSAGE_DONE = 2, 3
LISTEN = 10
HEADER = struct.Struct("=IHHII")
REQUEST = struct.Struct("=BBBBI48x")
PORT_AT, INODE_AT = 4, 68
"""Where struct inet_diag_msg has the source port (network order) and the inode."""


def listening_inodes(port: int) -> set[int]:
    """Inodes of all TCP sockets, IPv4 and IPv6, that listen on *port*."""
    try:
        return {inode for family in (socket.AF_INET, socket.AF_INET6) for number, inode in _ask(family) if number == port}
    except OSError:
        return {inode for table in ("tcp", "tcp6") for number, inode in _read(Path("/proc/net") / table) if number == port}


def _ask(family: int) -> Iterator[tuple[int, int]]:
    """(port, inode) of every listening socket. Raises OSError."""
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << LISTEN)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(HEADER.pack(HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, DUMP_REQUEST, 0, 0) + request)
        while True:
            answer = kernel.recv(1 << 16)
            at = 0
            while at < len(answer):
                length, kind, *_ = HEADER.unpack_from(answer, at)
                body = at + HEADER.size
                if kind == MESSAGE_DONE:
                    return
                if kind == MESSAGE_ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, body)[0], "sock_diag")
                yield struct.unpack_from("!H", answer, body + PORT_AT)[0], struct.unpack_from("=I", answer, body + INODE_AT)[0]
                at += (length + 3) & ~3


def _read(table: Path) -> Iterator[tuple[int, int]]:
    """(port, inode) of every listening socket in a table of /proc/net."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:  # no IPv6 here
        return
    for line in lines:
        fields = line.split()
        if fields[3] == "0A":  # LISTEN
            yield int(fields[1].rpartition(":")[2], 16), int(fields[9])
