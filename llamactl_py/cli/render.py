"""Everything that is drawn for people: tables, states in colour, spinners. Nothing here decides anything."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
"""Where nobody looks, nothing is folded to a width."""
err = Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS = {"ready": "green", "starting": "yellow", "stopping": "yellow", "backoff": "red", "failed": "bold red", "stopped": "dim"}


def as_json(value: Any) -> None:
    """For programs: indented, on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def state(instance: dict[str, Any]) -> str:
    """An instance's state in its colour."""
    word = instance["state"]
    return f"[{COLOURS.get(word, 'white')}]{word}[/]"


def outcome(instance: dict[str, Any]) -> None:
    """What became of it, and why if there is a reason."""
    why = f": {escape(instance['reason'])}" if instance.get("reason") else ""
    out.print(f"{escape(instance['name'])} is {state(instance)}{why}")


def age(seconds: float) -> str:
    """'5s', '12m', '3h', '9d': one unit is enough for a glance."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def instances(rows: Sequence[dict[str, Any]]) -> None:
    """The instance table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("NAME", "STATE", "SINCE", "BACKEND", "PORT", "PID", "IN FLIGHT", "RESTARTS", "WHY"):
        table.add_column(column, no_wrap=column != "WHY", overflow="fold")
    for row in rows:
        cells = (
            escape(row["name"]),
            state(row),
            age(time.time() - row["since"]),
            row["options"]["backend_type"],
            str(row.get("port", "-")),
            str(row.get("pid", "-")),
            str(row["in_flight"]),
            str(row["restarts"]),
            escape(row.get("reason", "")),
        )
        table.add_row(*cells)
    if rows:
        out.print(table)
    else:
        err.print("no instances yet; make one with: llamactl create NAME -- llama-server -m MODEL.gguf")


def keys(rows: Sequence[dict[str, Any]]) -> None:
    """The key table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "NAME", "KEY", "CREATED"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(str(row["id"]), escape(row["name"]), f"{row['prefix']}...", f"{age(time.time() - row['created_at'])} ago")
    out.print(table)


def warnings(found: Sequence[str]) -> None:
    """What is odd, on stderr."""
    for warning in found:
        err.print(f"[yellow]warning:[/] {escape(warning)}")


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while the block runs; call what it gives with a new text. Silent where nobody watches."""
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status(escape(text)) as status:
        yield lambda new: status.update(escape(new))
