"""One option's value: read from a word of a command line or from JSON, and written back as a word.

Reading and writing are inverse: `read_word(flag, write(value)) == value` for every value that either reader gave.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal

from llamactl_py.backends.catalogue import Catalogue, Flag

Scalar = bool | int | float | str
Value = Scalar | list[Scalar]
"""A bool for a switch, a number or text, or a list of these. JSON options are kept as the text that the server is given."""

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
_WORDS = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
_ON = {
    "1": "on",
    "true": "on",
    "enabled": "on",
    "yes": "on",
    "0": "off",
    "false": "off",
    "disabled": "off",
    "no": "off",
    "-1": "auto",
}
"""llama.cpp's own words for its on|off|auto values."""


class Unfit(ValueError):
    """The value does not fit its flag; the text says why."""


def read_word(catalogue: Catalogue, flag: Flag, word: str) -> Scalar:
    """*word* as a value of *flag*. Raises Unfit."""
    match flag.type:
        case "bool":
            if (said := truth(word)) is None:
                raise Unfit(f"is a switch: true or false, got {word!r}")
            return said
        case "int":
            if not _INTEGER.fullmatch(word):
                raise Unfit(f"takes a whole number, got {word[:40]!r}")
            return int(word)
        case "float":
            if not NUMBER.fullmatch(word) or not math.isfinite(float(word)):
                raise Unfit(f"takes a number, got {word[:40]!r}")
            return float(word)
        case "int|str" if _INTEGER.fullmatch(word) and str(int(word)) == word:
            return int(word)
    return _text(catalogue, flag, word)


def read_json(catalogue: Catalogue, flag: Flag, raw: object) -> Scalar:
    """*raw*, out of a JSON document, as a value of *flag*. Raises Unfit.

    A number in quotes is a number where one is wanted, and a number is its digits where text is wanted.
    """
    if isinstance(raw, str):
        return read_word(catalogue, flag, raw)
    if flag.type == "json":
        return read_word(catalogue, flag, _json_text(raw))
    if flag.comma and isinstance(raw, list | tuple) and all(isinstance(item, str | int | float) for item in raw):
        return read_word(catalogue, flag, ",".join(map(write, raw)))
    if isinstance(raw, bool):
        if flag.type == "bool" or (flag.arity == "optional" and not flag.choices):
            return raw
        if "on" in flag.choices:
            return "on" if raw else "off"
        raise Unfit(f"takes {_noun(flag)}, got {json.dumps(raw)}")
    if isinstance(raw, int | float):
        if isinstance(raw, int) and raw.bit_length() > 100:
            raise Unfit(f"takes {_noun(flag)}, got a number of over 30 digits")
        is_whole = isinstance(raw, float) and raw.is_integer() and flag.type in ("int", "int|str")  # JavaScript writes 4096.0 so
        return read_word(catalogue, flag, write(int(raw) if is_whole else raw))
    raise Unfit(f"takes {_noun(flag)}, got {'an object' if isinstance(raw, Mapping) else 'a list'}")


def write(value: Scalar) -> str:
    """*value* as a word. Numbers in plain digits: not every server reads exponents."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and math.isfinite(value):
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    return str(value)


def truth(word: str) -> bool | None:
    """What a word says about a switch; None if nothing."""
    return _WORDS.get(word.lower())


def on_off(flag: Flag, word: str) -> str | None:
    """One of *flag*'s choices (on, off, auto) that *word* stands for; None when it is none of them."""
    lower = word.lower()
    said = lower if lower in flag.choices else _ON.get(lower)
    return said if said in flag.choices else None


def _text(catalogue: Catalogue, flag: Flag, word: str) -> str:
    if "\0" in word:
        raise Unfit("holds a NUL character, which no command line can carry")
    if catalogue.is_spelling(word):
        raise Unfit(f"takes {_noun(flag)}, got the flag {word!r}: was its value forgotten?")
    if flag.arity == "optional" and flag.choices:
        if (said := on_off(flag, word)) is None:
            raise Unfit(f"takes one of {', '.join(flag.choices)}, got {word[:40]!r}")
        return said
    if (flag.arity == "many" or flag.is_positional) and word.startswith("-") and catalogue.grammar == "argparse":
        raise Unfit(f"{word[:40]!r} begins with '-', so the server would read it as a flag")
    return word


def _json_text(raw: object) -> str:
    try:
        return json.dumps(raw, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise Unfit("takes JSON") from None


def _noun(flag: Flag) -> str:
    nouns = {"bool": "true or false", "int": "a whole number", "float": "a number", "json": "JSON", "path": "a path"}
    return nouns.get(flag.type, "a number or text" if flag.type == "int|str" else "text")
