"""Where settings come from: defaults < YAML file < LLAMACTL_* variables < command line.

Whatever is wrong refuses the start in one message that names the file and line, the variable, or the flag: a daemon that
half understood its configuration would run on defaults that nobody chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from llamactl_py.config.settings import Settings
from llamactl_py.ground.errors import BadConfiguration, Invalid, Problem, nearest
from llamactl_py.ground.validation import kind, parse

MAX_FILE_BYTES = 65_536
MAX_DEPTH = 20
"""Settings nest 4 deep; YAML's scanner takes time with the square of the depth."""

_OPENING = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_INT = "tag:yaml.org,2002:int"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Settings:
    """The settings. *flags* maps dotted names ('server.port') to values given on the command line. Raises BadConfiguration."""
    layers: dict[str, str] = {}  # dotted name -> who said it, for the message
    tree: dict[str, Any] = {}
    lines: dict[str, int] = {}
    if file:
        tree, lines = read_yaml(file)
    for name, variable in variables():
        if environ.get(variable):
            _put(tree, name, _from_text(name, environ[variable]))
            layers[name] = f"environment variable {variable}"
    for name, value in flags.items():
        if value is not None:
            _put(tree, name, value)
            layers[name] = f"--{name.rpartition('.')[2].replace('_', '-')}"
    unknown = [v for v in environ if v.startswith("LLAMACTL_") and v not in KNOWN_VARIABLES]
    if unknown:
        raise BadConfiguration(
            "; ".join(f"environment variable {v}: unknown{nearest(v, KNOWN_VARIABLES)}" for v in sorted(unknown))
        )
    try:
        return parse(Settings, tree)
    except Invalid as error:
        raise BadConfiguration("; ".join(_located(p, layers, file, lines) for p in error.problems)) from None


def _located(problem: Problem, layers: Mapping[str, str], file: Path | None, lines: Mapping[str, int]) -> str:
    where = problem.where
    while where:
        if where in layers:
            return f"{layers[where]}: {problem.what}"
        if where in lines:
            return f"{file}:{lines[where]}: {problem}"
        where = where.rpartition(".")[0]
    return str(problem)


def variables(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted setting, environment variable) of every setting that has one."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from variables(inner, f"{prefix}{field.alias or name}.")
        elif isinstance(field.json_schema_extra, dict) and isinstance(variable := field.json_schema_extra.get("env"), str):
            yield prefix + name, variable


OTHER_VARIABLES = (
    "LLAMACTL_CONFIG_PATH",
    "LLAMACTL_URL",
    "LLAMACTL_API_KEY",
    "LLAMACTL_TEST_LLAMA_SERVER",
    "LLAMACTL_TEST_ROUND_TRIPS",
    "LLAMACTL_SPAWN",
)
"""Ours, but not settings: where the file is, and what the command line client and the test suite use."""

KNOWN_VARIABLES = frozenset((*(v for _, v in variables()), *OTHER_VARIABLES))

_LISTS = {"server.allowed_hosts", "auth.management_keys"}


def _from_text(name: str, text: str) -> object:
    """A variable's text as its setting's type: lists are split at commas, a port range also at '-'; the rest pydantic reads."""
    if name == "instances.port_range":
        return text.replace("-", ",").split(",")
    if name in _LISTS:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _put(tree: dict[str, Any], name: str, value: object) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        below = tree.setdefault(parent, {})
        if not isinstance(below, dict):
            return  # the file is wrong there, which `parse` will tell
        tree = below
    tree[last] = value


def read_yaml(file: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's tree, and the line of each dotted name. Raises BadConfiguration (unreadable, not YAML, a key given twice)."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise BadConfiguration(f"{file}: is over {MAX_FILE_BYTES} bytes; that is no configuration file")
        text = data.decode("utf-8-sig")
        depth = 0
        for token in yaml.scan(text):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            if depth > MAX_DEPTH:
                raise BadConfiguration(f"{file}:{token.start_mark.line + 1}: is nested too deeply")
            if isinstance(token, yaml.AliasToken):  # a few nested ones expand to gigabytes
                raise BadConfiguration(
                    f"{file}:{token.start_mark.line + 1}: YAML aliases (*{token.value}) are not supported; write the value out"
                )
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise BadConfiguration(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadConfiguration(f"{file}: is not UTF-8 text") from None
    except yaml.reader.ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        raise BadConfiguration(f"{file}:{at}: holds U+{error.character:04X}, a character that YAML does not allow") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise BadConfiguration(f"{file}{line}: is not valid YAML: {getattr(error, 'problem', None) or error}") from None
    lines: dict[str, int] = {}
    tree = _plain(node, "", lines, file) if node else None
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise BadConfiguration(f"{file}:1: expected settings by name, got {kind(tree)}")
    return tree, lines


def _plain(node: yaml.Node, path: str, lines: dict[str, int], file: Path) -> Any:
    """A YAML node as plain values, noting lines and refusing duplicate keys: one of the two would be lost silently."""
    here = node.start_mark.line + 1
    lines.setdefault(path, here)
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise BadConfiguration(f"{file}:{here}: {path}: YAML tags ({node.tag.rpartition(':')[2]}) are not supported")
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value or not key_node.value.isprintable():
                raise BadConfiguration(f"{file}:{line}: a name is expected before the colon")
            key = str(key_node.value)
            below = f"{path}.{key}" if path else key
            if below in lines:
                raise BadConfiguration(f"{file}:{line}: {key} is given twice")
            lines[below] = line
            value = _plain(value_node, below, lines, file)
            if value is not None:  # nothing behind a colon, as when all below it is commented out: the default
                tree[key] = value
        return tree
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}.{i}", lines, file) for i, item in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    try:
        node.value.encode()  # "\ud800" is half a character, which nobody could even print
        if node.tag == _INT and not re.fullmatch(r"[-+]?(0|[1-9][0-9_]{0,30})", node.value):
            raise ValueError("YAML would read 010 as 8 and 1:30 as 90")
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError, yaml.YAMLError):
        what = "a plain decimal number" if node.tag == _INT else node.tag.rpartition(":")[2]
        raise BadConfiguration(f"{file}:{here}: {path}: cannot be read as {what}; put it into quotes if text is meant") from None
    finally:
        loader.dispose()
