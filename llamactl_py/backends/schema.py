"""The options of one backend as JSON Schema (2020-12): what forms, editors and completions are drawn from.

Beside the standard words each property has `x-flag`, `x-spellings`, `x-group`, `x-env`, `x-unit`, `x-default` (the server's own,
in its words) and `x-secret` where they apply, and `deprecated` where the installed server does not take it.
"""

from __future__ import annotations

from typing import Any

from llamactl_py.backends.arguments import EXTRA
from llamactl_py.backends.catalogue import Catalogue, Flag
from llamactl_py.backends.installed import HelpFlag, Installed

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_TYPES: dict[str, dict[str, Any]] = {
    "bool": {"type": "boolean"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "str": {"type": "string"},
    "path": {"type": "string", "x-path": True},
    "json": {"type": ["string", "object", "array"], "contentMediaType": "application/json"},
    "int|str": {"type": ["integer", "string"]},
}


def schema(title: str, catalogue: Catalogue, installed: Installed | None) -> dict[str, Any]:
    """The options that `backend_options` takes; narrowed to the *installed* version where that is known.

    What that version lacks stays, marked, as stored options may have it; what only it has is listed in `x-new-flags`, to be given
    in extra_args.
    """
    lacking = {flag.key for flag in installed.lacking} if installed else {flag.key for flag in catalogue if flag.removed}
    if installed:
        lacking |= {flag.key for flag in catalogue if flag.removed and not installed.takes(flag.flag)}
    flags = [flag for flag in catalogue if not flag.owned]
    made: dict[str, Any] = {
        "$schema": DIALECT,
        "title": f"Options of {title}",
        "type": "object",
        "x-program": catalogue.program,
        "x-version": (installed.version if installed else "") or catalogue.version,
        "x-is-installed-version": installed is not None,
        "x-groups": list(dict.fromkeys(flag.group for flag in flags if flag.group)),
        "properties": {flag.key: _property(flag, flag.key in lacking) for flag in flags},
        "additionalProperties": False,
    }
    made["properties"][EXTRA] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "Words that the catalogue does not know, passed on as they are and in this order.",
    }
    if installed and installed.new:
        made["x-new-flags"] = [_new(flag) for flag in installed.new]
    return made


def _property(flag: Flag, is_lacking: bool) -> dict[str, Any]:
    one: dict[str, Any] = dict(_TYPES[flag.type])
    if flag.choices:
        one = {"type": one["type"], "enum": [int(c) if flag.type == "int" else c for c in flag.choices]}
    if flag.takes_list:
        one = {"type": "array", "items": one}
        if flag.arity == "two":
            one |= {"minItems": 2, "maxItems": 2}
    elif flag.arity == "optional":
        one = {"anyOf": [{"type": "boolean"}, one]}
    extras = {
        "description": flag.help,
        "x-flag": flag.flag,
        "x-spellings": [*flag.spellings, *flag.negations],
        "x-group": flag.group,
        "x-env": flag.env,
        "x-unit": getattr(flag, "unit", ""),
        "x-default": flag.default,
        "x-warning": flag.warn,
        "x-secret": flag.secret,
        "writeOnly": flag.secret,
        "deprecated": is_lacking,
        "x-instead": flag.instead if is_lacking else "",
    }
    return one | {name: value for name, value in extras.items() if value}


def _new(flag: HelpFlag) -> dict[str, Any]:
    return {"spellings": list(flag.spellings), "description": flag.help[:200]}
