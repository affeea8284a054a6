"""llama-swap's file as plain values with the line of each, and its macros filled in (its version 250)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llamactl_py.ground.errors import BadRequest

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_PATH = 1000
"""Characters of a dotted name: each value's is kept, with the line."""
MAX_TEXT = 1 << 20
"""Characters that macros may make of one file: each may hold others several times."""
MAX_MACROS = 1000
"""Each is looked for in every value."""

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

Macros = list[tuple[str, Any]]


def load(text: str) -> tuple[dict[str, Any], dict[str, int]]:
    """The file's tree, and the line of each dotted name. Raises BadRequest.

    Anchors and aliases are followed, as far as they stay within MAX_NODES.
    """
    if len(text) > MAX_BYTES:
        raise BadRequest(f"the file is over {MAX_BYTES} bytes; that is no configuration file")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        tree = _plain(node, "", lines, [MAX_NODES]) if node else None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise BadRequest(f"{where}not valid YAML: {getattr(error, 'problem', None) or 'nested too deeply'}") from None
    if not isinstance(tree, dict):
        raise BadRequest("this is no configuration file: no names stand in it")
    return tree, lines


def _plain(node: yaml.Node, path: str, lines: dict[str, int], left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise BadRequest(f"the file comes to over {MAX_NODES} values, aliases counted")
    if len(path) > MAX_PATH:
        raise BadRequest(
            f"line {node.start_mark.line + 1}: a name of over {MAX_PATH} characters, or nested as deeply; shorten it"
        )
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, lines, left)
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}.{i}", lines, left) for i, item in enumerate(node.value)]
    return _scalar(node)


def _mapping(node: yaml.MappingNode, path: str, lines: dict[str, int], left: list[int]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):  # whose text would have every alias in it written out
            raise BadRequest(f"line {line}: a name is expected before the colon, got a list or an object; write it as text")
        key = str(key_node.value)
        if key == "<<":
            merged = _plain(value_node, f"{path}.<<", lines, left)
            for source in merged if isinstance(merged, list) else [merged]:
                for name, value in source.items() if isinstance(source, dict) else ():
                    tree.setdefault(name, value)
            continue
        below = f"{path}.{key}" if path else key
        value = _plain(value_node, below, lines, left)
        lines[below], tree[key] = line, value
    return tree


def _scalar(node: yaml.Node) -> Any:
    """1:30 is text, as it is to llama-swap, and not 90 as in YAML 1.1; reading a long one takes time with its square."""
    if node.tag in _NUMBERS and (":" in node.value or len(node.value) > 40):
        return str(node.value)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError, yaml.YAMLError):
        return str(node.value)
    finally:
        loader.dispose()


def macros_of(tree: Mapping[str, Any]) -> Macros:
    """The macros that a section defines, in their order. Raises BadRequest for more than MAX_MACROS."""
    found = tree.get("macros")
    if isinstance(found, dict) and len(found) > MAX_MACROS:
        raise BadRequest(f"macros: {len(found)} of them, more than {MAX_MACROS}; remove those that are not used")
    return list(found.items()) if isinstance(found, dict) else []


def of_model(model_id: str, everywhere: Sequence[tuple[str, Any]], own: Sequence[tuple[str, Any]]) -> Macros:
    """What holds inside a model: its own macros take the place of those for all."""
    merged = dict([("MODEL_ID", model_id), *everywhere])
    merged.update(own)
    return list(merged.items())


def fill(value: Any, macros: Macros, left: list[int]) -> Any:
    """*value* with every macro filled in, the last one first: a macro may hold those defined before it. Raises BadRequest.

    Text that is one macro and nothing else takes its type. `${env.NAME}`, `${PORT}` and `${PID}` are left alone.
    *left* has how many characters macros may still make, of MAX_TEXT.
    """
    if isinstance(value, dict):
        return {key: fill(below, macros, left) for key, below in value.items()}
    if isinstance(value, list):
        return [fill(item, macros, left) for item in value]
    for name, filling in reversed(macros):
        if not isinstance(value, str):
            break
        reference = f"${{{name}}}"
        if not (times := value.count(reference)):
            continue
        said = _said(filling)
        left[0] -= times * len(said)
        if left[0] < 0:
            raise BadRequest(f"the macro {name[:60]!r} makes over {MAX_TEXT} characters of the file; write the text out")
        value = filling if value == reference else value.replace(reference, said)
    return value


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
