"""The result of an import: settings, declared instances and notes, and how they look as a file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from msgspec import Struct, field

from llamactl_py.config.document import DECLARED
from llamactl_py.config.expand import INSTANCE_WORDS
from llamactl_py.ground.errors import BadRequest
from llamactl_py.ground.names import MAX_NAME

MAX_INSTANCES = 2000
"""How many a file may have: a name is found for each among those of all."""

_REFERENCE = re.compile(r"\$\{(env\.)?([A-Za-z_]\w*)\}|\$\{", re.ASCII)


class Note(Struct, frozen=True):
    """Something that is other than it was: the line of the file (0: of no line), the key there, and what became of it."""

    line: int
    key: str
    what: str

    def __str__(self) -> str:
        return (f"line {self.line}: " if self.line else "") + f"{self.key}: {self.what}"


class Imported(Struct):
    """A configuration in the making. *settings* by section; *instances* as the file is to declare them, by name.

    Text may hold `${env.NAME}`, which becomes a variable of the file, and `${PORT}` and the like; any other `${` is escaped.
    """

    source: str
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    def set(self, section: str, name: str, value: object) -> None:
        self.settings.setdefault(section, {})[name] = value

    def note(self, line: int, key: str, what: str) -> None:
        self.notes.append(Note(line, key, what))

    def noting(self, line: int, key: str) -> Callable[[str], None]:
        """A function that notes what became of that key."""
        return lambda what: self.note(line, key, what)

    def name_for(self, wanted: str) -> str:
        """A name that an instance may have, as near to *wanted* as can be, and not taken yet. Raises BadRequest for too many."""
        if len(self.instances) >= MAX_INSTANCES:
            raise BadRequest(f"the file has over {MAX_INSTANCES} models; import a part of it")
        base = harmless(wanted)
        taken = {name.casefold() for name in self.instances}
        name, number = base, 2
        while name.casefold() in taken:
            name, number = f"{base[: MAX_NAME - 4]}-{number}", number + 1
        return name

    def sorted_notes(self) -> list[Note]:
        """In the order of the file that they are about."""
        return sorted(self.notes, key=lambda note: note.line)

    def text(self) -> str:
        """The file."""
        lines = [f"# Made by llamactl import from a file of {self.source}. Check it with: llamactl config check FILE"]
        if self.notes:
            lines.append("# What is other than it was:")
            lines += [f"#   {_one_line(str(note))}" for note in self.sorted_notes()]
        parts = [_dump({name: values}) for name, values in (*self.settings.items(), (DECLARED, self.instances))]
        return "\n\n".join(["\n".join(lines), *(part.rstrip("\n") for part in parts)]) + "\n"


def harmless(text: str) -> str:
    """*text* as a name that an instance or a group may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:MAX_NAME].rstrip(".-") or "unnamed"


def command_text(words: Sequence[str]) -> str:
    """*words* as one would type them; a long line has a flag on each of its lines."""
    line = shlex.join(words)
    if len(line) <= 100:
        return line
    return " \\\n  ".join(shlex.join(group) for group in _by_flag(words)) + "\n"


def _by_flag(words: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for word in words:
        if group and word.startswith("-"):
            yield group
            group = []
        group.append(word)
    yield group


class _Dumper(yaml.SafeDumper):
    """Text of several lines stays so."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _dump(tree: Mapping[str, Any]) -> str:
    return yaml.dump(_escaped(tree), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _escaped(value: Any) -> Any:
    """`${env.X}` as `${X}`; what is filled in at a start stays; all else that looks like a variable is made to be text."""
    if isinstance(value, Mapping):
        return {key: _escaped(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(item) for item in value]
    return _REFERENCE.sub(_reference, value) if isinstance(value, str) else value


def _reference(found: re.Match[str]) -> str:
    if found[1]:
        return f"${{{found[2]}}}"
    return found[0] if found[2] in INSTANCE_WORDS else f"${found[0]}"


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
