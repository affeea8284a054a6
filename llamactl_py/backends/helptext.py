"""The text that a server prints for --help, as entries: one for each flag, with its spellings, value, group and description.

Two layouts are known: llama.cpp's and that of Python's argparse. Nothing here knows a particular server, so the text of
tomorrow's version, and of the one that is installed, is read by the same code that wrote the catalogues.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from msgspec import Struct, field


class Entry(Struct):
    """One flag as the help prints it."""

    spellings: list[str]
    negations: list[str]
    metavar: str
    group: str
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The description on one line; a word that the layout broke at its hyphen is joined again."""
        return re.sub(r"(?<=\w)- (?=[a-z])", "-", " ".join(" ".join(self.lines).split()))


def llama_entries(text: str) -> Iterator[Entry]:
    """llama.cpp: flags in column 0, descriptions in column 40, groups as `----- name params -----`."""
    group, entry = "", None
    for line in text.splitlines():
        if title := re.fullmatch(r"----- (.*?)(?: params)? -----", line):
            group = title[1]
        elif line.startswith("-"):
            # Too long a header pushes its description to the next line, so column 39 is then not blank.
            has_text = len(line) > 40 and line[38:40] == "  "
            if entry:
                yield entry
            entry = _llama_header(line[:40] if has_text else line, group)
            entry.lines.append(line[40:] if has_text else "")
        elif entry and line.startswith(" " * 40):
            entry.lines.append(line[40:])
    if entry:
        yield entry


def _llama_header(header: str, group: str) -> Entry:
    """`-kvo, --kv-offload, -nkvo, --no-kv-offload` prints the positive spellings first, then the negative ones."""
    names: list[str] = []
    rest = header.strip()
    while match := re.match(r"(-{1,2}[A-Za-z][\w.-]*)(,\s*|\s+|$)", rest):
        names.append(match[1])
        rest = rest[match.end() :]
        if not match[2].startswith(","):
            break
    long = [n for n in names if n.startswith("--")]
    negative = {n for n in long if n.startswith("--no-")}
    if len(negative) == len(long):  # `--no-host` stands alone: it is a flag of its own
        return Entry(names, [], rest, group)
    first_long = names.index(next(n for n in long if n not in negative)) if negative else len(names)
    negative |= {n for n in names[first_long:] if not n.startswith("--")} if negative else set()
    return Entry([n for n in names if n not in negative], [n for n in names if n in negative], rest, group)


def argparse_entries(text: str) -> Iterator[Entry]:
    """argparse: flags in column 2, descriptions in column 24, groups as a line `Name:`."""
    group, entry = "", None
    for line in text.splitlines():
        if re.fullmatch(r"[A-Za-z][\w ]*:", line):
            group = line[:-1].removesuffix(" arguments")
        elif line.startswith("  -"):
            has_text = len(line) > 24 and line[22:24] == "  "
            if entry:
                yield entry
            entry = _argparse_header((line[:24] if has_text else line).strip(), group)
            entry.lines.append(line[24:] if has_text else "")
        elif entry and line.startswith(" " * 24):
            entry.lines.append(line[24:])
        elif entry and line.strip() and not line.startswith("  "):
            yield entry  # an epilog, not a description
            entry = None
    if entry:
        yield entry


def _argparse_header(header: str, group: str) -> Entry:
    """`--flag VALUE, -f VALUE` or `--flag, --no-flag, -f`: a short name there is a positive one."""
    names = re.findall(r"(?:^|, )(-{1,2}[A-Za-z][\w.-]*)", header)
    value = re.match(r"-{1,2}[A-Za-z][\w.-]*(?: (.*?))?(?:, -|$)", header)
    negative = [n for n in names if n.startswith("--no-") and "--" + n[5:] in names]
    return Entry([n for n in names if n not in negative], negative, (value[1] or "") if value else "", group)


def positional_text(text: str, name: str) -> str:
    """What argparse says of the positional argument *name*; empty where there is none."""
    found = re.search(rf"^  {name} +(.*(?:\n {{24}}.*)*)", text, re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


LAYOUTS: Mapping[str, Callable[[str], Iterator[Entry]]] = MappingProxyType(
    {"llama.cpp": llama_entries, "argparse": argparse_entries}
)
"""By grammar (`Catalogue.grammar`)."""
