"""A reader for each type that a field can have, made when it is first needed.

msgspec has the values and would read them, but it stops at the first thing that is wrong, takes "a\\n" for `^a$`, and its words
are for programmers. Who writes a file or a request wants to hear of everything at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from msgspec import NODEFAULT, Meta, Struct, field

from llamactl_py.ground.errors import Problem, nearest
from llamactl_py.ground.fields import Form, Rule, choices, fields_of, is_struct, split

MOST_PROBLEMS = 20

WRONG: Any = NODEFAULT
"""Stands for a value that has a problem."""

_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?[0-9]{1,30}(\.[0-9]{1,30})?")
_FLAGS = {
    **dict.fromkeys(("true", "yes", "on", "1", "t", "y"), True),
    **dict.fromkeys(("false", "no", "off", "0", "f", "n"), False),
}
"""How people write true and false into variables."""


class Reading(Struct):
    """What was found so far."""

    from_text: bool
    """Numbers, true and false may be text."""
    problems: list[Problem] = field(default_factory=list)
    """At most MOST_PROBLEMS."""
    count: int = 0
    """How many there are in all."""

    def tell(self, where: str, what: str) -> Any:
        self.count += 1
        if self.count <= MOST_PROBLEMS:
            self.problems.append(Problem(where, what))
        return WRONG

    def tell_unknown(self, where: str, key: str, known: Mapping[str, Any]) -> None:
        hint = nearest(key, known) if self.count < MOST_PROBLEMS else ""  # to look for it takes time
        self.tell(where, f"unknown key{hint}")

    def take(self, other: Reading) -> Any:
        """Tell what *other* was told."""
        for problem in other.problems:
            self.tell(problem.where, problem.what)
        self.count += other.count - len(other.problems)
        return WRONG

    def all_problems(self) -> Iterator[Problem]:
        """The first, and how many more there are."""
        yield from self.problems
        if self.count > MOST_PROBLEMS:
            yield Problem("", f"and {self.count - MOST_PROBLEMS} more")


Reader = Callable[[Any, str, Reading], Any]
"""Gives the value of what stands at a dotted place, or tells what is wrong with it and gives WRONG."""


def reader(hint: Any) -> Reader:
    """For a type, with what Annotated says of it."""
    bare, said = split(hint)
    form = next((one for one in said if isinstance(one, Form)), None)
    read = _formed(form) if form else _reader(bare, hint)
    for one in said:
        if isinstance(one, Meta) and _limits(one):
            read = _limited(read, one, hint)
        elif isinstance(one, Rule) and one.check:
            read = _ruled(read, one.check)
    return read


def _reader(bare: Any, hint: Any) -> Reader:
    if is_struct(bare):
        return _struct(bare)
    if bare is Any:
        return lambda raw, where, reading: raw
    members, origin = choices(bare), get_origin(bare)
    if members != (bare,):
        read = _union(members, hint) if len(members) > 1 else reader(members[0])
        return _or_none(read) if NoneType in get_args(bare) else read
    if origin in (tuple, dict):
        return _list(bare) if origin is tuple else _map(bare)
    return _choice(bare, hint) if origin is Literal or issubclass(bare, Enum) else _LEAVES[bare](hint)


@cache
def _struct(model: type[Struct]) -> Reader:
    known = {one.key: one for one in fields_of(model)}
    readers: dict[str, Reader] = {}

    def read(raw: Any, where: str, reading: Reading) -> Any:
        if not isinstance(raw, Mapping):
            return reading.tell(where, f"expected an object with named fields, got {kind(raw)}")
        before, values, prefix = reading.count, {}, f"{where}." if where else ""
        for key, one in known.items():
            if key in raw:
                read_one = readers.get(key) or readers.setdefault(key, reader(one.hint))
                values[one.name] = read_one(raw[key], prefix + key, reading)
            elif one.is_required:
                reading.tell(prefix + key, "is required")
        for key in raw:
            if key not in known:
                reading.tell_unknown(f"{prefix}{key}", str(key), known)
        return model(**values) if reading.count == before else WRONG

    return read


def _limited(read: Reader, limits: Meta, hint: Any) -> Reader:
    def read_and_compare(raw: Any, where: str, reading: Reading) -> Any:
        value = read(raw, where, reading)
        if value is WRONG or _keeps(limits, value):
            return value
        got = f"one of {len(value)}" if isinstance(value, tuple) else shown(raw, where)
        return reading.tell(where, f"expected {described(hint)}, got {got}")

    return read_and_compare


def _ruled(read: Reader, check: Callable[[Any], None]) -> Reader:
    def read_and_check(raw: Any, where: str, reading: Reading) -> Any:
        value = read(raw, where, reading)
        try:
            if value is not WRONG:
                check(value)
        except ValueError as error:
            return reading.tell(where, str(error))
        return value

    return read_and_check


def _formed(form: Form) -> Reader:
    def read(raw: Any, where: str, reading: Reading) -> Any:
        try:
            return form.read(raw)
        except ValueError as error:
            return reading.tell(where, str(error))

    return read


def _or_none(read: Reader) -> Reader:
    return lambda raw, where, reading: None if raw is None else read(raw, where, reading)


def _union(members: tuple[Any, ...], hint: Any) -> Reader:
    """Of several types: the first that takes it, or what is wrong inside the one that it was meant to be."""
    readers = [reader(member) for member in members]

    def read(raw: Any, where: str, reading: Reading) -> Any:
        attempts = []
        for one in readers:
            attempts.append(Reading(reading.from_text))
            value = one(raw, where, attempts[-1])
            if value is not WRONG:
                return value
        meant = next((one for one in attempts if one.problems[0].where != where), None)
        return reading.take(meant) if meant else reading.tell(where, f"expected {described(hint)}, got {shown(raw, where)}")

    return read


def _list(bare: Any) -> Reader:
    """Of `tuple[X, ...]`, and of `tuple[X, Y]`, which has just so many."""
    items = get_args(bare)
    size = None if items[-1] is ... else len(items)
    readers = [reader(item) for item in items if item is not ...]

    def read(raw: Any, where: str, reading: Reading) -> Any:
        if not isinstance(raw, list | tuple):
            return reading.tell(where, f"expected a list, got {kind(raw)}")
        if size is not None and len(raw) != size:
            return reading.tell(where, f"expected a list of {size}, got one of {len(raw)}")
        each = zip(readers if size else readers * len(raw), raw, strict=True)
        values = tuple(one(item, f"{where}.{number}", reading) for number, (one, item) in enumerate(each))
        return WRONG if any(value is WRONG for value in values) else values

    return read


def _map(bare: Any) -> Reader:
    """Of `dict[X, Y]`."""
    read_key, read_value = map(reader, get_args(bare))

    def read(raw: Any, where: str, reading: Reading) -> Any:
        if not isinstance(raw, Mapping):  # what it is and not what it says: text may be many values, and secrets among them
            return reading.tell(where, f"expected an object with named values, got {kind(raw)}")
        before, values = reading.count, {}
        for key, value in raw.items():
            below = f"{where}.{key}"
            values[read_key(key, below, reading)] = read_value(value, below, reading)
        return values if reading.count == before else WRONG

    return read


def _choice(bare: Any, hint: Any) -> Reader:
    """Of a Literal or an Enum."""
    known = {one: one for one in get_args(bare)} if get_origin(bare) is Literal else {one.value: one for one in bare}

    def read(raw: Any, where: str, reading: Reading) -> Any:
        if isinstance(raw, str) and raw in known:
            return known[raw]
        return reading.tell(where, f"expected {described(hint)}, got {shown(raw, where)}")

    return read


def _text(hint: Any) -> Reader:
    def read(raw: Any, where: str, reading: Reading) -> Any:
        return raw if isinstance(raw, str) else reading.tell(where, f"expected {described(hint)}, got {shown(raw, where)}")

    return read


def _flag(hint: Any) -> Reader:
    def read(raw: Any, where: str, reading: Reading) -> Any:
        if isinstance(raw, bool):
            return raw
        found = _FLAGS.get(str(raw).strip().lower()) if reading.from_text and isinstance(raw, str | int) else None
        return found if found is not None else _guessed(hint, raw, where, reading)

    return read


def _number(hint: Any) -> Reader:
    takes = float if split(hint)[0] is float else int

    def read(raw: Any, where: str, reading: Reading) -> Any:
        number = raw
        if reading.from_text and isinstance(raw, str) and _NUMBER.fullmatch(raw.strip()):
            number = float(raw) if "." in raw else int(raw)
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if is_number and (takes is float or not number % 1):  # JSON has one kind of numbers: 3.0 is whole
            return number if takes is float else int(number)
        return _guessed(hint, raw, where, reading)

    return read


def _guessed(hint: Any, raw: Any, where: str, reading: Reading) -> Any:
    quotes = ", without quotes" if isinstance(raw, str) and not reading.from_text else ""
    return reading.tell(where, f"expected {described(hint)}{quotes}, got {shown(raw, where)}")


_LEAVES: dict[Any, Callable[[Any], Reader]] = {str: _text, bool: _flag, int: _number, float: _number}


# -- words -------------------------------------------------------------------------------------------------------------------


def kind(value: object) -> str:
    """What a JSON or YAML value is, for people."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def shown(value: object, where: str) -> str:
    """*value*, if it is short and the names that it stands under do not say that it may be secret; else what it is."""
    if isinstance(value, bool):
        return str(value).lower()
    is_short = isinstance(value, str | int | float) and len(repr(value)) < 80
    return repr(value) if is_short and not _SECRET.search(where) else kind(value)


def described(hint: Any) -> str:
    """What a type takes, with its limits."""
    bare, said = split(hint)
    words = " or ".join(map(_named, choices(bare)))
    return " ".join((words, *(limit for one in said if isinstance(one, Meta) for limit in _limits(one, bare))))


def _named(bare: Any) -> str:
    if split(bare)[1]:
        return described(bare)
    if get_origin(bare) is Literal:
        values = [*map(repr, get_args(bare))]
        return f"one of {', '.join(values)}" if len(values) > 1 else values[0]
    if isinstance(bare, type) and issubclass(bare, Enum):
        return f"one of {', '.join(repr(one.value) for one in bare)}"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(bare) or ("a list" if get_origin(bare) is tuple else "an object")


def _limits(said: Meta, bare: Any = None) -> list[str]:
    """The limits in words; none where it only describes."""
    unit = " items" if get_origin(bare) is tuple else " characters"
    return [
        *_between("from", said.ge, said.le),
        *([f"over {said.gt}"] if said.gt is not None else []),
        *([f"under {said.lt}"] if said.lt is not None else []),
        *_between("of", said.min_length, said.max_length, unit),
        *([f"matching {said.pattern}"] if said.pattern is not None else []),
    ]


def _between(word: str, least: float | None, most: float | None, unit: str = "") -> list[str]:
    if least is not None and most is not None:
        return [f"{word} {least} to {most}{unit}"]
    limit, side = (least, "at least") if least is not None else (most, "at most")
    return [] if limit is None else [f"of {side} {limit}{unit if limit != 1 else unit.removesuffix('s')}"]


def _keeps(limits: Meta, value: Any) -> bool:
    """Is *value* within them?"""
    return (
        (limits.ge is None or value >= limits.ge)
        and (limits.gt is None or value > limits.gt)
        and (limits.le is None or value <= limits.le)
        and (limits.lt is None or value < limits.lt)
        and (limits.min_length is None or len(value) >= limits.min_length)
        and (limits.max_length is None or len(value) <= limits.max_length)
        and (limits.pattern is None or re.fullmatch(limits.pattern, value) is not None)
    )
