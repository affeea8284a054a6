"""start, stop, restart and rm: of some instances, of a group, of all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from llamactl_py.cli import complete, say
from llamactl_py.cli.acting import act, hint_at_all
from llamactl_py.cli.main import Connection, json_option
from llamactl_py.client import Client, Refused
from llamactl_py.ground import durations

Command = TypeVar("Command", bound=Callable[..., Any])


def which(command: Command) -> Command:
    """The arguments that say which instances."""
    options = (
        click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete.instances),
        click.option("--group", metavar="NAME", help="Those of this group.", shell_complete=complete.groups),
        click.option("--all", "for_all", is_flag=True, help="Every instance."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """'90', '90s', '5m' as seconds."""
    if value is None:
        return None
    try:
        return durations.parse(float(value) if value.isdecimal() else value, 1.0)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no length of time; write 90s or 5m", ctx, param) from None


def waiting(command: Command) -> Command:
    """The options that say for what the command waits, and for how long."""
    options = (
        click.option("--wait/--no-wait", default=True, help="Wait until it is done. [default: --wait]"),
        click.option(
            "--timeout", metavar="TIME", callback=seconds, help="Wait no longer than this, as in 90s or 5m. [default: no limit]"
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def chosen(client: Client, names: Sequence[str], group: str | None, for_all: bool) -> list[str]:
    """The names that are meant. Raises UsageError unless exactly one way to say it was taken, and Refused for an empty group."""
    ways = [way for way, given in (("NAME", names), ("--group", group is not None), ("--all", for_all)) if given]
    if len(ways) != 1:
        said = f"{' and '.join(ways)} exclude each other" if ways else "which? Give names, --group NAME, or --all"
        raise click.UsageError(said)
    if names:
        return list(dict.fromkeys(names))
    found = [row["name"] for row in (client.instances(group=group) if group is not None else client.instances())]
    if not found:
        if group:
            raise Refused(404, "not_found", f"no instance is in a group named {group!r}")
        say.err("there are no instances")
    return found


@click.command(short_help="Start instances and wait until they are ready.")
@which
@waiting
@json_option
@click.pass_obj
def start(connection: Connection, /, **given: Any) -> None:
    """Start instances and wait until they are ready."""
    _act(connection, "start", **given)


@click.command(short_help="Stop instances.")
@which
@waiting
@json_option
@click.pass_obj
def stop(connection: Connection, /, **given: Any) -> None:
    """Stop instances.

    Requests in flight may finish first. Returns when no process of them is left.
    """
    _act(connection, "stop", **given)


@click.command(short_help="Restart instances and wait until they are ready.")
@which
@waiting
@json_option
@click.pass_obj
def restart(connection: Connection, /, **given: Any) -> None:
    """Restart instances, with their newest options, and wait until they are ready."""
    _act(connection, "restart", **given)


def _act(
    connection: Connection,
    action: str,
    names: tuple[str, ...],
    group: str | None,
    for_all: bool,
    wait: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    client = connection.client()
    wanted = chosen(client, names, group, for_all)
    done = act(client, action, wanted, wait=wait, timeout=timeout)
    rows = [done.rows[name] for name in wanted if name in done.rows]
    done.tell_refusals()
    if as_json:
        say.as_json(rows)
    else:
        for row in rows:
            say.outcome(row)
    done.tell_sum()
    sys.exit(done.code)


@click.command(short_help="Delete instances and their logs.")
@which
@click.option("-f", "--force", is_flag=True, help="Stop those that are up first.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask, where it is about more than one.")
@json_option
@click.pass_obj
def rm(
    connection: Connection,
    names: tuple[str, ...],
    group: str | None,
    for_all: bool,
    force: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete instances and their logs.

    More than one, a group, or all: only after a question, or with --yes.
    """
    client = connection.client()
    wanted = chosen(client, names, group, for_all)
    if wanted and not yes and (len(wanted) > 1 or not names):
        _ask(wanted)
    if force:
        declared = {row["name"] for row in client.instances() if row["declared"]}  # these stay, and so keep running
        act(client, "stop", [name for name in wanted if name not in declared])
    results = [_delete(client, name, force) for name in wanted]
    bad = [result["name"] for result in results if "error" in result]
    say.results(results, lambda result: f"{result['name']} is deleted", json=as_json)
    if bad and len(wanted) > 1:
        say.complaint(f"rm: {len(wanted) - len(bad)} of {len(wanted)} done; not {', '.join(bad)}")
    sys.exit(4 if bad else 0)


def _ask(names: Sequence[str]) -> None:
    """Raises UsageError where nobody can be asked; ends the command after a no."""
    if not say.is_watched(sys.stdin):
        raise click.UsageError(f"{len(names)} instances would be deleted, and nobody can be asked: add --yes")
    some = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    if not click.confirm(f"Delete {say.safe(some)}, and the logs?", err=True):
        say.err("nothing was deleted")
        sys.exit(1)


def _delete(client: Client, name: str, force: bool) -> dict[str, Any]:
    """Delete it; what became of it, in the form that the API has for one of several."""
    try:
        client.delete(name, force=force)
    except Refused as error:
        said = str(error).removesuffix(", or delete it with force")
        remedy = f", or: llamactl rm -f {name}" if error.code == "conflict" else ""
        return {
            "name": name,
            "http_status": error.status,
            "error": error.code,
            "details": said + remedy + hint_at_all(name, said),
        }
    return {"name": name, "http_status": 204}
