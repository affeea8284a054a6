"""One daemon per data directory: an flock that the kernel drops when its holder dies, with the holder's pid written inside."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from llamactl_py.config import paths
from llamactl_py.ground.errors import DaemonRefused


class DataDirectoryLock:
    """Held from construction until `release`. Raises DaemonRefused naming the holder when another daemon has it."""

    def __init__(self, data_dir: Path) -> None:
        try:
            paths.private_directory(data_dir)
            self._fd = os.open(data_dir / paths.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DaemonRefused(
                f"data directory {data_dir} cannot be used: {error.strerror}; choose another with --data-dir"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise DaemonRefused(
                f"data directory {data_dir} is in use by another llamactl daemon (pid {holder}); "
                "stop that one or choose another with --data-dir"
            ) from None
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)
        except OSError as error:
            os.close(self._fd)
            raise DaemonRefused(f"data directory {data_dir} cannot be written: {error.strerror}") from None

    def release(self) -> None:
        """Give the directory up."""
        os.close(self._fd)
