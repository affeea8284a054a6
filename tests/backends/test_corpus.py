"""Command lines as people write them, in `corpus/*.toml`: each becomes the options that stand beside it, and back again.

What is built again is compared with the line by `said`, which reads the words behind the program in its own simple way: a flag
and what follows it. Of the package it uses the names of the flags, and where the program ends.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from llamactl_py.backends import BACKENDS, Backend, parse_command
from llamactl_py.backends.executables import recognise
from llamactl_py.backends.lexer import split

FOLDER = Path(__file__).parent / "corpus"


def lines() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(FOLDER.glob("*.toml")):
        for line in tomllib.loads(file.read_text(encoding="utf-8"))["line"]:
            yield file.stem, line


LINES = list(lines())
each_line = pytest.mark.parametrize(
    ("kind", "line"), LINES, ids=[f"{kind}: {line['text'].strip()[:60]!r}" for kind, line in LINES]
)


def read(kind: str, line: dict[str, Any]) -> Any:
    return parse_command(line["text"], kind if line["text"].startswith("serve ") else None)


@each_line
def test_a_command_becomes_these_options(kind: str, line: dict[str, Any]) -> None:
    parsed = read(kind, line)
    override = list(parsed.command_override) if isinstance(parsed.command_override, tuple) else parsed.command_override
    assert parsed.backend_type == kind
    assert parsed.backend_options == line["options"]
    assert {name: type(value) for name, value in parsed.backend_options.items()} == {
        n: type(v) for n, v in line["options"].items()
    }
    assert parsed.environment == line.get("environment", {})
    assert override == line.get("override")
    assert parsed.docker == line.get("docker")
    assert [warning.split()[0].rstrip(":") for warning in parsed.warnings] == line.get("warned", [])


@each_line
def test_options_become_an_equivalent_command(kind: str, line: dict[str, Any]) -> None:
    backend, options = BACKENDS[kind], read(kind, line).backend_options
    assert backend.normalise(json.loads(json.dumps(options))).options == options
    built = backend.arguments(options)
    assert parse_command([*backend.command, *built]).backend_options == options
    assert said(backend, built) == said(backend, arguments(backend, line["text"]))


def test_there_are_enough_of_them() -> None:
    assert len({line["text"] for _, line in LINES}) == len(LINES) >= 300
    assert {kind for kind, _ in LINES} == {kind for kind, backend in BACKENDS.items() if not backend.takes_any_command}
    assert all(line["from"] for _, line in LINES)


# ---- another way of reading


def arguments(backend: Backend, text: str) -> list[str]:
    """The words behind the program."""
    return list(recognise(split(text).words, BACKENDS.values(), backend).arguments)


def said(backend: Backend, words: Sequence[str]) -> list[tuple[str, ...]]:
    """Each flag by its key, with the words behind it, sorted; without what the daemon owns, the last of two that contradict."""
    pieces: list[list[str]] = [["model?"]]
    for word in words:
        if word.startswith("-") and not word.lstrip("-").replace(".", "", 1).isdigit() and word != "-":
            name, equals, value = word.partition("=")
            pieces.append([name, value] if equals else [name])
        else:
            pieces[-1].append(word)
    found: dict[str, list[tuple[str, ...]]] = {}
    bare: list[str] = pieces[0][1:]
    for name, *values in pieces[1:]:
        hit = backend.catalogue.by_word(name)
        if name == "--":
            bare += values
            continue
        if hit is None:
            found.setdefault(name, []).append(tuple(values))
            continue
        takes = {"switch": 0, "one": 1, "optional": 1, "two": 2, "repeat": 1}.get(hit.flag.arity, len(values))
        if hit.flag.arity == "switch" and values[:1] in (["1"], ["false"]):
            values, hit = values[1:], type(hit)(hit.flag, negated=hit.negated or values[0] == "false")
        elif hit.flag.choices and hit.flag.arity == "optional" and not values:
            values = ["on"]
        bare += values[takes:]
        if not hit.flag.owned:
            values = [{"1": "true", "0": "false"}.get(v, v) for v in values] if hit.flag.type == "bool" else values
            told = tuple(map(plain, values[:takes])) or ("off" if hit.negated and hit.flag.negations else "on",)
            if told != ("off",) or hit.flag.negations:
                found[hit.flag.key] = [*(found.get(hit.flag.key, []) if hit.flag.arity == "repeat" else []), told]
    if bare and "model" not in found:
        found["model"] = [(bare.pop(0),)]
    rest = [("bare", word) for word in bare]
    return sorted(chain(((key, *told) for key, each in found.items() for told in each), rest))


def plain(word: str) -> str:
    """A number or a truth in one spelling."""
    if word.lower() in ("true", "false"):
        return word.lower()
    try:
        return f"{float(word):g}" if len(word) < 10 else word
    except ValueError:
        return word
