"""Reading on in a log while it is written, across rotations: nothing twice, and nothing left out as long as it is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from llamactl_py.launchers.logs import backup

PIECE = 1 << 16
KNOWN = 4096
"""How much of what was read last is looked for in the rotated file, to go on behind it."""

SURE = 32
"""So many bytes that are the same are no chance."""


class Follower:
    """Its `read` blocks a little: call it in a thread, one call at a time. `close` it when nobody reads any more.

    A rotation copies the file and then empties it: then what we read last stands there no more. What was not read yet is in the
    copy.
    Who reads so slowly that it is rotated twice in between, misses what lies between.
    """

    def __init__(self, log: Path, position: int) -> None:
        """Goes on from *position*, an offset in *log* as it is now."""
        self._log = log
        self._rotated: BinaryIO | None = None
        known = _before(log, position)
        was_emptied = len(known) < min(position, KNOWN)  # meanwhile: then all that is there is new
        self._position, self._known = (0, b"") if was_emptied else (position, known)
        self._copy = _identity(backup(log, 1))

    def read(self) -> bytes:
        """The next piece; empty when there is none yet, or no log (any more). Raises OSError."""
        if self._rotated:
            if piece := self._rotated.read(PIECE):
                return piece
            self._leave_rotated()
        try:
            with self._log.open("rb") as file:
                if not self._is_where_we_were(file):
                    self._position = 0
                    if self._enter_rotated():
                        return self.read()
                file.seek(self._position)
                piece = file.read(PIECE)
        except FileNotFoundError:
            self._position, self._known = 0, b""
            return b""
        self._position += len(piece)
        self._known = (self._known + piece)[-KNOWN:]
        return piece

    def close(self) -> None:
        if self._rotated:
            self._leave_rotated()

    def _is_where_we_were(self, file: BinaryIO) -> bool:
        """Does what we read last still stand before our position? The file may have been emptied and have grown again.

        At its beginning nothing stands before us: then a new copy tells. While that is still being made it is the shorter one.
        """
        if not self._position:
            now = _identity(backup(self._log, 1))
            return now in (None, self._copy) or os.fstat(file.fileno()).st_size >= now[1]
        last = self._known[-SURE:]
        file.seek(self._position - len(last))
        return file.read(len(last)) == last

    def _enter_rotated(self) -> bool:
        """Go to where we were, in the newest rotated file; False where that is not there."""
        known, self._known = self._known, b""
        self._copy = _identity(backup(self._log, 1))
        try:
            file = backup(self._log, 1).open("rb")
        except FileNotFoundError:
            return False
        end = _end_of(known, file) if known else 0
        if end is None:
            file.close()
            return False
        file.seek(end)
        self._rotated = file
        return True

    def _leave_rotated(self) -> None:
        assert self._rotated
        self._rotated.close()
        self._rotated = None


def _identity(copy: Path) -> tuple[int, int, int] | None:
    """(inode, size, moment of the last change) of a rotated file: another rotation gives another one. None without a file."""
    try:
        found = copy.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _before(log: Path, position: int) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, position - KNOWN))
            return file.read(min(position, KNOWN))
    except FileNotFoundError:
        return b""


def _end_of(known: bytes, file: BinaryIO) -> int | None:
    """Offset behind the last place in *file* that has *known* (not empty); None if there is no such place."""
    # A rotation keeps the newest part of a file: what we know may reach over the beginning of the copy.
    head = file.read(KNOWN)
    cut = (n for n in range(len(known) - 1, SURE, -1) if head.startswith(known[len(known) - n :]))
    found = next(cut, None)
    file.seek(0)
    overlap = b""
    offset = 0
    while piece := file.read(1 << 20):
        window = overlap + piece
        if (at := window.rfind(known)) >= 0:
            found = offset - len(overlap) + at + len(known)
        offset += len(piece)
        overlap = window[max(0, len(window) - len(known) + 1) :]
    return found
