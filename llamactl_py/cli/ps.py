"""`llamactl ps`: the instances, once or for as long as one looks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from llamactl_py.cli import render
    from llamactl_py.client import Client
else:
    render = lazily("llamactl_py.cli.render")

REFRESH = 5.0
"""Seconds after which it is drawn again though nothing was told: times pass, and requests come."""


@click.command(short_help="List the instances.")
@click.option("--group", metavar="NAME", help="Only those of this group.", shell_complete=complete.groups)
@click.option(
    "--status", metavar="WORDS", help="Only those in these states, as in ready,starting.", shell_complete=complete.states
)
@click.option("-w", "--watch", is_flag=True, help="Go on, and show each change. Ctrl-C ends it.")
@json_option
@click.pass_obj
def ps(connection: Connection, group: str | None, status: str | None, watch: bool, as_json: bool) -> None:
    """List the instances.

    With --watch a terminal shows the list as it changes. Where a program reads, each change is another list after an empty
    line, or with --json another line.
    """
    client = connection.client()
    query: dict[str, str | int] = {name: word for name, word in (("group", group), ("status", status)) if word is not None}
    if watch:
        _watch(client, query, as_json)
        return
    found = client.instances(**query)
    if as_json:
        say.as_json(found)
    elif found or not query:
        render.instances(found)
    else:
        say.err(f"no instance is like that: {', '.join(f'{name} {word}' for name, word in query.items())}")


def _watch(client: Client, query: dict[str, str | int], as_json: bool) -> None:
    from llamactl_py.cli.watch import changes, on_screen

    if say.is_watched(sys.stdout) and not as_json:
        with on_screen() as show:
            for _ in changes(client, REFRESH):
                show(*render.instance_lines(client.instances(**query)))
        return
    last: list[Any] = []
    for kind in changes(client, REFRESH):
        found = client.instances(**query)
        seen = [(row["name"], row["state"], row["revision"], row.get("pid")) for row in found]
        if kind == "tick" and seen == last:
            continue
        if as_json:
            say.as_json(found, on_one_line=True)
        else:
            _print(found, is_first=not last)
        last = seen


def _print(found: list[dict[str, Any]], *, is_first: bool) -> None:
    if not is_first:
        click.echo()
    render.instances(found)
    sys.stdout.flush()
