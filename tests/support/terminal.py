"""A command at a terminal of its own: type into it, and wait for what it shows.

with terminal("chat", "a") as screen:
    screen.until("> ")
    screen.type("hello\\r")
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.commands import PROGRAM, surroundings

CTRL_C, CTRL_D, ENTER, TAB = "\x03", "\x04", "\r", "\t"
PATIENCE = 30.0
_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|[\r\x07]")


@dataclass
class Terminal:
    """What was shown so far, and the process that shows it."""

    process: subprocess.Popen[bytes]
    _master: int
    raw: bytes = b""
    _seen: int = field(default=0)

    @property
    def text(self) -> str:
        """All of it, without what moves the cursor and gives colours."""
        return _SEQUENCES.sub("", self.raw.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, part: str, again: str = "") -> str:
        """Wait until *part* is shown, after all that was waited for before; what was shown up to it.

        *again* is typed whenever nothing was shown for a second: Python does not see a Ctrl-C that comes while readline draws.
        """
        deadline = time.monotonic() + PATIENCE
        while (at := self.text.find(part, self._seen)) < 0:
            left = deadline - time.monotonic()
            assert left > 0, f"{part!r} was never shown, but: {self.text[self._seen :]!r}"
            if not self._read(min(left, 1.0) if again else left):
                assert again, f"{part!r} was never shown, but: {self.text[self._seen :]!r}"
                self.type(again)
        begun, self._seen = self._seen, at + len(part)
        return self.text[begun : self._seen]

    def end(self) -> int:
        """Wait for its end; the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, timeout: float) -> bool:
        """False at its end, or when nothing comes in time."""
        if timeout <= 0 or not select.select([self._master], [], [], timeout)[0]:
            return False
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # Linux says EIO when nobody has the other side any more
            return False
        self.raw += piece
        return bool(piece)


@contextmanager
def terminal(*words: str, program: tuple[str, ...] = PROGRAM, columns: int = 120, **environment: str) -> Iterator[Terminal]:
    """`llamactl` with *words* (or another *program*) at a terminal; killed at the end of the block."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        (*program, *words),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=surroundings(TERM="xterm", **environment),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
    )
    os.close(slave)
    try:
        with process:
            try:
                yield Terminal(process, master)
            finally:
                process.kill()
    finally:
        os.close(master)
