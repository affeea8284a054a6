"""Unix sockets for backends: one file for each instance, in a directory that nobody else may enter.

That is why nobody asks whose process listens there, as is asked of a port: the old file is taken away before a start, and only
processes of our own user can make a new one.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from llamactl_py.ground.errors import StartFailed

LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the kernel has for the path, its NUL left out (unix(7): sun_path)."""


def take(directory: Path, name: str) -> Path:
    """The path for the socket of instance *name*, in a directory that is there and private, and with nothing at it yet.

    Raises StartFailed.
    """
    path = path_of(directory, name)
    try:
        _make_private(path.parent)
        if path.is_socket():
            path.unlink()
    except OSError as error:
        raise StartFailed(f"its socket {path} cannot be prepared: {error.strerror}") from None
    if os.path.lexists(path):
        raise StartFailed(f"{path} is in the way of its socket and is none: move it away")
    return path


def path_of(directory: Path, name: str) -> Path:
    """The same, without a look at what is there. Raises StartFailed."""
    path = directory.absolute() / f"{name}.sock"
    if (length := len(os.fsencode(path))) > LONGEST_PATH:
        raise StartFailed(
            f"the path of its socket, {path}, has {length} bytes, and the kernel takes {LONGEST_PATH}: "
            "set instances.sockets_dir to a shorter one, or leave out unix_socket"
        )
    return path


def remove(path: str) -> None:
    """Take the file away once its server is gone; one that cannot be is taken away by the next start."""
    with suppress(OSError):
        Path(path).unlink(missing_ok=True)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise StartFailed(
            f"the directory for sockets, {directory}, is open to others (owner {found.st_uid}, mode {mode:o}): "
            "whoever gets in may use the backends; make it ours, with mode 700"
        )
