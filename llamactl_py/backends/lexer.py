"""A command line as a person pastes it, split into words the way its shell would. Nothing is ever executed or expanded.

Which shell it was written for (sh, cmd or PowerShell) is told by the text. What a shell would *do* (run a second command,
redirect, substitute) is refused with its position: leaving it out silently would give another command than the one that was
pasted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from llamactl_py.backends.scanner import Scanner
from llamactl_py.backends.shells import Cmd, PowerShell, Sh
from llamactl_py.ground.errors import BadCommand, Problem

MAX_LENGTH = 64 * 1024
"""Characters. Linux takes longer lines, but nobody pastes them."""

ADDRESS = ("HOST", "PORT")
"""Placeholders that are left alone in any command: the flags that they stand behind are the daemon's."""

Dialect = Literal["sh", "cmd", "powershell"]

_SHELLS: dict[Dialect, type[Scanner]] = {"sh": Sh, "cmd": Cmd, "powershell": PowerShell}
_LINE_ENDS: dict[Dialect, re.Pattern[str]] = {
    "sh": re.compile(r"\\[ \t]*\r?\n"),
    "cmd": re.compile(r"(?<=[ \t])\^[ \t]*\r?\n"),
    "powershell": re.compile(r"(?<=[ \t])`[ \t]*\r?\n"),
}
_BEGINS_POWERSHELL = re.compile(r"\s*(?:&\s*[\"'.\w]|\$env:\w+\s*=|<#)", re.IGNORECASE)
_BEGINS_CMD = re.compile(r"\s*(?:@echo off\b|@?set\s+\"?\w+=[^\n]*\n|(?:@?rem\s|::)[^\n]*\n|%\w+%\\)", re.IGNORECASE)
_WINDOWS_PROGRAM = re.compile(r"\s*[\"']?(?:[A-Za-z]:\\|\\\\\w|\.{1,2}\\\w|[^\s\"'/]{1,64}\.exe\b)", re.IGNORECASE)

_QUOTED = re.compile(r"'[^']*'")
_SINGLE_QUOTED = re.compile(r"(?<![^\s=])'[^'\n]*'(?!\S)")


class Lexed(Struct, frozen=True):
    """The words, and what the person should know about them."""

    words: tuple[str, ...]
    warnings: tuple[str, ...]


def split(text: str, placeholders: Iterable[str] | None = None) -> Lexed:
    """Split *text* into words, in linear time.

    `${PORT}` and its like stay as they are where *placeholders* names them (None: those of the address, as llama-swap's commands
    have them, and any other is an ordinary variable). Raises BadCommand, naming line and column: nothing in it, over
    MAX_LENGTH, an open quote, an operator (`&&`, `|`, `>`, `;`, `&`), a variable or a substitution outside single quotes, a
    second command on a line of its own.
    """
    if len(text) > MAX_LENGTH:
        raise BadCommand([Problem("command", f"has {len(text)} characters; at most {MAX_LENGTH} are read")])
    if "\0" in text:
        raise BadCommand([Problem("command", f"holds a NUL character at position {text.index(chr(0)) + 1}")])
    shell = dialect(text)
    known = ADDRESS if placeholders is None else placeholders
    scanner = _SHELLS[shell](text, frozenset(known), strict=placeholders is not None)
    scanner.run()
    if not scanner.words:
        raise BadCommand([Problem("command", "is empty; paste the line that starts the server")])
    return Lexed(tuple(scanner.words), tuple(scanner.warnings))


def dialect(text: str) -> Dialect:
    """The shell that *text* was written for: by its prompt, the mark at its line ends, how it begins; sh where nothing tells."""
    begin = len(text) - len(text.lstrip())
    prompted: tuple[Dialect, ...] = ("powershell", "cmd", "sh")
    for shell in prompted:
        if _SHELLS[shell].prompt.match(text, begin):
            return shell
    bare = _QUOTED.sub("", text)  # a mark within quotes joins no lines
    marks = {shell: len(pattern.findall(bare)) for shell, pattern in _LINE_ENDS.items()}
    if any(marks.values()):
        return max(marks, key=lambda shell: marks[shell])
    if _BEGINS_POWERSHELL.match(text):
        return "powershell"
    if _BEGINS_CMD.match(text):
        return "cmd"
    if _WINDOWS_PROGRAM.match(text):
        return "powershell" if _SINGLE_QUOTED.search(text) else "cmd"  # only the one of the two has them
    return "sh"
