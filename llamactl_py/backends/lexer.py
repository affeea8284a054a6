"""A command line as a person pastes it, split into words the way a POSIX shell would. Nothing is ever executed or expanded.

What a shell would *do* (run a second command, redirect, substitute) is refused with its position: leaving it out silently
would give another command than the one that was pasted. Line continuations of sh, cmd and PowerShell are understood, and
backslashes stay what they are in words that begin like a Windows path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llamactl_py.ground.errors import Invalid, Problem

MAX_LENGTH = 64 * 1024
"""Characters. Linux takes longer lines, but nobody pastes them."""

_BLANK = re.compile(r"[ \t\r]+")
_PLAIN = re.compile(r"[^\s'\"\\`$&|;<>^]+")
_CONTINUATION = re.compile(r"[\\^`][ \t]*(?:\r?\n|\Z)")  # blanks after the mark are a slip that a shell does not forgive
_COMMENT = re.compile(r"#[^\n]*")
_WINDOWS_PATH = re.compile(r"(?:-{1,2}[\w-]+=)?['\"]?(?:[A-Za-z]:\\|\\\\\w|\.{1,2}\\[\w.])")
_EXPANSION = re.compile(r"\$(?:[A-Za-z_]\w*|[0-9@*#?!$-]|\{[^}\n]*\}?|\([^)\n]*\)?)")
_OPERATOR = re.compile(r"&&|\|\||>>|[&|;<>]")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "e": "\x1b"}

_REMEDY = {
    "&": "leave it out; the daemon runs the server in the background",
    ">": "leave it out; the daemon keeps the server's log",
    ">>": "leave it out; the daemon keeps the server's log",
    "|": "leave it out; the daemon keeps the server's log",
    "<": "leave it out; a server gets no input",
}


@dataclass(frozen=True)
class Lexed:
    """The words, and what the person should know about them."""

    words: tuple[str, ...]
    warnings: tuple[str, ...]


def split(text: str) -> Lexed:
    """Split *text* into words, in linear time.

    Raises Invalid, naming the position: nothing in it, over MAX_LENGTH, an open quote, an operator (`&&`, `|`, `>`, `;`,
    `&`), a variable or a substitution outside single quotes, a second command on a line of its own.
    """
    if len(text) > MAX_LENGTH:
        raise Invalid([Problem("command", f"has {len(text)} characters; at most {MAX_LENGTH} are read")])
    if "\0" in text:
        raise Invalid([Problem("command", f"holds a NUL character at position {text.index(chr(0)) + 1}")])
    lexer = _Lexer(text)
    lexer.run()
    if not lexer.words:
        raise Invalid([Problem("command", "is empty; paste the line that starts the server")])
    return Lexed(tuple(lexer.words), tuple(lexer.warnings))


class _Lexer:
    """Its state is the position, the words that are finished, and the pieces of the one being read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.words: list[str] = []
        self.has_begun = False
        """True once a word was no assignment: from there on, a line end may end the command."""
        self.warnings: list[str] = []

    def run(self) -> None:
        """Blanks, line ends and comments separate words."""
        while self.at < len(self.text):
            if self._skip(_BLANK) or self._skip(_CONTINUATION) or self._skip(_COMMENT):
                continue
            if self.text[self.at] == "\n":
                self.at += 1
                self._forbid_second_command()
            elif self.text[self.at].isspace():
                self.at += 1
            else:
                self.words.append(self._word())
                self.has_begun = self.has_begun or not _ASSIGNMENT.match(self.words[-1])

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match is not None

    def _forbid_second_command(self) -> None:
        """A line end that is not continued ends a command; we read on where the next line can only be more options."""
        if not self.has_begun:
            return
        while self._skip(_BLANK) or self._skip(_COMMENT) or self._skip(_CONTINUATION) or self.text.startswith("\n", self.at):
            self.at += self.text.startswith("\n", self.at)
        if self.at < len(self.text) and self.text[self.at] not in "-'\"":
            line = self.text[self.at :].split("\n", 1)[0]
            raise self._refused(
                self.at, line[:20], "begins a second command", "give one command, its lines joined with a backslash at the end"
            )

    def _word(self) -> str:
        windows = _WINDOWS_PATH.match(self.text, self.at) is not None
        if self.text[self.at] == "~":
            self.warnings.append("~ is not expanded: write the whole path")
        pieces: list[str] = []
        while self.at < len(self.text) and not self.text[self.at].isspace():
            if plain := _PLAIN.match(self.text, self.at):
                pieces.append(plain[0])
                self.at = plain.end()
            elif not self._skip(_CONTINUATION):
                pieces.append(self._special(windows))
        return "".join(pieces)

    def _special(self, windows: bool) -> str:
        """What the character at the position stands for; moves past it."""
        start = self.at
        match self.text[start]:
            case "'":
                return self._single()
            case '"':
                return self._double(windows)
            case "\\":
                self.at += 1 if windows else 2
                return "\\" if windows else self.text[start + 1 : start + 2]
            case "`":
                raise self._refused(start, "`", "begins a command substitution", "write the value itself")
            case "$":
                return self._dollar()
            case "^":
                self.at += 1
                return "^"
            case _:
                raise self._operator()

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise self._refused(
                self.at, "'", "opens a quotation that is never closed", "close it, or write \\' for the character itself"
            )
        inside = self.text[self.at + 1 : end]
        self.at = end + 1
        return inside

    def _double(self, windows: bool) -> str:
        """Inside double quotes a backslash escapes only what would be special there."""
        start, pieces = self.at, list[str]()
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            following = self.text[self.at + 1 : self.at + 2]
            if char == '"':
                self.at += 1
                return "".join(pieces)
            if char == "\\" and not windows and following and following in '\\"$`\n':
                pieces.append("" if following == "\n" else following)
                self.at += 2
            elif char == "$":
                pieces.append(self._dollar(quoted=True))
            elif char == "`":
                raise self._refused(self.at, "`", "begins a command substitution", "write the value itself")
            else:
                pieces.append(char)
                self.at += 1
        raise self._refused(
            start, '"', "opens a quotation that is never closed", 'close it, or write \\" for the character itself'
        )

    def _dollar(self, quoted: bool = False) -> str:
        if self.text.startswith("$'", self.at) and not quoted:
            return self._ansi()
        if expansion := _EXPANSION.match(self.text, self.at):
            what = (
                "begins a command substitution"
                if expansion[0].startswith("$(")
                else "is a variable, and nothing is expanded here"
            )
            raise self._refused(self.at, expansion[0][:30], what, "write the value itself, or put it in environment")
        self.at += 1
        return "$"

    def _ansi(self) -> str:
        """`$'...'`: single quotes in which \\n and the like are characters."""
        start, pieces = self.at, list[str]()
        self.at += 2
        while self.at < len(self.text):
            char, following = self.text[self.at], self.text[self.at + 1 : self.at + 2]
            if char == "'":
                self.at += 1
                return "".join(pieces)
            pieces.append(_ANSI.get(following, "\\" + following) if char == "\\" else char)
            self.at += 2 if char == "\\" else 1
        raise self._refused(start, "$'", "opens a quotation that is never closed", "close it")

    def _operator(self) -> Invalid:
        found = _OPERATOR.match(self.text, self.at)
        operator = found[0] if found else self.text[self.at]
        remedy = _REMEDY.get(operator, "give one command, and nothing but this command")
        return self._refused(self.at, operator, "is for a shell, and there is none here", f"{remedy} (or put it in quotes)")

    def _refused(self, at: int, what: str, why: str, remedy: str) -> Invalid:
        before = self.text[max(0, at - 20) : at].replace("\n", " ")
        after = self.text[at + len(what) : at + len(what) + 10].replace("\n", " ")
        return Invalid([Problem("command", f"character {at + 1}: {before}»{what}«{after} {why}; {remedy}")])
