"""How three shells make words of a text: the quotes, escapes, comments and variables of sh, cmd and PowerShell."""

from __future__ import annotations

import re

from llamactl_py.backends.scanner import Scanner

_VENV = r"[ \t]*+(?:\([\w.-]{1,64}\)[ \t]*+)?"
_WHO = r"[\w.-]{1,64}@[\w.-]{1,64}"
_EXPANSION = re.compile(r"\$(?:[A-Za-z_]\w*|[0-9@*#?!$-]|\{[^}\n]*\}?|\([^)\n]*\)?)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "", "a": "\a", "b": "\b", "e": "\x1b"}
_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "e": "\x1b"}


class Sh(Scanner):
    """POSIX sh and bash. A backslash stays what it is in a word that begins like a Windows path: nobody escapes in those."""

    # me@box:~/models$ x, root@box:/srv# x, [me@box models]$ x, zsh's me@box models % x, and $ x
    prompt = re.compile(
        rf"{_VENV}(?:(?:{_WHO}:[^\s$#]{{0,200}}|\[{_WHO} [^\]\n]{{1,200}}\])[$#]|{_WHO} [^\s%]{{1,200}} %|\$)[ \t]++(?=\S)"
    )
    continuation = re.compile(r"\\[ \t]*(?:\r?\n|\Z)")
    comment = re.compile(r"#[^\n]*")
    _plain = re.compile(r"[^\s'\"\\`$&|;<>]+")
    _windows_path = re.compile(r"(?:-{1,2}[\w-]+=)?['\"]?(?:[A-Za-z]:\\|\\\\\w|\.{1,2}\\[\w.])")
    _export = re.compile(r"export[ \t]+(?=[A-Za-z_]\w*=)", re.ASCII)

    def prelude(self) -> bool:
        """`export X=1` on a line of its own is an assignment."""
        return not self.has_begun and self.skip(self._export)

    def word(self) -> str:
        """Read one word."""
        windows = self._windows_path.match(self.text, self.at) is not None
        if self.text[self.at] == "~":
            self.warnings.append("~ is not expanded: write the whole path")
        pieces: list[str] = []
        while self.at < len(self.text) and not self.text[self.at].isspace():
            if plain := self._plain.match(self.text, self.at):
                pieces.append(plain[0])
                self.at = plain.end()
            elif not self.skip(self.continuation):
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
                raise self.variable(start, "`")
            case "$":
                return self._dollar()
            case _:
                raise self.operator()

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise self.open_quote(self.at, "'", "\\'")
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
                raise self.variable(self.at, "`")
            else:
                pieces.append(char)
                self.at += 1
        raise self.open_quote(start, '"', '\\"')

    def _dollar(self, quoted: bool = False) -> str:
        if self.text.startswith("$'", self.at) and not quoted:
            return self._ansi()
        if placeholder := self.placeholder():
            return placeholder
        if expansion := _EXPANSION.match(self.text, self.at):
            raise self.variable(self.at, expansion[0])
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
        raise self.open_quote(start, "$'", "\\'")


class Cmd(Scanner):
    """cmd.exe, and behind it the rule by which Windows programs split their one line: `\\"` is a quote, `'` is a letter."""

    # Behind a program's name > would redirect.
    prompt = re.compile(rf"{_VENV}[A-Za-z]:\\[^>\s\"]{{0,200}}(?<!\.exe)>[ \t]*+(?=[^\s>])", re.IGNORECASE)
    continuation = re.compile(r"\^[ \t]*(?:\r?\n|\Z)")
    comment = re.compile(r"(?!)")  # none behind a command
    _remark = re.compile(r"(?:@?rem\b|::|@?echo off\b)[^\n]*", re.IGNORECASE)
    _plain = re.compile(r"[^\s\"\\^&|<>%$]+")
    _backslashes = re.compile(r"(\\+)(\"?)")
    _set = re.compile(r"@?set[ \t]+(\"?)([A-Za-z_]\w*)=([^\"\r\n&|<>]*+)\1[ \t]*+\r?(?=\n)", re.ASCII | re.IGNORECASE)
    # Possessive: the value takes the blanks behind it too, and giving them back one by one would take quadratic time.
    _variable = re.compile(r"%\w+%", re.ASCII)

    def prelude(self) -> bool:
        """`set X=1` on a line of its own is an assignment, and `rem` begins a comment."""
        if self.has_begun:
            return False
        if found := self._set.match(self.text, self.at):
            self.words.append(f"{found[2]}={found[3].strip()}")
            self.at = found.end()
        return found is not None or self.skip(self._remark)

    def word(self) -> str:
        """Read one word."""
        pieces: list[str] = []
        quote_at = -1
        while self.at < len(self.text) and (quote_at >= 0 or not self.text[self.at].isspace()):
            char = self.text[self.at]
            if char == '"' and quote_at >= 0 and self.text.startswith('""', self.at):
                pieces.append('"')
                self.at += 2
            elif char == '"':
                quote_at = -1 if quote_at >= 0 else self.at
                self.at += 1
            elif char == "\n":
                break
            else:
                pieces.append(self._piece(is_quoted=quote_at >= 0))
        if quote_at >= 0:
            raise self.open_quote(quote_at, '"', '\\"')
        return "".join(pieces)

    def _piece(self, is_quoted: bool) -> str:
        """What stands at the position, which is no quote: several letters where they are plain."""
        start = self.at
        if run := self._backslashes.match(self.text, start):
            # Before a quote each pair is one backslash, and one that is left over makes the quote a letter.
            pairs, left = divmod(len(run[1]), 2) if run[2] else (len(run[1]), 0)
            self.at = run.end() - (1 if run[2] and not left else 0)
            return "\\" * pairs + ('"' if left else "")
        if self.text[start] == "%" and (found := self._variable.match(self.text, start)):
            raise self.variable(start, found[0])
        if self.text[start] == "$" and (placeholder := self.placeholder()):
            return placeholder
        if not is_quoted and self.skip(self.continuation):
            return ""
        if not is_quoted and self.text[start] in "&|<>":
            raise self.operator()
        if not is_quoted and self.text[start] == "^":
            self.at += 2
            return self.text[start + 1 : start + 2]
        plain = self._plain.match(self.text, start)
        self.at = plain.end() if plain else start + 1
        return self.text[start : self.at]


class PowerShell(Scanner):
    """PowerShell. What it hands to a program is read by Windows' rule once more, so `\\"` in its quotes is a quote."""

    prompt = re.compile(rf"{_VENV}PS(?: [^>\n]{{0,200}})?>[ \t]*+")
    continuation = re.compile(r"`[ \t]*(?:\r?\n|\Z)")
    comment = re.compile(r"<#.*?(?:#>|\Z)|#[^\n]*", re.DOTALL)
    ends_command = "\n;"
    _plain = re.compile(r"[^\s'\"`$&|;<>]+")
    _call = re.compile(r"&[ \t]*(?=[\"'.\w])")
    _environment = re.compile(r"\$env:([A-Za-z_]\w*)[ \t]*=[ \t]*(?=\S)", re.ASCII | re.IGNORECASE)
    _variable = re.compile(r"\$(?:\w+(?::\w+)?|\{[^}\n]*\}?|\([^)\n]*\)?|\$|\?|\^)")

    def prelude(self) -> bool:
        """`$env:X = "1"` sets a variable, and `&` calls the program behind it."""
        if self.has_begun:
            return False
        if found := self._environment.match(self.text, self.at):
            self.at = found.end()
            self.words.append(f"{found[1]}={self.word()}")
        return found is not None or self.skip(self._call)

    def word(self) -> str:
        """Read one word."""
        if self.text.startswith(("@'", '@"'), self.at):
            raise self.refused(self.at, self.text[self.at : self.at + 2], "begins a here-string", "write the text in one line")
        if self.text[self.at] == "(":
            raise self.variable(self.at, "(")
        pieces: list[str] = []
        while self.at < len(self.text) and not self.text[self.at].isspace():
            if self.text[self.at] == ";" and pieces and not self.has_begun:
                break  # the end of `$env:X = 1;`
            if plain := self._plain.match(self.text, self.at):
                pieces.append(plain[0])
                self.at = plain.end()
            elif self.text[self.at] == "'":
                pieces.append(self._single().replace('\\"', '"'))
            elif self.text[self.at] == '"':
                pieces.append(self._double().replace('\\"', '"'))
            elif not self.skip(self.continuation):
                pieces.append(self._special())
        return "".join(pieces)

    def _special(self) -> str:
        """What an unquoted backtick, dollar or operator stands for."""
        start = self.at
        if self.text[start] == "`":
            self.at += 2
            following = self.text[start + 1 : start + 2]
            return _ESCAPES.get(following, following)
        if self.text[start] != "$":
            raise self.operator()
        if placeholder := self.placeholder():
            return placeholder
        if found := self._variable.match(self.text, start):
            raise self.variable(start, found[0])
        self.at += 1
        return "$"

    def _single(self) -> str:
        """Two single quotes inside are one."""
        start, pieces = self.at, list[str]()
        self.at += 1
        while (end := self.text.find("'", self.at)) >= 0:
            pieces.append(self.text[self.at : end])
            self.at = end + 1
            if not self.text.startswith("'", self.at):
                return "".join(pieces)
            pieces.append("'")
            self.at += 1
        raise self.open_quote(start, "'", "''")

    def _double(self) -> str:
        start, pieces = self.at, list[str]()
        self.at += 1
        while self.at < len(self.text):
            if self.text.startswith('""', self.at):
                pieces.append('"')
                self.at += 2
            elif self.text[self.at] == '"':
                self.at += 1
                return "".join(pieces)
            elif self.text[self.at] in "`$":
                pieces.append(self._special())
            else:
                pieces.append(self.text[self.at])
                self.at += 1
        raise self.open_quote(start, '"', '`"')
