"""Everything that is drawn for people: tables, states in colour, spinners. Nothing here decides anything."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich import markup
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from llamactl_py.cli import say

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
"""Where nobody looks, nothing is folded to a width."""
err = Console(stderr=True, highlight=False, soft_wrap=True)

COLOURS = {"ready": "green", "starting": "yellow", "stopping": "yellow", "backoff": "red", "failed": "bold red", "stopped": "dim"}

LESS_IMPORTANT = ("IN FLIGHT", "RESTARTS", "BACKEND", "SINCE")
"""Columns that a narrow terminal does without, first one first; the reason then has a line of its own."""


def escape(text: str) -> str:
    """*text* for our markup: what looks like markup is none, and what could steer the terminal is made visible."""
    return markup.escape(say.safe(text))


def state(instance: dict[str, Any]) -> str:
    """An instance's state in its colour."""
    word = instance["state"]
    return f"[{COLOURS.get(word, 'white')}]{word}[/]"


def age(seconds: float) -> str:
    """'5s', '12m', '3h', '9d': one unit is enough for a glance."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def time_left(seconds: float) -> str:
    """As `age`, but for the last hundredth of a unit: a second after they were set, 30 days are not 29."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 0.99 * size:
            return f"{seconds // size + (seconds % size >= 0.99 * size):.0f}{unit}"
    return f"{seconds:.0f}s"


def size(count: int) -> str:
    """Bytes as '512 MiB' or '7.4 GiB'."""
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.0f} MiB"


def instances(rows: Sequence[dict[str, Any]]) -> None:
    """The instance table."""
    if not rows:
        err.print("no instances yet; make one with: llamactl create NAME -- llama-server -m MODEL.gguf")
        return
    for line in instance_lines(rows):
        out.print(line, soft_wrap=isinstance(line, Text))


def instance_lines(rows: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """The lines of that table: a header, then each instance, and its reason on lines of its own where there is no room."""
    columns = {
        "NAME": [escape(row["name"]) for row in rows],
        "STATE": [state(row) for row in rows],
        "SINCE": [age(time.time() - row["since"]) for row in rows],
        "BACKEND": [row["options"]["backend_type"] for row in rows],
        "PORT": [str(row.get("port") or ("socket" if row.get("socket") else "-")) for row in rows],
        "PID": [str(row.get("pid", "-")) for row in rows],
        "IN FLIGHT": [str(row["in_flight"]) for row in rows],
        "RESTARTS": [str(row["restarts"]) for row in rows],
        "WHY": [escape(" ".join(row.get("reason", "").split())) for row in rows],
    }
    why = columns["WHY"]
    if is_apart := _width(columns) > out.width:
        del columns["WHY"]
    header, *lines = fitting(columns, LESS_IMPORTANT)
    found: list[RenderableType] = [header]
    for line, reason in zip(lines, why, strict=True):
        found.append(line)
        if is_apart and reason:
            found.append(Padding(Text.from_markup(reason, overflow="fold"), (0, 0, 0, 2), expand=False))
    return found


def fitting(columns: Mapping[str, Sequence[str]], less_important: Sequence[str]) -> list[Text]:
    """The lines of *columns*, without as many of those that matter less as the width asks for."""
    left = dict(columns)
    for name in less_important:
        if _width(left) > out.width:
            del left[name]
    return lines_of(left)


def lines_of(columns: Mapping[str, Sequence[str]]) -> list[Text]:
    """A header and the rows of *columns*, cells in markup; no blanks behind the last word of a line."""
    lines = [Text() for _ in range(1 + max(map(len, columns.values()), default=0))]
    for name, cells in columns.items():
        texts = [Text(name, "bold"), *map(Text.from_markup, cells)]
        width = max(text.cell_len for text in texts)
        for line, text in zip(lines, texts, strict=True):
            line.append_text(text).append(" " * (width - text.cell_len + 2))
    for line in lines:
        line.rstrip()
    return lines


def _width(columns: Mapping[str, Sequence[str]]) -> int:
    return max(line.cell_len for line in lines_of(columns))


def keys(rows: Sequence[dict[str, Any]]) -> None:
    """The key table."""
    columns = {
        "ID": [str(row["id"]) for row in rows],
        "NAME": [escape(row["name"]) for row in rows],
        "KEY": [f"{row['prefix']}..." for row in rows],
        "OPENS": [escape(_opened(row)) for row in rows],
        "EXPIRES": [_expiry(row) for row in rows],
        "LAST USED": [_ago(row["last_used_at"]) for row in rows],
        "CREATED": [_ago(row["created_at"]) for row in rows],
    }
    for line in lines_of(columns):
        out.print(line)


def key(row: dict[str, Any]) -> None:
    """All of one key, a line for each thing."""
    told = {
        "id": str(row["id"]),
        "name": escape(row["name"]),
        "key": f"{row['prefix']}...",
        "opens": escape(_opened(row)),
        "expires": _moment(row["expires_at"]),
        "last used": _moment(row["last_used_at"]),
        "created": _moment(row["created_at"]),
        "changed": _moment(row["updated_at"]),
    }
    for name, value in told.items():
        out.print(f"{name:<10} {value}")


def _opened(row: dict[str, Any]) -> str:
    """What a key opens, in words."""
    if row["scope"] != "inference":
        return {"read": "management, to look at", "management": "everything"}[row["scope"]]
    some = [*row["instances"], *(f"group {group}" for group in row["groups"])]
    which = "all instances" if row["permission_mode"] == "allow_all" else ", ".join(some) or "no instance any more"
    without = [word for word, may in (("start", row["may_start"]), ("evict", row["may_evict"])) if not may]
    return which + (f" (may not {' or '.join(without)})" if without else "")


def _expiry(row: dict[str, Any]) -> str:
    if row["expires_at"] is None:
        return "never"
    left = row["expires_at"] - time.time()
    return f"in {time_left(left)}" if left > 0 else "[red]expired[/]"


def _ago(moment: int | None) -> str:
    return f"{age(time.time() - moment)} ago" if moment else "never"


def _moment(moment: int | None) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().isoformat(" ", "seconds") if moment else "never"


def backends(rows: Sequence[dict[str, Any]]) -> None:
    """The table of servers; how to install one that is not found stands below it."""
    columns = {
        "TYPE": [row["slug"] for row in rows],
        "FOUND": ["[green]yes[/]" if row["found"] else "[dim]no[/]" for row in rows],
        "VERSION": [escape(row.get("version", "-")) for row in rows],
        "PATH": [escape(row.get("path") or " ".join(row["command"])) for row in rows],
        "NOTE": [escape(row.get("note", "")) for row in rows],
    }
    if not any(columns["NOTE"]):
        del columns["NOTE"]
    for line in lines_of(columns):
        out.print(line)
    for row in rows:
        if not row["found"]:
            out.print(f"[bold]{row['slug']}[/]: {escape(row['install'])}")


def backend(found: dict[str, Any]) -> None:
    """One server: what is known of it, and how it differs from what we describe."""
    kind = found["slug"] if found["slug"] == found["type"] else f"{found['slug']}, in options {found['type']}"
    out.print(f"[bold]{escape(found['title'])}[/] ({kind})")
    out.print(f"command: {escape(' '.join(found['command']))}")
    if found["found"]:
        out.print(f"path:    {escape(found.get('path', '-'))}")
        out.print(f"version: {escape(found.get('version', 'not known'))}; options are described for {found['options_version']}")
    else:
        out.print(f"[bold red]not found[/]; {escape(found['install'])}")
        out.print(f"looked for in: {escape(', '.join(found.get('searched', [])))}")
    if found.get("note"):
        out.print(f"note:    {escape(found['note'])}")
    for title, key in (("takes, and we do not describe", "new_flags"), ("does not take", "missing_flags")):
        if found.get(key):
            out.print(f"[bold]{title}:[/]")
        for flag in found.get(key) or ():
            instead = f" [yellow](use {escape(flag['instead'])})[/]" if flag.get("instead") else ""
            out.print(f"  {escape(', '.join(flag['flags']))}{instead}  [dim]{escape(flag['help'])}[/]")


def plain(value: Any) -> str:
    """A value as one writes it into a YAML file, on one line."""
    if value is None:
        return "unset"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def settings(rows: Sequence[tuple[str, str, str]]) -> None:
    """Settings with their values and origins; what is not a default stands out."""
    bold = [("[bold]", "[/]") if origin != "default" else ("", "") for _, _, origin in rows]
    columns = {
        "SETTING": [f"{on}{escape(name)}{off}" for (name, _, _), (on, off) in zip(rows, bold, strict=True)],
        "VALUE": [f"{on}{escape(value)}{off}" for (_, value, _), (on, off) in zip(rows, bold, strict=True)],
        "SAID BY": [escape(origin) if origin != "default" else "[dim]default[/]" for _, _, origin in rows],
    }
    for line in lines_of(columns):
        out.print(line)


def places(rows: Sequence[tuple[str, str]]) -> None:
    """Files and what became of them."""
    for line in lines_of({"FILE": [escape(file) for file, _ in rows], "IS": [escape(what) for _, what in rows]}):
        out.print(line)


@contextmanager
def spinner(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr while the block runs; call what it gives with a new text. Silent where nobody watches."""
    if not err.is_terminal:
        yield lambda _: None
        return
    with err.status(escape(text)) as status:
        yield lambda new: status.update(escape(new))
