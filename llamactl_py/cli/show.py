"""`llamactl show` and `llamactl command`: all of an instance, and what a start of it would run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.changes import changes, patch
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from llamactl_py.cli import render
else:
    render = lazily("llamactl_py.cli.render")

name_argument = click.argument("name", shell_complete=complete.instances)


@click.command(short_help="Show all of one instance.")
@name_argument
@json_option
@click.pass_obj
def show(connection: Connection, name: str, as_json: bool) -> None:
    """Show all of one instance: its state, its process, what that takes, how the last one ended, and its options as YAML."""
    client = connection.client()
    found = client.instance(name, stats=True)
    if as_json:
        say.as_json(found)
        return
    rows = list(_facts(found))
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        say.out(f"{label:<{width}}  {value}")
    say.out(f"\noptions:\n{_indented(say.yaml(found['options']))}")
    say.warnings(found.get("warnings") or [])


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "name", found["name"]
    yield "state", f"{found['state']}, for {render.age(time.time() - found['since'])}"
    if found.get("reason"):
        yield "why", " ".join(found["reason"].split())
    yield "made", _moment(found["created"])
    if found["declared"]:
        yield "declared", f"{found['declared_at']}; it is changed there"
    where = f"port {found['port']}" if found.get("port") else f"socket {found['socket']}" if found.get("socket") else ""
    if found.get("pid"):
        yield "process", f"{found['pid']}{f', {where}' if where else ''}, up {render.age(found.get('uptime_seconds') or 0)}"
    if usage := found.get("usage"):
        yield "takes", f"{render.size(usage['memory_bytes'])} of memory, {usage['cpu_seconds']:.0f} s of CPU time"
    yield "requests", f"{found['in_flight']} in flight, last used {_moment(found.get('last_used'))}"
    yield "restarts", str(found["restarts"])
    if found["restart_required"]:
        yield "changed", f"it runs with older options until: llamactl restart {found['name']}"
    if ended := found.get("last_exit"):
        yield "last end", ended["reason"]
    yield "revision", found["revision"]


def _indented(text: str) -> str:
    return "".join(f"  {line}" for line in text.splitlines(keepends=True)).rstrip("\n")


def _moment(moment: float | None) -> str:
    return datetime.fromtimestamp(moment, UTC).astimezone().isoformat(" ", "seconds") if moment else "never"


@click.command(short_help="Show the exact command that a start would run.")
@name_argument
@changes
@json_option
@click.pass_obj
def command(
    connection: Connection, name: str, set_: tuple[str, ...], set_from: tuple[str, ...], unset: tuple[str, ...], as_json: bool
) -> None:
    """Show the exact command that a start of an instance would run, ready to be pasted into a shell.

    With --set and --unset: as it would be with these options; nothing is stored. Directory, log, address and the names of its
    variables are told on stderr. Exit code 1 when a start would fail as things are; stderr says why.
    """
    client = connection.client()
    wanted = patch(set_, set_from, unset)
    found = client.try_patch(name, wanted) if wanted else client.command(name)
    if as_json:
        say.as_json(found)
    else:
        say.raw(found["shell"], end="\n")
        _tell_surroundings(found)
    say.warnings(found.get("warnings") or [])
    for problem in found.get("problems") or ():
        say.complaint(f"a start would fail: {problem}")
    sys.exit(1 if found.get("problems") else 0)


def _tell_surroundings(found: Mapping[str, Any]) -> None:
    address = found.get("socket") or f"port {found.get('port', '-')}"
    settled = "" if found["port_is_settled"] else " (another one, if that is taken by then)"
    for label, value in (
        ("directory", found["directory"]),
        ("log", found["log"]),
        ("listens on", f"{address}{settled if found.get('port') else ''}"),
        ("variables", ", ".join(sorted(found["environment"])) or "none"),
    ):
        say.err(f"{label + ':':<11} {value}")
