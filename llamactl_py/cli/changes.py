"""`--set NAME=VALUE`, `--set-from NAME=FILE` and `--unset NAME`: changes of options on the command line, as a merge patch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def changes(command: Command) -> Command:
    """The options; *command* gets set_, set_from and unset."""
    options = (
        click.option(
            "--set",
            "set_",
            multiple=True,
            metavar="NAME=VALUE",
            help="Give an option a value, as in idle_timeout=1h or backend_options.ctx_size=8192; may be repeated.",
        ),
        click.option(
            "--set-from",
            multiple=True,
            metavar="NAME=FILE",
            help="Give it the text of a file (- reads stdin): for secrets, which other users can read on a command line.",
        ),
        click.option("--unset", multiple=True, metavar="NAME", help="Have an option take its default again; may be repeated."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def patch(set_: Sequence[str], set_from: Sequence[str], unset: Sequence[str]) -> dict[str, Any]:
    """What they say, as a merge patch. Raises UsageError."""
    tree: dict[str, Any] = {}
    for text in set_:
        name, value = _split("--set", text, "VALUE")
        _put(tree, name, _value(name, value))
    for text in set_from:
        name, file = _split("--set-from", text, "FILE")
        _put(tree, name, _text(file))
    for name in unset:
        _put(tree, name, None)
    return tree


def _split(option: str, text: str, what: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError(f"{option} {name!r} is not NAME={what}")
    return name, value


def _value(name: str, text: str) -> Any:
    """JSON where it is that, lists in YAML's short form, else the text itself; a variable of the environment always is text."""
    if name.startswith("environment."):
        return text
    try:
        return json.loads(text)
    except ValueError:
        pass
    if not text.startswith(("[", "{")):
        return text
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise click.UsageError(f"--set {name}: {text!r} is neither JSON nor a list or mapping of YAML") from None


def _put(tree: dict[str, Any], name: str, value: Any) -> None:
    *parents, last = name.split(".", 1) if name.startswith("environment.") else name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise click.UsageError(f"{name} cannot be changed together with {parent} as a whole")
    if last in tree:
        raise click.UsageError(f"{name} is changed twice")
    tree[last] = value


def _text(file: str) -> str:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(f"--set-from {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return text.removesuffix("\n")
