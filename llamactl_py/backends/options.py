"""`backend_options` as the API gets them, checked and brought into one form: canonical keys, typed values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from msgspec import Struct

from llamactl_py.backends.arguments import EXTRA
from llamactl_py.backends.catalogue import Catalogue, Flag, Hit
from llamactl_py.backends.values import Scalar, Unfit, Value, read_json, write
from llamactl_py.ground.errors import Invalid, Problem, nearest

MAX_HINTS = 20
"""A hint costs half a millisecond; a document full of unknown keys is no typing error."""


class Normalised(Struct, frozen=True):
    """Options in their one form, and what the person should know about them."""

    options: dict[str, Value]
    warnings: tuple[str, ...]


def normalise(catalogue: Catalogue, raw: Mapping[str, object]) -> Normalised:
    """Check *raw* and bring it into the form that `arguments` takes.

    Absent, null and an empty list are unset; 0, "" and false are values (false for a switch that cannot be negated is unset).
    Raises Invalid with one Problem for each bad field, each under `backend_options.`.
    """
    options: dict[str, Value] = {}
    said_as: dict[str, str] = {}
    warnings: list[str] = []
    problems: list[Problem] = []
    for name, value in raw.items():
        where = f"backend_options.{name}"
        try:
            if name == EXTRA:
                options |= _extra(catalogue, value, warnings)
                continue
            if (hit := catalogue.by_name(name)) is None:
                hint = nearest(name[:60], catalogue.names()) if len(problems) < MAX_HINTS else ""
                raise Unfit(f"unknown option{hint}; put flags the catalogue does not know into {EXTRA}")
            if value is None:
                continue
            if hit.flag.owned:
                warnings.append(owned_warning(hit.flag))
                continue
            read = read_option(catalogue, hit, value)
        except Unfit as unfit:
            problems.append(Problem(where, str(unfit)))
            continue
        if read is None:
            continue
        key = hit.flag.key
        if key in options and options[key] != read:
            problems.append(Problem(where, f"contradicts {said_as[key]!r}, which is the same option; give one of the two"))
        options[key], said_as[key] = read, name
    if problems:
        raise Invalid(problems)
    return Normalised(options, tuple(dict.fromkeys([*warnings, *cautions(catalogue, options)])))


def read_option(catalogue: Catalogue, hit: Hit, value: object) -> Value | None:
    """One option's value out of JSON; None when it comes to the same as leaving it out. Raises Unfit."""
    flag = hit.flag
    if isinstance(value, list | tuple) and not value:
        return None
    if not flag.takes_list:
        read = read_json(catalogue, flag, value)
        if hit.negated:
            # `no_mmap: false` says "do not say --no-mmap", which is less than asking for --mmap.
            return False if read is True else None
        return read if is_meant(flag, read) else None
    items: object = value
    if isinstance(items, str) and flag.arity == "two" and len(items.split()) == 2:
        items = items.split()
    given = items if isinstance(items, list | tuple) else [items]
    read_items: list[Scalar] = [read_json(catalogue, flag, item) for item in given]
    if flag.arity == "two" and len(read_items) not in (0, 2):
        raise Unfit(f"takes two values, got {len(read_items)}")
    return read_items or None


def is_meant(flag: Flag, value: Value) -> bool:
    """False for the values that no command line can say: false where there is no negation, and no value to say it with."""
    return value is not False or bool(flag.negations) or flag.arity == "one"


def _extra(catalogue: Catalogue, raw: object, warnings: list[str]) -> dict[str, Value]:
    """extra_args as a list of words, or as llamactl's map from flag names to values. Raises Unfit."""
    words = _extra_words(raw)
    for word in words:
        if "\0" in word:
            raise Unfit("holds a NUL character, which no command line can carry")
        if word == "--" and catalogue.grammar == "argparse":
            raise Unfit("'--' cannot be set here: the server would not see the flags that the daemon puts behind it")
        hit = catalogue.by_word(word.partition("=")[0])
        if hit is None:
            continue
        if hit.flag.owned:
            raise Unfit(f"{word.partition('=')[0]!r} cannot be set here: {hit.flag.owned}")
        if hit.flag.secret:
            raise Unfit(
                f"{word.partition('=')[0]!r} would show a secret on the command line; give it as the option {hit.flag.key!r}"
            )
        warnings.append(f"{EXTRA}: {word.partition('=')[0]} is known; as the option {hit.flag.key!r} it would be checked")
    return {EXTRA: list[Scalar](words)} if words else {}


def _extra_words(raw: object) -> list[str]:
    if raw is None:
        return []
    if isinstance(raw, Mapping):
        return [word for name, value in raw.items() for word in _map_words(str(name), value)]
    if isinstance(raw, list | tuple) and all(isinstance(word, str) for word in raw):
        return list(raw)
    raise Unfit('takes a list of words, such as ["--new-flag", "value"]')


def _map_words(name: str, value: object) -> Iterator[str]:
    yield name if name.startswith("-") else f"--{name}"
    if not isinstance(value, str | int | float):
        raise Unfit(f"{name!r}: takes text")
    if value != "":
        yield write(value)


def owned_warning(flag: Flag) -> str:
    """Why an option that the daemon owns was left out."""
    return f"{flag.flag} was left out: {flag.owned}"


def cautions(catalogue: Catalogue, options: Mapping[str, Value]) -> Iterator[str]:
    """What the person should know about options that are kept all the same."""
    for key, value in options.items():
        if key == EXTRA:
            continue
        flag = catalogue.flags[key]
        if flag.warn and value is not False:
            yield f"{flag.flag} {flag.warn}"
        if flag.removed:
            since = f" ({flag.last_in} still took it)" if flag.last_in else ""
            yield f"newer {catalogue.program} refuses {flag.flag}{since}" + (f"; use {flag.instead}" if flag.instead else "")
        items = value if isinstance(value, list) else [value]
        if flag.choices and (odd := [write(item) for item in items if write(item) not in flag.choices]):
            known = ", ".join(flag.choices[:12]) + (", ..." if len(flag.choices) > 12 else "")
            yield f"{flag.flag}: {odd[0]!r} is none of {known}, the values of {catalogue.program} {catalogue.version}"
        if flag.type == "json" and not all(_is_json(write(item)) for item in items):
            yield f"{flag.flag}: the value is not JSON"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
