"""What all shells have in common: blanks separate words, a line end that is not continued ends a command, errors have a place."""

from __future__ import annotations

import re
from typing import ClassVar

from llamactl_py.ground.errors import BadCommand, Problem

_BLANK = re.compile(r"[ \t\r]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)
_OPERATOR = re.compile(r"&&|\|\||>>|[&|;<>]")
_PLACEHOLDER = re.compile(r"(\$?)\$\{([A-Za-z_]\w*)\}", re.ASCII)
_EXCERPT = 60
"""Characters of the line that are shown around the place of an error."""

_REMEDY = {
    "&": "leave it out; the daemon runs the server in the background",
    ">": "leave it out; the daemon keeps the server's log",
    ">>": "leave it out; the daemon keeps the server's log",
    "|": "leave it out; the daemon keeps the server's log",
    "<": "leave it out; a server gets no input",
}


class Scanner:
    """Its state is the position, the words that are finished, and where the current command began among them."""

    prompt: ClassVar[re.Pattern[str]]
    """What the shell shows before a line that it reads, with blanks on both sides; pasted along, it is no word."""
    continuation: ClassVar[re.Pattern[str]]
    """The mark at a line's end that joins it with the next; blanks behind it are a slip that no shell forgives, but we do."""
    comment: ClassVar[re.Pattern[str]]
    ends_command: ClassVar[str] = "\n"
    """Characters behind which another command would begin."""

    def __init__(self, text: str, placeholders: frozenset[str], strict: bool) -> None:
        self.text = text
        self.at = 0
        self.placeholders = placeholders
        self.strict = strict
        """True: `${X}` is a placeholder or an error, and `$${X}` is its escape."""
        self.words: list[str] = []
        self.has_begun = False
        """True once a word was no assignment: from there on, a line end may end the command."""
        self.warnings: list[str] = []

    def run(self) -> None:
        """Read all words. Raises BadCommand."""
        while self.at < len(self.text):
            if (
                self._skip_prompt()
                or self.skip(_BLANK)
                or self.skip(self.continuation)
                or self.skip(self.comment)
                or self.prelude()
            ):
                continue
            if self.text[self.at] in self.ends_command and (self.text[self.at] == "\n" or not self.has_begun):
                self.at += 1
                self._forbid_second_command()
            elif self.text[self.at].isspace():
                self.at += 1
            else:
                self.words.append(self.word())
                self.has_begun = self.has_begun or not _ASSIGNMENT.match(self.words[-1])

    def prelude(self) -> bool:
        """Take what stands before the command and only sets a variable or calls it; True when there was such a thing."""
        return False

    def word(self) -> str:
        """Read one word; at least one character is taken."""
        raise NotImplementedError

    def _skip_prompt(self) -> bool:
        """Each line until the command begins may have one; behind that it would be the prompt of a second command."""
        begins_line = self.at == 0 or self.text[self.at - 1] == "\n"
        return begins_line and not self.has_begun and self.skip(self.prompt)

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Move behind *pattern*, where it stands at the position."""
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match is not None

    def placeholder(self) -> str | None:
        """`${PORT}` and its like, taken as they are; None where there is none. Raises BadCommand for an unknown one."""
        match = _PLACEHOLDER.match(self.text, self.at)
        if match is None:
            return None
        escaped, name = match.groups()
        if not self.strict and (escaped or name not in self.placeholders):
            return None
        if not escaped and name not in self.placeholders:
            known = ", ".join(f"${{{n}}}" for n in sorted(self.placeholders))
            raise self.refused(self.at, match[0][:30], "is no placeholder", f"known are {known} (write $${{...}} for the text)")
        self.at = match.end()
        return match[0]

    def operator(self) -> BadCommand:
        """The complaint about the operator at the position."""
        found = _OPERATOR.match(self.text, self.at)
        operator = found[0] if found else self.text[self.at]
        remedy = _REMEDY.get(operator, "give one command, and nothing but this command")
        return self.refused(self.at, operator, "is for a shell, and there is none here", f"{remedy} (or put it in quotes)")

    def open_quote(self, at: int, quote: str, escape: str) -> BadCommand:
        """The complaint about a quotation that began at *at*."""
        return self.refused(at, quote, "opens a quotation that is never closed", f"close it, or write {escape} for the character")

    def variable(self, at: int, what: str) -> BadCommand:
        """The complaint about something that a shell would replace."""
        is_command = what.startswith(("$(", "`", "("))
        why = "begins a command substitution" if is_command else "is a variable, and nothing is expanded here"
        return self.refused(at, what[:30], why, "write the value itself, or put it in environment")

    def refused(self, at: int, what: str, why: str, remedy: str) -> BadCommand:
        """An error at position *at*, with the line it stands on and a caret below it."""
        begin = self.text.rfind("\n", 0, at) + 1
        line = self.text[begin:].split("\n", 1)[0].rstrip("\r").replace("\t", " ")
        column = at - begin
        first = max(0, column - _EXCERPT)
        shown = ("..." if first else "") + line[first : column + _EXCERPT] + ("..." if len(line) > column + _EXCERPT else "")
        caret = " " * (column - first + (3 if first else 0)) + "^" * max(1, len(what.split("\n", 1)[0]))
        where = f"line {self.text.count(chr(10), 0, at) + 1}, column {column + 1}"
        return BadCommand([Problem("command", f"{where}: {what} {why}; {remedy}\n  {shown}\n  {caret}")])

    def _forbid_second_command(self) -> None:
        """A line end that is not continued ends a command; we read on where the next line can only be more options."""
        if not self.has_begun:
            return
        while self.skip(_BLANK) or self.skip(self.comment) or self.skip(self.continuation) or self.text.startswith("\n", self.at):
            self.at += self.text.startswith("\n", self.at)
        if self.at < len(self.text) and self.text[self.at] not in "-'\"":
            line = self.text[self.at :].split("\n", 1)[0]
            raise self.refused(self.at, line[:20].rstrip(), "begins a second command", "give one command, its lines joined")
