"""llama-swap's file as plain values with the line of each, and its macros filled in (its version 250)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from llamactl_py.ground.errors import BadRequest

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_TEXT = 1 << 20
"""Characters that macros may make of one value: each may hold others several times."""

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
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        tree: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.value == "<<" and isinstance(key_node, yaml.ScalarNode):
                merged = _plain(value_node, f"{path}.<<", lines, left)
                for source in merged if isinstance(merged, list) else [merged]:
                    tree = {**source, **tree} if isinstance(source, dict) else tree
                continue
            below = f"{path}.{key_node.value}" if path else str(key_node.value)
            lines[below] = key_node.start_mark.line + 1
            tree[str(key_node.value)] = _plain(value_node, below, lines, left)
        return tree
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, f"{path}.{i}", lines, left) for i, item in enumerate(node.value)]
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError, yaml.YAMLError):
        return str(node.value)
    finally:
        loader.dispose()


def macros_of(tree: Mapping[str, Any]) -> Macros:
    """The macros that a section defines, in their order."""
    found = tree.get("macros")
    return list(found.items()) if isinstance(found, dict) else []


def of_model(model_id: str, everywhere: Sequence[tuple[str, Any]], own: Sequence[tuple[str, Any]]) -> Macros:
    """What holds inside a model: its own macros take the place of those for all."""
    merged = dict([("MODEL_ID", model_id), *everywhere])
    merged.update(own)
    return list(merged.items())


def fill(value: Any, macros: Macros) -> Any:
    """*value* with every macro filled in, the last one first: a macro may hold those defined before it. Raises BadRequest.

    Text that is one macro and nothing else takes its type. `${env.NAME}`, `${PORT}` and `${PID}` are left alone.
    """
    if isinstance(value, dict):
        return {key: fill(below, macros) for key, below in value.items()}
    if isinstance(value, list):
        return [fill(item, macros) for item in value]
    for name, filling in reversed(macros):
        if not isinstance(value, str):
            break
        reference = f"${{{name}}}"
        if value == reference:
            value = filling
        elif reference in value:
            value = value.replace(reference, _said(filling))
            if len(value) > MAX_TEXT:
                raise BadRequest(f"the macro {name!r} makes over {MAX_TEXT} characters of one value")
    return value


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
