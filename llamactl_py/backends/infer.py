"""What one flag's entry in a help text says: how many values, of which type, in which unit, and what it is when it is not given.

Guesses, from the way in which servers write their help. Where a guess is wrong for a known server, `scripts/catalogue.toml` says
what is right; for a flag that nobody looked at yet a guess is better than nothing.
"""

from __future__ import annotations

import re

from llamactl_py.backends.catalogue import Arity, Kind
from llamactl_py.backends.helptext import Entry

HELP_LENGTH = 150
"""Characters of help that are kept per flag; the server's --help has the rest."""


def arity_of(entry: Entry) -> Arity:
    """How many values it takes, as its placeholder shows."""
    if not entry.metavar:
        return "switch"
    if entry.metavar.endswith(" ...]"):  # `X [X ...]` takes one or more; `[X ...]` takes none too, which says nothing
        return "many"
    return "optional" if re.fullmatch(r"\[[A-Z_]+\]", entry.metavar) else "one"


def choices_of(entry: Entry) -> list[str]:
    """`{a,b}` and `[a|b]` list all values; `['a', 'b']` and `{a,b} or name ...` are open lists, and so no choices."""
    if braces := re.fullmatch(r"\[?\{([^{}]+)\}(?: \[\{.*\} \.\.\.\]| \.\.\.\])?", entry.metavar):
        return braces[1].split(",")
    if bars := re.fullmatch(r"[<\[]([\w-]+(?:\|[\w-]+)+)[>\]]", entry.metavar):
        return bars[1].split("|")
    if allowed := re.search(r"allowed values: ((?:\w+, )+\w+)", entry.text):
        return allowed[1].split(", ")
    listed = [found[1] for line in entry.lines if (found := re.match(r"- ([a-z][\w+-]*): ", line.strip()))]
    if len(listed) < 2:
        return []
    default = default_of(entry.text)
    return [*([default] if re.fullmatch(r"[a-z]+", default) and default not in listed else []), *listed]


_NAMED: dict[str, Kind] = {"int": "int", "float": "float", "str": "str", "loads": "json"}
_METAVAR_TYPES: dict[Kind, set[str]] = {
    "int": {"SEED", "INDEX", "PORT", "SECONDS", "<0...100>"},
    "float": {"P", "L", "SIMILARITY"},
    "path": {"FNAME", "FILE", "PATH", "DIR", "JINJA_TEMPLATE_FILE"},
    "json": {"JSON", "SCHEMA"},
}


def kind_of(entry: Entry, arity: str, choices: list[str]) -> Kind:
    """The type of its values, by what the placeholder, the description and the default look like."""
    if arity == "switch":
        return "bool"
    if choices and all(re.fullmatch(r"-?\d+", c) for c in choices):
        return "int"
    if typed := re.search(r"\. Type: (int|float|str|loads)$", entry.text):  # lmdeploy's formatter tells
        return _NAMED[typed[1]]
    for kind, metavars in _METAVAR_TYPES.items():
        if entry.metavar in metavars:
            return kind
    if "a valid JSON string" in entry.text or "JSON formatted string" in entry.text:
        return "json"
    default = default_of(entry.text)
    if not choices and default in ("True", "False"):
        return "bool"
    if not choices and (number := re.match(r"-?\d+(\.\d+)?(?![\w.])", default)):
        return "float" if number[1] else "int"
    named = entry.spellings[0]
    if not choices and re.search(r"[_-](path|file|dir|folder)$", named) and named != "--model-path":
        return "path"
    return "int" if entry.metavar == "N" else "str"


def default_of(text: str) -> str:
    """The server's own default, as its help words it."""
    told = re.search(r"Default: (.*?)(?:\. Type: \w+)?$", text)
    found = [told[1]] if told and ". " not in told[1] else []
    found = found or re.findall(r"\(default: ((?:[^()]|\([^()]*\))*)\)", text) or re.findall(r"[Dd]efault: ([^().]+)", text)
    value = found[-1].strip().strip("'") if found else ""
    is_noise = value in ("None", "unused", '""') or re.match(r"[A-Z]\w+\(", value)  # a repr says nothing to a person
    return "" if is_noise else value[:60]


_UNITS = {
    "milliseconds": r"milliseconds|\bin ms\b|\(ms\)",
    "seconds": r"seconds",
    "minutes": r"in minutes",
    "GiB": r"\bG(i?)B\b",
    "MiB": r"\bM(i?)B\b",
    "bytes": r"in bytes|bytes per|number of bytes",
    "tokens": r"(number|amount) of (\w+ )?tokens|in tokens|tokens to (predict|keep|generate)",
    "requests": r"number of (\w+ )?requests",
    "threads": r"number of (\w+ )*threads",
    "layers": r"number of (\w+ )*layers",
}
_UNIT_NAMES = {
    "ms": "milliseconds",
    "seconds": "seconds",
    "secs": "seconds",
    "gb": "GiB",
    "mb": "MiB",
    "bytes": "bytes",
    "tokens": "tokens",
}


def unit_of(key: str, text: str) -> str:
    """What a number counts, where its name or its description says so."""
    named = _UNIT_NAMES.get(key.rpartition("_")[2])
    said = re.split(r"(?<=[a-z\])])\. (?=[A-Z])", text)[0]
    return named or next((unit for unit, words in _UNITS.items() if re.search(words, said)), "")


def deprecation(text: str) -> str:
    """What a description that begins with its flag's end says."""
    found = re.match(r"\(?[Dd]eprecated[.:,]? ?((?:[^().]|\.(?! ))*)\.?\)?", text) or re.search(r"\(DEPRECATED()\)", text)
    if not found:
        return ""
    return "is deprecated" + (f": {found[1][0].lower()}{found[1][1:].strip()}" if found[1] else "")


def is_comma_joined(entry: Entry) -> bool:
    """True where one word holds several values, with commas between them."""
    said = re.search(r"comma[- ](?:separated|delimited)|separated by commas?", entry.text, re.IGNORECASE)
    return bool(said or re.match(r"<?\w+,\w", entry.metavar))


def environment_of(text: str) -> str:
    """The variable that the server reads instead."""
    named = re.search(r"\(env: (\w+)\)", text)
    return named[1] if named else ""


def summary(text: str) -> str:
    """The first sentence of a description."""
    text = re.sub(r"\s*\((?:default|env): (?:[^()]|\([^()]*\))*\)", "", text)
    text = re.sub(r"\s*\[\((?:more info|card)\)\]\(\S+\)", "", text)
    text = re.split(r"(?<=[a-z\])])\. (?=[A-Z])", text)[0].strip().rstrip(".")
    return text if len(text) <= HELP_LENGTH else text[:HELP_LENGTH].rsplit(" ", 1)[0] + " ..."
