"""The version that the user has: what one server of this machine takes, read from its own help, held against the catalogue.

Pure, as all of this folder: the text comes from elsewhere (`instances.programs` asks the program).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from msgspec import Struct

from llamactl_py.backends.arguments import EXTRA, arguments
from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.values import NUMBER, Value

LEAST_IN_COMMON = 0.3
"""Share of the catalogue's flags that a text must name to pass for that server's help."""
MOST_FLAGS = 5000


class HelpFlag(Struct, frozen=True):
    """One flag as a help text prints it."""

    spellings: tuple[str, ...]
    help: str
    refused: bool = False
    """Named only to say that it was removed."""
    instead: str = ""


def read_help(text: str) -> tuple[HelpFlag, ...]:
    """Every flag of a help text: lines that begin with a dash, in column 0 (llama.cpp) or 2 (argparse)."""
    found: list[HelpFlag] = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not re.match(r" {0,2}-{1,2}[A-Za-z]", line) or line.startswith("-----"):
            continue
        header, *rest = re.split(r"(?<![,\s])\s{2,}", line.strip(), maxsplit=1)
        follows = lines[at + 1].strip() if at + 1 < len(lines) and lines[at + 1].startswith(" " * 20) else ""
        says = " ".join([*rest, follows]).strip()
        removed = re.match(r"the argument has been removed\.?\s*(?:use )?(.*?)(?:\s*\(env.*)?$", says)
        spellings = tuple(re.findall(r"(?:^|,\s*)(-{1,2}[A-Za-z][\w.-]*)", header))
        found.append(HelpFlag(spellings, says, removed is not None, removed[1] if removed else ""))
    return tuple(found[:MOST_FLAGS])


class Installed(Struct, frozen=True, dict=True):
    """One server of this machine. *version*: as it tells it, empty if it does not."""

    catalogue: Catalogue
    version: str
    flags: tuple[HelpFlag, ...]

    @cached_property
    def _taken(self) -> Mapping[str, HelpFlag]:
        return {_normal(spelling): flag for flag in self.flags for spelling in flag.spellings}

    def takes(self, word: str) -> bool:
        """Will it understand this flag? argparse also takes the beginning of a long one, and vLLM the fields of JSON ones."""
        name = _normal(word.partition("=")[0])
        if (known := self._taken.get(name)) is not None:
            return not known.refused
        if self.catalogue.grammar != "argparse":
            return False
        if re.fullmatch(r"-[A-Za-z]\S+", word):  # a short flag with its value, as in -O3
            return _normal(word[:2]) in self._taken
        return _normal(word.partition(".")[0]) in self._taken or any(known.startswith(name) for known in self._taken)

    @cached_property
    def new(self) -> tuple[HelpFlag, ...]:
        """What it has and the catalogue does not."""
        known = {_normal(s) for flag in self.catalogue for s in (*flag.spellings, *flag.negations)}
        return tuple(f for f in self.flags if not f.refused and known.isdisjoint(map(_normal, f.spellings)))

    @cached_property
    def lacking(self) -> tuple[Flag, ...]:
        """What the catalogue has and it does not, or not any more."""
        return tuple(f for f in self.catalogue if not f.removed and not any(map(self.takes, (*f.spellings, *f.negations))))

    def objections(self, options: Mapping[str, Value]) -> tuple[str, ...]:
        """Why a start with normalised *options* would fail, or go wrong: one sentence for each flag that it does not take."""
        return tuple(dict.fromkeys(self._objection(word) for word in self._flag_words(options) if not self.takes(word)))

    def still_true(self, warnings: Iterable[str]) -> tuple[str, ...]:
        """*warnings* of the catalogue without those that its own help contradicts."""
        moot = [f"{s} is not known to {self.catalogue.program};" for flag in self.new for s in flag.spellings]
        moot += [f"newer {self.catalogue.program} refuses {f.flag}" for f in self.catalogue if f.removed and self.takes(f.flag)]
        return tuple(warning for warning in warnings if not any(warning.startswith(start) for start in moot))

    def _flag_words(self, options: Mapping[str, Value]) -> Iterator[str]:
        for key, value in options.items():
            if key == EXTRA:
                yield from (w for w in map(str, value if isinstance(value, list) else ()) if _looks_like_flag(w))
            elif key != "model" and (flag := self.catalogue.flags.get(key)) and not (flag.env and flag.secret):
                # Every server takes a model in some way, secrets go through the environment, and options may have been stored
                # when the catalogue knew them.
                yield from arguments(self.catalogue, {key: value}, positional_model=False)[:1]

    def _objection(self, word: str) -> str:
        name = word.partition("=")[0]
        said = self._taken.get(_normal(name))
        hit = self.catalogue.by_word(name)
        instead = (said.instead if said else "") or (hit.flag.instead if hit else "")
        program = f"{self.catalogue.program} {self.version}".strip()
        return f"{program}, which is the one installed, refuses {name}" + (f"; use {instead}" if instead else "; leave it out")


def installed(catalogue: Catalogue, version: str, help_text: str) -> Installed | None:
    """What a program takes whose help is *help_text*; None where that is no help of this server."""
    found = Installed(catalogue, version, read_help(help_text))
    current = [flag for flag in catalogue if not flag.historic]
    in_common = sum(any(_normal(s) in found._taken for s in (*f.spellings, *f.negations)) for f in current)
    return found if in_common >= LEAST_IN_COMMON * len(current) else None


def _normal(spelling: str) -> str:
    """Both kinds of servers take - and _ for one another in long flags."""
    return "-" * (len(spelling) - len(spelling.lstrip("-"))) + spelling.lstrip("-").replace("_", "-")


def _looks_like_flag(word: str) -> bool:
    return word.startswith("-") and word != "-" and not NUMBER.fullmatch(word)
