"""`llamactl top`: what each instance takes of the machine, and what it does."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.ground.importing import lazily

if TYPE_CHECKING:
    from rich.text import Text

    from llamactl_py.cli import render
    from llamactl_py.client import Client
else:
    render = lazily("llamactl_py.cli.render")

RECENT = 200
"""Requests that are looked through for the newest speed of each instance."""
SETTLING = 1.1
"""Seconds between two measurements that a share of CPU time needs; the daemon measures once a second."""
LESS_IMPORTANT = ("GROUP", "REQUESTS", "TOKENS", "CPU")
Row = dict[str, Any]


@click.command(short_help="Show what the instances take and do.")
@click.option("--group", metavar="NAME", help="Only those of this group.", shell_complete=complete.groups)
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many times. [default: 1 where nobody watches]")
@click.option("-d", "--delay", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds between two times.")
@json_option
@click.pass_obj
def top(connection: Connection, group: str | None, count: int | None, delay: float, as_json: bool) -> None:
    """Show memory, CPU, requests and tokens of the instances, again and again until q or Ctrl-C.

    CPU is of one core, and of all processes of an instance. TOK/S is the speed of its newest answer; REQUESTS and TOKENS
    (generated ones) count since the daemon started.
    """
    client = connection.client()
    look = _Look(client, {"group": group} if group is not None else {})
    if as_json or count == 1 or not say.is_watched(sys.stdout):
        look.settle()
        for number in range(count or 1):
            time.sleep(delay if number else 0)
            _print(look, as_json, is_first=not number, one_line=(count or 1) > 1)
        return
    from llamactl_py.cli.watch import listening, on_screen

    with listening() as is_ended, on_screen() as show:
        shown = 0
        while (count is None or shown < count) and not (shown and is_ended(delay)):
            show(*look.lines())
            shown += 1


def _print(look: _Look, as_json: bool, *, is_first: bool, one_line: bool) -> None:
    if as_json:
        say.as_json(look.now(), on_one_line=one_line)
        return
    if not is_first:
        click.echo()
    for line in look.lines():
        render.out.print(line)
    sys.stdout.flush()


class _Look:
    """What the daemon tells, put together; it remembers speeds that are not among the newest requests any more."""

    def __init__(self, client: Client, query: dict[str, str]) -> None:
        self._client, self._query = client, query
        self._speeds: dict[str, float] = {}

    def settle(self) -> None:
        """Have the daemon measure twice, where a share of CPU time would be missing."""
        rows = self._client.instances(stats="true", **self._query)
        if any("cpu_percent" not in row["usage"] for row in rows if row.get("usage")):
            time.sleep(SETTLING)

    def now(self) -> dict[str, Any]:
        """instances and usage as the API has them, and tokens_per_second of the newest answer by instance."""
        rows = self._client.instances(stats="true", **self._query)
        for request in reversed(self._client.requests(limit=RECENT)):
            if speed := request.get("completion_tokens_per_second"):
                self._speeds[request["instance"]] = speed
        names = {row["name"] for row in rows}
        speeds = {name: speed for name, speed in self._speeds.items() if name in names}
        return {"instances": rows, "usage": self._client.usage(), "tokens_per_second": speeds}

    def lines(self) -> Sequence[Text]:
        """A line of sums, a header, and a line for each instance."""
        from rich.text import Text

        now = self.now()
        rows: list[Row] = now["instances"]
        totals = {one["name"]: one for one in now["usage"]["instances"]}
        columns = {
            "NAME": [render.escape(row["name"]) for row in rows],
            "STATE": [render.state(row) for row in rows],
            "GROUP": [render.escape(row["options"].get("group", "-")) for row in rows],
            "MEMORY": [render.size(row["usage"]["memory_bytes"]) if row.get("usage") else "-" for row in rows],
            "CPU": [_percent(row.get("usage", {}).get("cpu_percent")) for row in rows],
            "IN FLIGHT": [str(row["in_flight"]) for row in rows],
            "TOK/S": [_speed(now["tokens_per_second"].get(row["name"])) for row in rows],
            "REQUESTS": [str(totals.get(row["name"], {}).get("requests", 0)) for row in rows],
            "TOKENS": [str(totals.get(row["name"], {}).get("completion_tokens", 0)) for row in rows],
        }
        return [Text(_sums(rows, now["usage"]["total"])), *render.fitting(columns, LESS_IMPORTANT)]


def _sums(rows: Sequence[Row], total: Row) -> str:
    up = sum(1 for row in rows if row.get("pid"))
    memory = sum(row["usage"]["memory_bytes"] for row in rows if row.get("usage"))
    told = f"{len(rows)} instances, {up} up, {render.size(memory)}, {sum(row['in_flight'] for row in rows)} requests in flight"
    return f"{told}; in all {total['requests']} requests, {total['completion_tokens']} tokens"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def _speed(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
