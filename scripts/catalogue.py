#!/usr/bin/env python3
"""Write the flag catalogue of one backend from its server's own --help text.

    llama-server --help                 > help.txt;  python scripts/catalogue.py llama_cpp        help.txt --version 0.6.0-dev
    python3 -m llama_cpp.server --help  > help.txt;  python scripts/catalogue.py llama_cpp_python help.txt --version 0.3.36
    mlx_lm.server --help                > help.txt;  python scripts/catalogue.py mlx_lm           help.txt --version 0.32.2
    vllm serve --help=all               > help.txt;  python scripts/catalogue.py vllm             help.txt --version 0.32.0

The help text gives names, values, defaults and groups. What it cannot say (which flags may be repeated, which the daemon
decides, which are dangerous, which existed once) stands in catalogue.toml beside this script. Only the stdlib is used.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "llamactl_py" / "backends" / "data"
HELP_LENGTH = 150
"""One line of help is kept per flag; the server's --help has the rest."""


@dataclass
class Entry:
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


# --- The two layouts -------------------------------------------------------------------------------------------------


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
        if re.fullmatch(r"[A-Za-z]\w*:", line):
            group = line[:-1]
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


LAYOUTS = {
    "llama_cpp": llama_entries,
    "llama_cpp_python": argparse_entries,
    "mlx_lm": argparse_entries,
    "vllm": argparse_entries,
}


# --- From an entry to a row ------------------------------------------------------------------------------------------


def row(entry: Entry, facts: dict[str, Any]) -> dict[str, Any]:
    """One line of the catalogue. Members that have their usual value are left out."""
    long = [n for n in entry.spellings if n.startswith("--")] or entry.spellings
    preferred = [n for n in long if n[2:].replace("-", "_") in facts.get("prefer", ())]
    flag = (preferred or long)[0]
    key = re.sub(r"[-.]", "_", flag.lstrip("-"))
    arity = next((a for a in ("repeat", "two", "optional") if key in facts.get(a, ())), None) or _arity(entry)
    choices = _choices(entry)
    made = {
        "key": key,
        "flag": flag,
        "spellings": [n for n in entry.spellings if n != flag],
        "negations": sorted(entry.negations, key=lambda n: n != "--no-" + flag[2:]),
        "type": next((t for t in facts.get("types", {}) if key in facts["types"][t]), None) or _type(entry, arity, choices),
        "arity": arity,
        "choices": choices,
        "default": facts.get("default", {}).get(key) or _default(entry.text),
        "env": facts.get("env", {}).get(key) or _environment(entry.text),
        "group": entry.group,
        "help": facts.get("help", {}).get(key) or _help(entry.text),
        "secret": key in facts.get("secret", ()),
        "owned": facts.get("owned", {}).get(key, ""),
        "warn": facts.get("warn", {}).get(key, ""),
    }
    if removed := re.match(r"the argument has been removed\. use (.*?)(?: \(env|$)", entry.text):
        made |= {"removed": True, "instead": removed[1]}
    return made


def removed_row(key: str, fact: dict[str, Any]) -> dict[str, Any]:
    """A flag of an older server that today's help does not print any more."""
    kind = fact.get("type", "str")
    return {
        "key": key,
        "flag": fact.get("flag", "--" + key.replace("_", "-")),
        "spellings": fact.get("spellings", []),
        "negations": fact.get("negations", []),
        "type": kind,
        "arity": fact.get("arity", "switch" if kind == "bool" else "one"),
        "group": "removed",
        "help": fact.get("help", ""),
        "removed": True,
        "historic": True,
        "instead": fact.get("instead", ""),
    }


def _arity(entry: Entry) -> str:
    if not entry.metavar:
        return "switch"
    if entry.metavar.endswith(" ...]"):  # `X [X ...]` takes one or more; `[X ...]` takes none too, which says nothing
        return "many"
    return "optional" if re.fullmatch(r"\[[A-Z_]+\]", entry.metavar) else "one"


def _choices(entry: Entry) -> list[str]:
    """`{a,b}` and `[a|b]` list all values; `['a', 'b']` and `{a,b} or name ...` are open lists, and so no choices."""
    if braces := re.fullmatch(r"\{([^{}]+)\}(?: \[\{.*\} \.\.\.\])?", entry.metavar):
        return braces[1].split(",")
    if bars := re.fullmatch(r"[<\[]([\w-]+(?:\|[\w-]+)+)[>\]]", entry.metavar):
        return bars[1].split("|")
    allowed = re.search(r"allowed values: ((?:\w+, )+\w+)", entry.text)
    return allowed[1].split(", ") if allowed else []


_METAVAR_TYPES = {
    "int": {"SEED", "INDEX", "PORT", "SECONDS", "<0...100>"},
    "float": {"P", "L", "SIMILARITY"},
    "path": {"FNAME", "FILE", "PATH", "DIR", "JINJA_TEMPLATE_FILE"},
    "json": {"JSON", "SCHEMA"},
}


def _type(entry: Entry, arity: str, choices: list[str]) -> str:
    if arity == "switch":
        return "bool"
    if choices and all(re.fullmatch(r"-?\d+", c) for c in choices):
        return "int"
    for kind, metavars in _METAVAR_TYPES.items():
        if entry.metavar in metavars:
            return kind
    if "a valid JSON string" in entry.text or "JSON formatted string" in entry.text:
        return "json"
    default = _default(entry.text)
    if not choices and default in ("True", "False"):
        return "bool"
    if not choices and (number := re.match(r"-?\d+(\.\d+)?(?![\w.])", default)):
        return "float" if number[1] else "int"
    return "int" if entry.metavar == "N" else "str"


def _default(text: str) -> str:
    """The server's own default, as its help words it."""
    found = re.findall(r"\(default: ((?:[^()]|\([^()]*\))*)\)", text) or re.findall(r"[Dd]efault: ([^().]+)", text)
    value = found[-1].strip().strip("'") if found else ""
    is_noise = value in ("None", "unused", '""') or re.match(r"[A-Z]\w+\(", value)  # a repr says nothing to a person
    return "" if is_noise else value[:60]


def _environment(text: str) -> str:
    named = re.search(r"\(env: (\w+)\)", text)
    return named[1] if named else ""


def _help(text: str) -> str:
    text = re.sub(r"\s*\((?:default|env): (?:[^()]|\([^()]*\))*\)", "", text)
    text = re.sub(r"\s*\[\((?:more info|card)\)\]\(\S+\)", "", text)
    text = re.split(r"(?<=[a-z\])])\. (?=[A-Z])", text)[0].strip().rstrip(".")
    return text if len(text) <= HELP_LENGTH else text[:HELP_LENGTH].rsplit(" ", 1)[0] + " ..."


# --- The file --------------------------------------------------------------------------------------------------------


def catalogue(backend: str, text: str, version: str) -> dict[str, Any]:
    """The whole catalogue of *backend*, sorted by key."""
    facts = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))[backend]
    entries = list(LAYOUTS[backend](text))
    rows = [row(entry, facts) for entry in entries] + [removed_row(k, f) for k, f in facts.get("removed", {}).items()]
    _check_facts(facts, {r["key"] for r in rows})
    return {
        "backend": backend,
        "program": facts["program"],
        "grammar": "argparse" if LAYOUTS[backend] is argparse_entries else "llama.cpp",
        "version": version,
        "flags_in_help": len(entries),
        "spellings_in_help": sum(len(e.spellings) + len(e.negations) for e in entries),
        "flags": sorted(({k: v for k, v in r.items() if v not in ("", [], False)} for r in rows), key=lambda r: str(r["key"])),
    }


def _check_facts(facts: dict[str, Any], keys: set[str]) -> None:
    """A fact about a flag that does not exist is a typing error, or tells that the flag went away."""
    named = ("prefer", "repeat", "two", "optional", "secret", "env", "owned", "warn", "help", "default")
    lists: list[Iterable[str]] = [facts.get(name, ()) for name in named]
    lists += facts.get("types", {}).values()
    if unknown := sorted({key for names in lists for key in names} - keys):
        raise SystemExit(f"catalogue.toml speaks of flags that the help does not have: {', '.join(unknown)}")


def dumps(made: dict[str, Any]) -> str:
    """JSON with one flag a line, so that a diff shows what a new version changed."""
    head = {k: v for k, v in made.items() if k != "flags"}
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in made["flags"])
    return json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "flags": [\n' + lines + "\n]}\n"


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=sorted(LAYOUTS))
    parser.add_argument("help_text", type=Path)
    parser.add_argument("--version", required=True, help="the server's version, recorded in the file")
    parser.add_argument("--out", type=Path, help="default: the package's own data file")
    args = parser.parse_args()
    made = catalogue(args.backend, args.help_text.read_text(encoding="utf-8"), args.version)
    out = args.out or DATA / f"{args.backend}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(dumps(made), encoding="utf-8")
    print(f"{out}: {made['flags_in_help']} flags, {made['spellings_in_help']} spellings")


if __name__ == "__main__":
    main()
