"""The configuration file as a JSON Schema (2020-12), for editors: they complete keys, show what they mean, and mark mistakes.

It is a little more lenient than the daemon: `${VAR}` may stand for any value, and options of servers are not looked into.
"""

from __future__ import annotations

from collections.abc import Mapping

from llamactl_py.config import legacy
from llamactl_py.config.document import DECLARED
from llamactl_py.config.settings import Settings
from llamactl_py.config.variables import variables
from llamactl_py.ground.json_schema import Schema, schemas
from llamactl_py.instances.declared import COMMAND
from llamactl_py.instances.options import InstanceOptions

_DEFINITION = "#/$defs/{}"
_REFERENCE: Schema = {"type": "string", "pattern": r"\$\{"}
_ABOUT = ("title", "description", "default", "deprecated", "examples")


def schema() -> Schema:
    """The whole document."""
    definitions = {name: _lenient(one) for name, one in schemas([Settings], _DEFINITION).items()}
    document = definitions.pop(Settings.__name__)
    for name, variable in variables():
        if not name.startswith("backends."):  # theirs have one for each kind
            *above, last = name.split(".")
            at = _at(document, definitions, above)
            if at:
                at["properties"][last]["description"] += f" Variable: {variable}."
    for key, instead in legacy.KEYS.items():
        _deprecate(document, definitions, key.split("."), instead)
    entry = _entry()
    definitions |= entry.pop("$defs", {})
    document["properties"][DECLARED] = {
        "description": "Instances that this file declares, by name.",
        "anyOf": [{"type": "object", "additionalProperties": entry}, {"type": "null"}],
    }
    document["properties"]["data_dir"].pop("default", None)  # it depends on the machine
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "title": "Configuration of llamactl",
        "description": "What each setting means: apidocs/configuration.md",
        "$defs": definitions,
    }


def _entry() -> Schema:
    """A declared instance: a command line, or options, or both."""
    definitions = {name: _lenient(one) for name, one in schemas([InstanceOptions], _DEFINITION).items()}
    options = definitions.pop(InstanceOptions.__name__)
    options.pop("required", None)  # the command says some, the settings the others
    line = {"type": "string", "description": "The command line that starts the server, as one would paste it."}
    words = {"type": "array", "items": {"type": "string"}, "description": "Its words."}
    options["properties"] = {COMMAND: {"anyOf": [line, words], "description": line["description"]}, **options["properties"]}
    options["anyOf"] = [{"required": [COMMAND]}, {"required": ["backend_type"]}]
    options |= {"title": "Declared instance", "description": "Its command line, its options, or both."}
    return {"anyOf": [line, options], "$defs": definitions}


def _deprecate(document: Schema, definitions: Mapping[str, Schema], steps: list[str], instead: str) -> None:
    """llamactl's keys are understood; an editor strikes them out."""
    *above, last = steps
    at = _at(document, definitions, above)
    if at and last not in at["properties"]:
        at["properties"][last] = {"deprecated": True, "description": f"Not used: {instead}."}


def _at(document: Schema, definitions: Mapping[str, Schema], steps: list[str]) -> Schema | None:
    """The section that *steps* lead to, if there is one; `*` is any name."""
    at: Schema | None = document
    for step in steps:
        below = at["properties"] if at else {}
        found = next(iter(below.values()), None) if step == "*" else below.get(step)
        at = definitions.get(_reference(found).rpartition("/")[2]) if found else None
    return at


def _reference(schema: Schema) -> str:
    found: str = next(one["$ref"] for one in (schema, *schema.get("anyOf", ())) if "$ref" in one)
    return found


def _lenient(node: Schema) -> Schema:
    """*node* with `${VAR}` allowed wherever a value may stand, and nothing at all where a section may."""
    node = dict(node)
    if "properties" in node:
        node["properties"] = {name: _value(_lenient(one)) for name, one in node["properties"].items()}
    if isinstance(node.get("items"), dict):
        node["items"] = _value(_lenient(node["items"]))
    if "prefixItems" in node:
        node["prefixItems"] = [_value(_lenient(one)) for one in node["prefixItems"]]
    return node


def _value(node: Schema) -> Schema:
    about = {name: node.pop(name) for name in _ABOUT if name in node}
    if "$ref" in node:
        about.pop("default", None)
        return {**about, "anyOf": [node, {"type": "null"}]}
    if node.get("type") in ("object", "array") or node == {"type": "string"}:
        return {**about, **node}
    return {**about, "anyOf": [*node.pop("anyOf", [node]), _REFERENCE]}
