"""What a configuration file says, whatever it was written in. How it is read: `yaml_file`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct, field

from llamactl_py.ground.errors import Problem

DECLARED = "declared_instances"
"""The section of the file that declares instances; all others are settings."""


class Document(Struct):
    """A file's tree, the line of each dotted name in it, and its problems, each with file and line."""

    file: Path
    tree: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
