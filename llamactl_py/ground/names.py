"""Names, checked once at the edge: inside, an `InstanceName` is known to be harmless in paths, URLs, logs and command lines."""

from __future__ import annotations

import re
from typing import Annotated, Any, NewType

from msgspec import Meta

from llamactl_py.ground.errors import InvalidName, Problem
from llamactl_py.ground.fields import Rule

InstanceName = NewType("InstanceName", str)

MAX_NAME = 50
NAME_SCHEMA: dict[str, Any] = {"pattern": "^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_-])?$", "minLength": 1, "maxLength": MAX_NAME}
"""What a name of an instance is, in JSON Schema."""

_NAME = re.compile(NAME_SCHEMA["pattern"])


def instance_name(text: str) -> InstanceName:
    """Check *text*: 1 to 50 of A-Z a-z 0-9 . _ -, beginning with a letter, a digit or _, not ending with a dot.

    Raises InvalidName. (llamactl's rule, less the names that mean something to a file system or to a shell: '.', '..', '-rf'.)
    """
    if len(text) <= MAX_NAME and _NAME.fullmatch(text):
        return InstanceName(text)
    if not text:
        raise InvalidName([Problem("name", "an instance needs a name")])
    if len(text) > MAX_NAME:
        raise InvalidName([Problem("name", f"{text[:20]!r}... has {len(text)} characters; at most {MAX_NAME} are allowed")])
    allowed = "letters, digits, '.', '_' and '-', beginning with a letter, a digit or '_' and not ending with '.'"
    raise InvalidName([Problem("name", f"{text!r} is not usable: take {allowed}")])


def _group(text: str) -> None:
    try:
        if text:
            instance_name(text)
    except InvalidName as error:
        raise ValueError(error.problems[0].what) from None


GroupName = Annotated[str, Rule(_group, {"pattern": f"^$|{NAME_SCHEMA['pattern']}", "maxLength": MAX_NAME})]
"""Like an instance's name; empty means no group."""

_HIDDEN = r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
"""Control characters, and those that are not seen or turn text around: two names that look alike would not be the same."""
_A_HIDDEN_ONE = re.compile(f"[{_HIDDEN}]")


def _visible(text: str) -> None:
    if hidden := _A_HIDDEN_ONE.search(text):
        raise ValueError(
            f"holds U+{ord(hidden[0]):04X} at position {hidden.start() + 1}: control characters, and those that are not seen or "
            "turn text around, are not allowed"
        )


_VISIBLE = Rule(_visible, {"pattern": f"^[^{_HIDDEN}]+$"})

ModelName = Annotated[str, Meta(min_length=1, max_length=256), _VISIBLE]
"""What a client may put into `model`: any visible text, as servers' own model ids are paths and repository names."""

KeyName = Annotated[str, Meta(min_length=1, max_length=100), _VISIBLE]
