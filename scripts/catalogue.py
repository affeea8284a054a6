#!/usr/bin/env python3
"""Write the flag catalogue of one backend from its server's own --help text, or hold two help texts side by side.

    llama-server --help                 > help.txt;  catalogue.py write llama_cpp        help.txt --version 0.6.0-dev
    python3 -m llama_cpp.server --help  > help.txt;  catalogue.py write llama_cpp_python help.txt --version 0.3.36
    lmdeploy serve api_server --help    > help.txt;  catalogue.py write lmdeploy         help.txt --version 0.18.0
    mlx_lm.server --help                > help.txt;  catalogue.py write mlx_lm           help.txt --version 0.32.2
    sglang serve --help                 > help.txt;  catalogue.py write sglang           help.txt --version 0.5.23
    vllm serve --help=all               > help.txt;  catalogue.py write vllm             help.txt --version 0.32.0

    catalogue.py diff old-help.txt new-help.txt

The help text gives names, values, defaults and groups. What it cannot say (which flags may be repeated, which the daemon
decides, which are dangerous, which existed once) stands in catalogue.toml beside this script, so a new version of a server
needs its help text and nothing else.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llamactl_py.backends import infer
from llamactl_py.backends.helptext import LAYOUTS, Entry, positional_text

HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "llamactl_py" / "backends" / "data"


# --- From an entry to a row ------------------------------------------------------------------------------------------


def row(entry: Entry, facts: dict[str, Any]) -> dict[str, Any]:
    """One line of the catalogue. Members that have their usual value are left out."""
    long = [n for n in entry.spellings if n.startswith("--")] or entry.spellings
    preferred = [n for n in long if n[2:].replace("-", "_") in facts.get("prefer", ())]
    flag = (preferred or long)[0]
    key = re.sub(r"[-.]", "_", flag.lstrip("-"))
    key = facts.get("key", {}).get(key, key)
    arity = next((a for a in ("repeat", "two", "optional") if key in facts.get(a, ())), None) or infer.arity_of(entry)
    choices = infer.choices_of(entry)
    made = {
        "key": key,
        "flag": flag,
        "spellings": [*(n for n in entry.spellings if n != flag), *facts.get("also", {}).get(key, ())],
        "negations": sorted(entry.negations, key=lambda n: n != "--no-" + flag[2:]),
        "type": next((t for t in facts.get("types", {}) if key in facts["types"][t]), None)
        or infer.kind_of(entry, arity, choices),
        "arity": arity,
        "choices": choices,
        "comma": infer.is_comma_joined(entry),
        "default": facts.get("default", {}).get(key) or infer.default_of(entry.text),
        "env": facts.get("env", {}).get(key) or infer.environment_of(entry.text),
        "group": next((g for g, keys in facts.get("groups", {}).items() if key in keys), entry.group),
        "help": facts.get("help", {}).get(key) or infer.summary(entry.text),
        "secret": key in facts.get("secret", ()),
        "owned": facts.get("owned", {}).get(key, ""),
        "warn": facts.get("warn", {}).get(key) or infer.deprecation(entry.text),
    }
    made["unit"] = facts.get("unit", {}).get(key) or (infer.unit_of(key, entry.text) if made["type"] in ("int", "float") else "")
    if removed := re.match(r"the argument has been removed\. use (.*?)(?: \(env|$)", entry.text):
        made |= {"removed": True, "instead": removed[1]}
    return made


def positional_row(name: str, help_text: str) -> dict[str, Any]:
    """The model of a server that knows no flag for it."""
    return {
        "key": "model",
        "flag": "",
        "type": "str",
        "arity": "one",
        "group": "positional",
        "help": infer.summary(positional_text(help_text, name)),
    }


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
        "last_in": fact.get("last", ""),
        "historic": True,
        "instead": fact.get("instead", ""),
    }


# --- The file --------------------------------------------------------------------------------------------------------


def catalogue(backend: str, text: str, version: str) -> dict[str, Any]:
    """The whole catalogue of *backend*, sorted by key."""
    facts = tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8"))[backend]
    grammar = facts.get("grammar", "argparse")
    entries = list(_merged(LAYOUTS[grammar](text)))
    rows = [row(entry, facts) for entry in entries] + [removed_row(k, f) for k, f in facts.get("removed", {}).items()]
    rows += [positional_row(facts["positional"], text)] if "positional" in facts else []
    _check_facts(facts, {r["key"] for r in rows})
    return {
        "backend": backend,
        "program": facts["program"],
        "grammar": grammar,
        "version": version,
        "flags_in_help": len(entries),
        "spellings_in_help": sum(len(e.spellings) + len(e.negations) for e in entries),
        "flags": sorted(({k: v for k, v in r.items() if v not in ("", [], False)} for r in rows), key=lambda r: str(r["key"])),
    }


def _merged(entries: Iterable[Entry]) -> Iterator[Entry]:
    """One entry for a flag that the help prints in several groups, as lmdeploy's does for its two engines."""
    first: dict[str, Entry] = {}
    for entry in entries:
        known = first.setdefault(entry.spellings[0], entry)
        if known is not entry and entry.group not in known.group.split(" and "):
            known.group += f" and {entry.group}"
    yield from first.values()


def _check_facts(facts: dict[str, Any], keys: set[str]) -> None:
    """A fact about a flag that does not exist is a typing error, or tells that the flag went away."""
    named = ("prefer", "repeat", "two", "optional", "secret", "env", "owned", "warn", "help", "default", "unit", "also")
    lists: list[Iterable[str]] = [facts.get(name, ()) for name in named]
    lists += [*facts.get("types", {}).values(), *facts.get("groups", {}).values()]
    if unknown := sorted({key for names in lists for key in names} - keys):
        raise SystemExit(f"catalogue.toml speaks of flags that the help does not have: {', '.join(unknown)}")


def dumps(made: dict[str, Any]) -> str:
    """JSON with one flag a line, so that a diff shows what a new version changed."""
    head = {k: v for k, v in made.items() if k != "flags"}
    lines = ",\n".join(json.dumps(r, ensure_ascii=False) for r in made["flags"])
    return json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "flags": [\n' + lines + "\n]}\n"


# --- Two versions ----------------------------------------------------------------------------------------------------


def differences(old: str, new: str) -> Iterator[str]:
    """What the help text *new* has that *old* has not, the other way round, and what both say differently; a line each."""
    before, after = (flags_of(text) for text in (old, new))
    gone, come = ([k for k in a if k not in b] for a, b in ((before, after), (after, before)))
    renamed = {k: new_key for k in gone if (new_key := _new_name(before[k], after, come))}
    for key in gone:
        name = before[key]["flag"]
        yield f"renamed  {name} -> {after[renamed[key]]['flag']}" if key in renamed else f"removed  {name}"
    yield from (f"added    {_signature(after[key])}" for key in come if key not in renamed.values())
    for key in before.keys() & after.keys() | renamed.keys():
        yield from _changes(before[key], after[renamed.get(key, key)])


def flags_of(text: str) -> dict[str, dict[str, Any]]:
    """The rows of a help text by key; which layout it has, it tells itself."""
    grammar = "llama.cpp" if re.search(r"^----- .* -----$", text, re.MULTILINE) else "argparse"
    return {made["key"]: made for entry in _merged(LAYOUTS[grammar](text)) for made in [row(entry, {})]}


def _new_name(row: dict[str, Any], after: dict[str, dict[str, Any]], come: list[str]) -> str:
    """The key under which *row* lives on: one that took over a spelling, or that is described in the same words."""
    spelled = {row["flag"], *row.get("spellings", ())}
    for key, other in after.items():
        if spelled & {other["flag"], *other.get("spellings", ())}:
            return key
    same = [k for k in come if after[k]["help"] == row["help"] and after[k]["type"] == row["type"]]
    return same[0] if len(same) == 1 and row["help"] else ""


def _changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    for member in ("default", "type", "arity", "choices", "removed"):
        was, now = old.get(member), new.get(member)
        if was == now:
            continue
        if member == "choices" and was and now:
            less, more = ([c for c in a if c not in b] for a, b in ((was, now), (now, was)))
            yield f"changed  {new['flag']} choices:" + "".join(f" -{c}" for c in less) + "".join(f" +{c}" for c in more)
        else:
            yield f"changed  {new['flag']} {member}: {was or 'none'} -> {now or 'none'}"
    lost = sorted({*old.get("spellings", ())} - {new["flag"], *new.get("spellings", ())})
    yield from (f"removed  {spelling} (a spelling of {new['flag']})" for spelling in lost)


def _signature(row: dict[str, Any]) -> str:
    value = "" if row["type"] == "bool" and row["arity"] == "switch" else f" {row['type']}"
    return f"{row['flag']}{value}  {row.get('help', '')}".rstrip()


def _write(args: argparse.Namespace) -> None:
    made = catalogue(args.backend, args.help_text.read_text(encoding="utf-8"), args.version)
    out = args.out or DATA / f"{args.backend}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(dumps(made), encoding="utf-8")
    print(f"{out}: {made['flags_in_help']} flags, {made['spellings_in_help']} spellings")


def _diff(args: argparse.Namespace) -> None:
    for line in sorted(differences(args.old.read_text(encoding="utf-8"), args.new.read_text(encoding="utf-8"))):
        print(line)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    known = sorted(tomllib.loads((HERE / "catalogue.toml").read_text(encoding="utf-8")))
    write = commands.add_parser("write", help="write the catalogue of one backend")
    write.add_argument("backend", choices=known)
    write.add_argument("help_text", type=Path)
    write.add_argument("--version", required=True, help="the server's version, recorded in the file")
    write.add_argument("--out", type=Path, help="default: the package's own data file")
    write.set_defaults(run=_write)
    diff = commands.add_parser("diff", help="what two versions of a server do not have in common")
    diff.add_argument("old", type=Path)
    diff.add_argument("new", type=Path)
    diff.set_defaults(run=_diff)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
