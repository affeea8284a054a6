"""A configuration file as plain values, the line of each, and everything that is wrong with it as YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from msgspec import Struct

from llamactl_py.config.document import DECLARED, Document
from llamactl_py.config.expand import INSTANCE_WORDS, Expander
from llamactl_py.ground.errors import BadConfiguration, Problem
from llamactl_py.ground.readers import kind

MAX_FILE_BYTES = 1 << 18
MAX_DEPTH = 20
"""Settings nest 4 deep, options of instances a few more; YAML's scanner takes time with the square of the depth."""

_OPENING = (yaml.BlockMappingStartToken, yaml.BlockSequenceStartToken, yaml.FlowMappingStartToken, yaml.FlowSequenceStartToken)
_CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_INT = "tag:yaml.org,2002:int"
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_NO_ENVIRONMENT: Mapping[str, str] = {}


def read_yaml(file: Path, environ: Mapping[str, str] = _NO_ENVIRONMENT) -> Document:
    """Read *file*; `${VAR}` in its values is filled in from *environ*. Raises BadConfiguration when it cannot be read as YAML.

    What is wrong with single values (an unset variable, a key given twice, ...) is in the problems, all of it.
    """
    node = _compose(file, _text(file))
    reader = _Reader(Document(file), Expander(environ))
    tree = reader.plain(node, "") if node else None
    if tree is not None and not isinstance(tree, dict):
        raise _refused(file, 1, f"expected settings by name, got {kind(tree)}")
    reader.document.tree = tree or {}
    return reader.document


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise _refused(file, 0, f"is over {MAX_FILE_BYTES} bytes; that is no configuration file")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise _refused(file, 0, f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _refused(file, 0, "is not UTF-8 text") from None


def _compose(file: Path, text: str) -> yaml.Node | None:
    try:
        depth = 0
        for token in yaml.scan(text):
            depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
            line = token.start_mark.line + 1
            if depth > MAX_DEPTH:
                raise _refused(file, line, "is nested too deeply")
            if isinstance(token, yaml.AliasToken):  # a few nested ones expand to gigabytes
                raise _refused(file, line, f"YAML aliases (*{token.value}) are not supported; write the value out")
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        raise _refused(file, at, f"holds U+{error.character:04X}, a character that YAML does not allow") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"is not valid YAML: {getattr(error, 'problem', None) or error}"
        raise _refused(file, mark.line + 1 if mark else 0, what) from None


def _refused(file: Path, line: int, what: str) -> BadConfiguration:
    return BadConfiguration([Problem(f"{file}:{line}" if line else str(file), what)])


class _Reader(Struct):
    """Turns nodes into plain values; a value that has a problem is left out."""

    document: Document
    expander: Expander

    def plain(self, node: yaml.Node, path: str) -> Any:
        here = node.start_mark.line + 1
        self.document.lines.setdefault(path, here)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
            return self._problem(here, f"{path}: YAML tags ({node.tag.rpartition(':')[2]}) are not supported")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(item, f"{path}.{i}") for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        """Keys given twice are refused: one of the two would be lost silently."""
        tree: dict[str, Any] = {}
        keys: set[str] = set()
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value or not key_node.value.isprintable():
                self._problem(line, "a name is expected before the colon")
                continue
            key = str(key_node.value)
            if key in keys:
                self._problem(line, f"{key} is given twice")
                continue
            keys.add(key)
            below = f"{path}.{key}" if path else key
            self.document.lines[below] = line
            value = self.plain(value_node, below)
            if value is not None:  # nothing behind a colon, as when all below it is commented out: the default
                tree[key] = value
        return tree

    def _scalar(self, node: yaml.ScalarNode, path: str) -> Any:
        """With a variable in it, it is text, which its setting reads as it reads a variable's; empty means the default."""
        here = node.start_mark.line + 1
        try:
            expanded = self.expander.expand(node.value, INSTANCE_WORDS if path.startswith(f"{DECLARED}.") else frozenset())
        except ValueError as error:
            return self._problem(here, f"{path}: {error}")
        if expanded is not None:
            return None if expanded == "" and node.style is None else expanded
        loader = yaml.SafeLoader("")
        try:
            node.value.encode()  # "\ud800" is half a character, which nobody could even print
            if node.tag == _INT and not re.fullmatch(r"[-+]?(0|[1-9][0-9_]{0,30})", node.value):
                raise ValueError("YAML would read 010 as 8 and 1:30 as 90")
            return loader.construct_object(node)
        except (ValueError, LookupError, AttributeError, yaml.YAMLError):
            what = "a plain decimal number" if node.tag == _INT else node.tag.rpartition(":")[2]
            return self._problem(here, f"{path}: cannot be read as {what}; put it into quotes if text is meant")
        finally:
            loader.dispose()

    def _problem(self, line: int, what: str) -> None:
        self.document.problems.append(Problem(f"{self.document.file}:{line}", what))
