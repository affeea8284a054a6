"""What is said in plain lines: results on stdout, remarks on stderr, JSON; and what a terminal may be shown of what others wrote.

No rich here: most commands say a line or two, and need not wait for what draws tables.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import click

COLOURS = {"ready": "green", "starting": "yellow", "stopping": "yellow", "backoff": "red", "failed": "red", "stopped": None}

OUR_WORDS = {
    "GET /v1/models lists what there is": "llamactl ps lists what there is",
    "give the backend_type custom to run any other program, or the options alone with their backend_type": (
        "--backend custom runs any other program, and --backend TYPE takes the options alone"
    ),
}
"""What the API tells its callers to do, and how that is done with a command."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, but for tab and line feed; what reorders text; halves of characters, which cannot be written."""


def safe(text: str) -> str:
    """*text* with what could steer a terminal, or mislead who reads it, made visible: an escape becomes `\\x1b`."""
    return _UNSAFE.sub(lambda found: _visible(ord(found[0])), text)


def _visible(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def as_json(value: Any, *, on_one_line: bool = False) -> None:
    """For programs, on stdout: indented, or a line of its own."""
    import json

    text = json.dumps(value, indent=None if on_one_line else 2, ensure_ascii=False)
    # In JSON these stand in texts only; there this is another way to write the same.
    click.echo(_UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
    if on_one_line:
        sys.stdout.flush()


def out(text: str) -> None:
    """A line of the result."""
    click.echo(safe(text))


def err(text: str) -> None:
    """A line beside it."""
    click.echo(safe(text), err=True)


def complaint(text: str) -> None:
    """What went wrong, where the command goes on."""
    err(f"llamactl: {in_our_words(text)}")


def results(found: Sequence[Mapping[str, Any]], done: Callable[[Mapping[str, Any]], str], *, json: bool) -> None:
    """What became of each of several that were asked for: what *done* says of it, or its error; or all of it as JSON."""
    for result in found:
        if "error" in result:
            complaint(result["details"])
        elif not json:
            out(done(result))
    if json:
        as_json(found)


def in_our_words(text: str) -> str:
    """What the daemon said to all its clients, with the remedies that a command line has."""
    for theirs, ours in OUR_WORDS.items():
        text = text.replace(theirs, ours)
    return text


def raw(text: str, *, end: str = "") -> None:
    """What a server wrote: as it is where a program reads it, and harmless where a person does."""
    shown = safe(text) if is_watched(sys.stdout) else text.encode(errors="replace").decode()
    sys.stdout.write(shown + end)
    sys.stdout.flush()


def is_watched(stream: TextIO) -> bool:
    """Does it lead to a terminal?"""
    try:
        return stream.isatty()
    except ValueError:  # it is closed
        return False


def coloured(text: str, colour: str | None, stream: TextIO | None = None, **style: bool) -> str:
    """*text*, made harmless, in that colour where *stream* (stdout) leads to a terminal and the reader has nothing against it."""
    text = safe(text)
    if os.environ.get("NO_COLOR") or not is_watched(stream or sys.stdout):
        return text
    return click.style(text, fg=colour, **style)


def outcome(instance: Mapping[str, Any]) -> None:
    """What became of it, and why if there is a reason."""
    state = instance["state"]
    why = f": {safe(instance['reason'])}" if instance.get("reason") else ""
    click.echo(f"{safe(instance['name'])} is {coloured(state, COLOURS.get(state))}{why}")


def warnings(found: Sequence[str]) -> None:
    """What is odd, on stderr."""
    for warning in found:
        click.echo(f"{coloured('warning:', 'yellow', sys.stderr)} {safe(warning)}", err=True)


def yaml(tree: Any) -> str:
    """*tree* as YAML, in its order; what a terminal should not get is escaped."""
    import yaml as writer

    text: str = writer.safe_dump(tree, allow_unicode=True, sort_keys=False, width=100)
    if _UNSAFE.search(text):
        text = writer.safe_dump(tree, allow_unicode=False, sort_keys=False, width=100)
    return text
