"""Logs of backends: a backend appends straight to its file, so that it never waits for us and its last words are never lost.

Rotation of a file that another process has open for appending can only copy and truncate. What is written in the instant
between the two is lost; everything else is kept, up to the size and number that the settings allow.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MEANWHILE = 1 << 20


LONGEST_LINE = 4096


def started(instance: str) -> str:
    """How the line begins that stands before the output of each start."""
    return f"=== Instance {instance} started at "


def open_for_child(log: Path) -> int:
    """A descriptor that appends to *log*, made readable by its owner alone. Raises OSError."""
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def append(log: Path, line: str) -> None:
    """Add a line of our own: one line, printable, not too long. What cannot be written is lost: a full disk must not keep a
    backend from being stopped."""
    shown = "".join(c if c.isprintable() else "?" for c in (line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} ..."))
    with suppress(OSError), open(open_for_child(log), "ab") as file:
        file.write(f"{shown}\n".encode())


def backup(log: Path, number: int) -> Path:
    """The *number*-th rotated file of *log*; 1 is the newest."""
    return log.with_name(f"{log.name}.{number}")


def rotate(log: Path, max_bytes: int, backups: int) -> bool:
    """Rotate *log* when it is over *max_bytes*; True if so. Keeps the newest *max_bytes* of it, and up to `MEANWHILE` bytes
    that are written while it is being copied: a flood could not be caught up with. Blocks: call it in a thread."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return False
    if not max_bytes or size <= max_bytes:
        return False
    if backups:
        for number in range(backups - 1, 0, -1):
            if backup(log, number).exists():
                backup(log, number).replace(backup(log, number + 1))
        with log.open("rb") as source, open(os.open(backup(log, 1), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as kept:
            source.seek(max(0, size - max_bytes))
            left = min(size, max_bytes) + MEANWHILE
            while left > 0 and (part := source.read(min(left, 1 << 20))):
                left -= kept.write(part)
    os.truncate(log, 0)
    return True


def remove(log: Path) -> None:
    """Delete *log* and its rotated files. `a.log.1.log` is none of those: it belongs to an instance named `a.log.1`."""
    rotated = (file for file in log.parent.glob(f"{log.name}.*") if file.name.removeprefix(f"{log.name}.").isdigit())
    for file in (log, *rotated):
        file.unlink(missing_ok=True)


def size(log: Path) -> int:
    """Bytes in *log* now; 0 when there is none."""
    try:
        return log.stat().st_size
    except FileNotFoundError:
        return 0


def end_of_last_line(log: Path, longest: int = 1 << 16) -> int:
    """Offset behind the last whole line of *log* (of a line longer than *longest* bytes: where it ends now); 0 without a log."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, end - longest))
            found = file.read(end - begin).rfind(b"\n")
            return end if begin and found < 0 else begin + found + 1
    except FileNotFoundError:
        return 0


def tail(log: Path, lines: int, max_bytes: int, since: int = 0, until: int | None = None) -> list[str]:
    """The last *lines* lines of *log*, reading at most *max_bytes* from its end (or from *until*), nothing before *since*.

    Bytes that are no UTF-8 become replacement characters; a line longer than the limit is shown by its end.
    """
    try:
        with log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            end = end if until is None else min(end, until)
            begin = max(end - max_bytes, since if since <= end else 0)  # it was rotated since: begin anew
            file.seek(begin)
            text = file.read(end - begin).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return list(deque(text.splitlines(), maxlen=lines))


def tail_rotated(log: Path, lines: int, max_bytes: int, until: int | None = None) -> list[str]:
    """Like `tail`, going on into the rotated files while lines and bytes are left."""
    found: list[str] = []
    for file in _newest_first(log):
        if len(found) >= lines or max_bytes <= 0:
            break
        found = tail(file, lines - len(found), max_bytes, until=until if file is log else None) + found
        max_bytes -= size(file)
    return found


def opened(log: Path) -> list[BinaryIO]:
    """*log* and its rotated files, the oldest first, open for reading: what happens to them from now on changes nothing.

    The caller closes them. Raises OSError.
    """
    files: list[BinaryIO] = []
    try:
        for file in _newest_first(log):
            with suppress(FileNotFoundError):
                files.append(file.open("rb"))
    except BaseException:
        for each in files:
            each.close()
        raise
    return files[::-1]


def _newest_first(log: Path) -> Iterator[Path]:
    yield log
    number = 1
    while backup(log, number).exists():
        yield backup(log, number)
        number += 1
