"""What the log of a backend says of its end. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

_TELLING = re.compile(r"error|fail|invalid|unable|couldn't|cannot|exception|not found|no such|out of memory", re.IGNORECASE)
_FRAME = re.compile(r'\s+File ".*", line \d+')
_PREAMBLE = re.compile(rf"^usage: |^\s+\[-|\d validation errors? for |{_FRAME.pattern}")


def telling_line(lines: Sequence[str], longest: int = 300) -> str:
    """The log line that says most about an end: the first of the last ones that speaks of an error, else the very last.

    The first, because servers name the cause and then tell it upwards: "invalid magic", "failed to load", "exiting". What
    argparse prints before its error, all flags with their choices, says nothing, even where one of them is ERROR; and pydantic
    tells how many errors there are before it tells the first; and the code in a traceback may raise, but does not say what.
    """
    spoken = [
        line.strip()
        for before, line in zip(("", *lines), lines, strict=False)
        if line.strip() and not _PREAMBLE.search(line) and not _FRAME.search(before)
    ]
    line = next((line for line in spoken if _TELLING.search(line)), spoken[-1] if spoken else "")
    return "".join(c if c.isprintable() else " " for c in line[:longest])
