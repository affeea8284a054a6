"""What one backend's server can be told: every flag, as data.

The data are written by `scripts/catalogue.py` from the server's own --help, and are read at the first use of a backend.
A new flag is one line there; reading, checking, building, schema and docs follow from it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from msgspec import Struct
from msgspec.json import decode

_FOLDER = Path(__file__).parent / "data"

Kind = Literal["bool", "int", "float", "str", "path", "json", "int|str"]
Arity = Literal["switch", "one", "optional", "two", "many", "repeat"]
"""switch: no value. one: a value. optional: a value that may be left out. two: exactly two values. many: `--flag a b`.
repeat: `--flag a --flag b`."""

Grammar = Literal["argparse", "llama.cpp"]
"""How the server reads its words: argparse takes `--flag=value`, and no value that looks like a flag; llama.cpp takes the next
word as the value whatever it is, and knows no `=` (measured with llama-server 0.5.0-dev)."""


class Flag(Struct, frozen=True):
    """One flag of one server."""

    key: str
    """Its name in `backend_options`: the long spelling in snake_case."""
    flag: str
    """The spelling that we emit; empty for a model that can only stand bare."""
    type: Kind
    arity: Arity
    spellings: tuple[str, ...] = ()
    """Every spelling that means the same, `flag` first."""
    negations: tuple[str, ...] = ()
    """Spellings that switch it off; the first is emitted for false."""
    choices: tuple[str, ...] = ()
    comma: bool = False
    """Its word may hold several values with commas between them; they stay one text here, as the server is given them."""
    default: str = ""
    unit: str = ""
    """What its number counts: seconds, tokens, MiB; empty where that is not known."""
    env: str = ""
    """The environment variable that the server reads instead."""
    group: str = ""
    help: str = ""
    secret: bool = False
    owned: str = ""
    """Not empty: the daemon decides this one; what it does instead."""
    warn: str = ""
    """Not empty: kept, but the person should know this."""
    removed: bool = False
    """Today's server refuses it; older ones take it."""
    last_in: str = ""
    """The newest version that is known to take it, where today's refuses it."""
    historic: bool = False
    """Not even named in today's help."""
    instead: str = ""

    @property
    def is_positional(self) -> bool:
        """True for a model that no flag names: it stands bare."""
        return not self.flag

    @property
    def takes_list(self) -> bool:
        """True when its value is a list."""
        return self.arity in ("two", "many", "repeat")


class Hit(Struct, frozen=True):
    """A spelling that was found: its flag, and whether it is the negative form."""

    flag: Flag
    negated: bool


class Catalogue(Struct, frozen=True):
    """All flags of one server version."""

    backend: str
    program: str
    version: str
    grammar: Grammar
    flags_in_help: int
    spellings_in_help: int
    flags: Mapping[str, Flag]
    """By key, in the order in which they are emitted (alphabetical)."""
    _hits: Mapping[str, Hit]
    _long: Sequence[str] = ()
    """The names of long flags among `_hits`, sorted."""

    def __iter__(self) -> Iterator[Flag]:
        return iter(self.flags.values())

    def by_word(self, word: str) -> Hit | None:
        """The flag that a word of a command line names: one or two dashes, `_` or `-` within. None for an unknown one.

        argparse takes any beginning of a long flag that only one flag has, and so do we: `--tp 2` for `--tp-size 2`.
        """
        if word.startswith("---") or not word.startswith("-"):
            return None
        hit = self._hits.get(_normal(word))
        if hit is None and self.grammar == "argparse" and word.startswith("--") and len(word) > 3:
            near = list(self._beginning_with(_normal(word)))
            hit = near[0] if len({one.flag.key for one in near}) == 1 else None
        return hit

    def is_abbreviated(self, word: str) -> bool:
        """True when *word* is no flag's whole name, only its beginning."""
        return _normal(word) not in self._hits

    def is_ambiguous(self, word: str) -> bool:
        """True when *word* is the beginning of several long flags, which argparse refuses."""
        return (
            self.grammar == "argparse" and word.startswith("--") and next(self._beginning_with(_normal(word)), None) is not None
        )

    def _beginning_with(self, start: str) -> Iterator[Hit]:
        """The long flags of today's version that begin so."""
        for at in range(bisect_left(self._long, start), len(self._long)):
            if not self._long[at].startswith(start):
                return
            yield self._hits[self._long[at]]

    def by_name(self, name: str) -> Hit | None:
        """The flag that a key of `backend_options` names: a key, or any spelling, without dashes and with `_` or `-`."""
        return Hit(self.flags[name], negated=False) if name in self.flags else self._hits.get(_normal(name))

    def is_spelling(self, word: str) -> bool:
        """True when *word* is exactly a flag's spelling."""
        hit = self._hits.get(_normal(word))
        return hit is not None and (word in hit.flag.spellings or word in hit.flag.negations)

    def names(self) -> Iterator[str]:
        """Every name that `by_name` takes in snake_case, for hints."""
        yield from self.flags
        yield from self._hits


def _normal(spelling: str) -> str:
    return spelling.lstrip("-").replace("-", "_")


@cache
def load(backend: str) -> Catalogue:
    """The catalogue of *backend* (a type such as `llama_cpp`), read once."""
    raw = decode((_FOLDER / f"{backend}.json").read_bytes())
    flags = {row["key"]: _flag(row) for row in raw.pop("flags")}
    hits = {_normal(s): Hit(f, negated=False) for f in flags.values() for s in f.spellings}
    hits |= {_normal(s): Hit(f, negated=True) for f in flags.values() for s in f.negations}
    today = (f for f in flags.values() if not f.historic)
    long = sorted(_normal(s) for f in today for s in (*f.spellings, *f.negations) if s.startswith("--"))
    return Catalogue(**raw, flags=MappingProxyType(flags), _hits=MappingProxyType(hits), _long=long)


_TUPLES = {name for name, kind in Flag.__annotations__.items() if "tuple" in kind}


def _flag(row: dict[str, Any]) -> Flag:
    row["spellings"] = [*([row["flag"]] if row.setdefault("flag", "") else []), *row.get("spellings", ())]
    row |= {name: tuple(row[name]) for name in _TUPLES & row.keys()}
    return Flag(**row)
